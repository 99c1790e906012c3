// Keeps the page fresh while it is looked at; without it the page is as readable, only still.
"use strict";
const EVERY = 5000;
let seen = Date.now();

async function refresh() {
  if (document.hidden) return;
  const stale = document.getElementById("stale");
  const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  seen = Date.now();
  stale.hidden = true;
  // Who selects text or walks by keyboard keeps the place.
  const live = document.getElementById("live");
  if (!getSelection().isCollapsed || live.contains(document.activeElement)) return;
  const scrolled = [...live.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
  for (const part of ["header .name", "#live", "footer"]) {
    document.querySelector(part).replaceWith(document.importNode(fresh.querySelector(part), true));
  }
  document.querySelectorAll("#live .scroll").forEach((part, i) => { part.scrollLeft = scrolled[i] ?? 0; });
  document.title = fresh.title;
}

function failed() {
  const stale = document.getElementById("stale");
  stale.textContent = `No answer for ${Math.round((Date.now() - seen) / 1000)} s: what you see is old`;
  stale.hidden = false;
}

setInterval(() => refresh().catch(failed), EVERY);
document.addEventListener("visibilitychange", () => refresh().catch(failed));
