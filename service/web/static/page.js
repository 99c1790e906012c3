// Keeps a page fresh while it is looked at and carries out the operator's acts; without it the page is as readable, still.
"use strict";
const EVERY = 5000;
const WHILE_ACTIVE = 1500;
const TOKEN = "infra-health-token";
const stale = document.getElementById("stale");
const isTv = document.body.classList.contains("tv");
let drawn = Date.now();   // when what is shown was true, by this clock
let ahead = 0;            // how far the daemon's clock is ahead of this one
let cost = 0;             // how long a redraw takes
let timer = 0;
let busy = false;

// Reading

// Whether the next look is due soon: something runs, or the page, which the daemon renders once a second, is behind.
async function look() {
  const state = await (await answered("/api/v1/state")).json();
  ahead = new Date(state.now) - Date.now();
  // The page may be a second older than the state: it says itself which revision it shows.
  if (state.revision === document.getElementById("live").dataset.revision) {
    drawn = Date.now();
    for (const each of document.querySelectorAll(".as-of time")) put(each, state.now.slice(11, 19));
  } else if (Date.now() - drawn >= 20 * cost) {  // a page of a thousand collectors is not drawn anew each time
    await redraw();
  }
  stale.hidden = true;
  return state.active.length > 0 || state.revision !== document.getElementById("live").dataset.revision;
}

async function answered(address) {
  const answer = await fetch(address, { cache: "no-store", headers: credentials(), signal: AbortSignal.timeout(2 * EVERY) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer;
}

async function redraw() {
  const begun = performance.now();
  const text = await (await answered(location.href)).text();
  drawn = Date.now();
  // Who selects text or answers a question keeps what they do it with.
  if (!getSelection().isCollapsed || document.querySelector("dialog[open]")) return;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const live = document.getElementById("live");
  const opened = [...live.querySelectorAll("details[open]")].map((each) => each.id);
  const scrolled = [...live.querySelectorAll("[tabindex]")].map((each) => each.scrollLeft);
  const focused = live.contains(document.activeElement) ? trace(document.activeElement) : null;
  for (const part of ["header .name", "header .as-of", "#live"]) {
    const [before, after] = [document.querySelector(part), fresh.querySelector(part)];
    if (before && after) before.replaceWith(document.importNode(after, true));
  }
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  document.querySelectorAll("#live [tabindex]").forEach((each, i) => { each.scrollLeft = scrolled[i] ?? 0; });
  if (focused) retrace(focused)?.focus({ preventScroll: true });
  document.title = fresh.title;
  cost = performance.now() - begun;
  tick();
}

// An element by what it is, as the fresh page holds another one in its place.
function trace(element) {
  const alike = [...document.querySelectorAll(`#live ${element.localName}`)].filter((each) => same(each, element));
  return { element, at: alike.indexOf(element) };
}

function retrace({ element, at }) {
  if (element.id) return document.getElementById(element.id);
  return [...document.querySelectorAll(`#live ${element.localName}`)].filter((each) => same(each, element))[at];
}

function same(one, other) {
  return one.getAttribute("href") === other.getAttribute("href") && one.textContent === other.textContent;
}

function failed() {
  const seconds = Math.round((Date.now() - drawn) / 1000);
  if (seconds < (isTv ? 15 : 6)) return;
  stale.textContent = isTv ? `Old: no answer for ${span(seconds)}` : `No answer for ${span(seconds)}: what you see is old`;
  stale.hidden = false;
}

async function beat() {
  clearTimeout(timer);
  let pause = EVERY;
  if (!busy && (!document.hidden || isTv)) {
    busy = true;
    try {
      if (await look()) pause = WHILE_ACTIVE;
    } catch {
      failed();
    } finally {
      busy = false;
    }
  }
  clearTimeout(timer);
  timer = setTimeout(beat, pause);
}

// Times

function span(seconds) {
  const whole = Math.round(Math.abs(seconds));
  for (const [size, unit, lesser, name] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / lesser);
      return rest ? `${Math.floor(whole / size)} ${unit} ${rest} ${name}` : `${Math.floor(whole / size)} ${unit}`;
    }
  }
  return `${whole} s`;
}

function took(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds);
}

function relative(seconds) {
  const whole = Math.round(Math.abs(seconds));
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([size]) => whole >= size) ?? [1, "s"];
  if (whole < 1) return "now";
  const count = `${Math.floor(whole / size)} ${unit}`;
  return seconds > 0 ? `in ${count}` : `${count} ago`;
}

function tick() {
  const now = Date.now() + ahead;
  for (const each of document.querySelectorAll("[data-time]")) {
    const left = (new Date(each.dataset.time || each.dateTime) - now) / 1000;
    if (!each.classList.contains("countdown")) put(each, relative(left));
    else put(each, left > 0.5 ? `in ${span(left)}` : "due now");
  }
  for (const each of document.querySelectorAll("[data-up]")) put(each, `up ${span((now - new Date(each.dataset.up)) / 1000)}`);
  for (const each of document.querySelectorAll(".clock time")) put(each, new Date(now).toISOString().slice(11, 16));
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Acts

const said = document.getElementById("said");
let silence = 0;

function credentials() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { authorization: `Bearer ${token}` } : {};
}

// Whether the dialog was confirmed.
function confirmed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

async function ask(why) {
  const field = document.getElementById("token");
  const reason = document.getElementById("ask-why");
  reason.textContent = why;
  reason.hidden = !why;
  field.value = "";
  const token = await confirmed(document.getElementById("ask")) ? field.value.trim() : "";
  field.value = "";
  if (token) sessionStorage.setItem(TOKEN, token);
  return Boolean(token);
}

// What the caller says of the act, null when they think better of it.
async function explained(title, act) {
  const [reason, actor] = ["reason", "actor"].map((id) => document.getElementById(id));
  document.getElementById("why-title").textContent = title;
  document.getElementById("why-ok").textContent = act;
  reason.value = "";
  if (!await confirmed(document.getElementById("why"))) return null;
  return { actor: actor.value.trim() || "page", reason: reason.value.trim() };
}

async function call(address, { actor, reason }) {
  if (document.body.dataset.writes === "token" && !sessionStorage.getItem(TOKEN) && !await ask("")) return null;
  const name = String.fromCharCode(...new TextEncoder().encode(actor));  // a header is bytes, one a letter
  for (;;) {
    const headers = { "x-actor": name, "content-type": "application/json", ...credentials() };
    const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify({ reason }) });
    if (answer.status !== 401) return answer;
    sessionStorage.removeItem(TOKEN);
    if (!await ask("This was not the token.")) return null;
  }
}

function say(text, tone, link) {
  clearTimeout(silence);
  if (tone !== "busy") silence = setTimeout(() => said.replaceChildren(), 15000);
  said.className = tone;
  said.textContent = text;
  if (link) {
    const anchor = document.createElement("a");
    anchor.href = `/runs/${encodeURIComponent(link)}`;
    anchor.textContent = link;
    said.append(" ", anchor);
  }
}

async function act(button) {
  const name = button.parentElement.dataset.collector;
  const does = button.dataset.does;
  const said = does === "resume" ? { actor: "page", reason: "" } : await explained(`${button.getAttribute("aria-label")}?`, button.textContent);
  const answer = said && await call(button.dataset.call, said);
  if (!answer) return;
  const body = await answer.json();
  if (answer.status === 409) say(`${name} is running already:`, "warn", body.run ?? answer.headers.get("location")?.split("/").pop());
  else if (!answer.ok) say(`${name}: ${body.detail}`, "bad");
  else if (does === "run") await follow(name, body.id);
  else say(`${name} is ${does === "pause" ? "paused" : "resumed"}`, "good");
  cost = 0;
  await beat();
}

async function follow(name, id) {
  say(`${name} runs:`, "busy", id);
  cost = 0;
  beat();
  let run;
  do {
    await new Promise((resolve) => setTimeout(resolve, 400));
    run = await (await answered(`/api/v1/runs/${encodeURIComponent(id)}`)).json();
  } while (!run.ended);
  const tone = { Complete: "good", Partial: "warn" }[run.outcome] ?? "bad";
  say(`${name} ended ${run.outcome} in ${took(run.duration)} with ${run.samples} samples:`, tone, id);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-call]");
  if (!button || button.disabled || button.getAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true");
  act(button)
    .catch((error) => say(`No answer: ${error.message}`, "bad"))
    .finally(() => button.removeAttribute("aria-busy"));
});

// What is searched for stands in the address, so that a link keeps it.
const search = document.getElementById("search");
search?.addEventListener("change", () => search.requestSubmit());
search?.addEventListener("submit", (event) => {
  event.preventDefault();
  const filled = [...new FormData(search)].filter(([, value]) => value);
  location.search = new URLSearchParams(filled);
});

document.body.classList.add("script");
document.addEventListener("visibilitychange", () => { if (!document.hidden) beat(); });
tick();
setInterval(tick, 1000);
timer = setTimeout(beat, 500);
