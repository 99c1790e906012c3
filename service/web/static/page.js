// Keeps a page fresh while it is looked at and carries out the operator's acts; without it the page is as readable, still.
"use strict";
const EVERY = 5000;
const WHILE_ACTIVE = 1500;
const TOKEN = "infra-health-token";
const LOCAL = "infra-health-local-times";
const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const zone = localStorage.getItem(LOCAL) ? ownZone : "UTC";
const stale = document.getElementById("stale");
const isTv = document.body.classList.contains("tv");
let drawn = Date.now();   // when what is shown was true, by this clock
let ahead = Date.parse(document.querySelector("header time")?.dateTime) - drawn || 0;  // how far the daemon's clock is ahead of this one
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
    for (const each of document.querySelectorAll(".as-of time")) put(each, stamp(Date.parse(state.now)).slice(11, 19));
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
  localise(fresh);
  tick(fresh);
  for (const part of ["header .name", "header .as-of", "#live"]) {
    const [before, after] = [document.querySelector(part), fresh.querySelector(part)];
    if (before && after) morph(before, after);
  }
  document.title = fresh.title;
  cost = performance.now() - begun;
  document.dispatchEvent(new Event("redrawn"));
}

// By what an element is known among its neighbours, empty for none.
function key(node) {
  return node.id || node.getAttribute?.("href") || "";
}

// Makes an element as the fresh one is, by what has changed alone: what has the focus, is open or scrolled stays so.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const wanted = new Set([...fresh.childNodes].map(key));
  for (const each of [...old.childNodes]) if (key(each) && !wanted.has(key(each))) each.remove();
  const known = new Map([...old.childNodes].filter(key).map((each) => [key(each), each]));
  let place = old.firstChild;
  const skip = () => { while (place?.dataset && "keep" in place.dataset) place = place.nextSibling; };
  for (const each of [...fresh.childNodes]) {
    skip();
    const name = key(each);
    const like = name ? known.get(name) : place && !key(place) && place.nodeName === each.nodeName ? place : null;
    known.delete(name);
    if (!like) old.insertBefore(document.importNode(each, true), place);
    else if (like !== place) old.insertBefore(like, place);
    else place = place.nextSibling;
    if (like?.nodeType === Node.ELEMENT_NODE) morph(like, each);
    else if (like && like.nodeValue !== each.nodeValue) like.nodeValue = each.nodeValue;
  }
  for (skip(); place; skip()) {
    const rest = place;
    place = place.nextSibling;
    rest.remove();
  }
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

// An instant (in milliseconds) as times are written here, in the reader's zone: 2026-11-28 12:40:31.019
function stamp(at) {
  const shift = zone === "UTC" ? 0 : new Date(at).getTimezoneOffset() * 60000;
  return new Date(at - shift).toISOString().replace("T", " ").slice(0, 23);
}

// What the server writes, which is UTC, in the reader's zone.
function localise(root) {
  if (zone === "UTC") return;
  for (const each of root.querySelectorAll("time")) {
    const length = each.textContent.length;
    const full = stamp(Date.parse(each.dateTime));
    each.textContent = length < 16 ? full.slice(11, 11 + length) : full.slice(0, length);
  }
  const write = (text) => text.replace(/(\d{4}-\d\d-\d\d) (\d\d:\d\d)(:\d\d)? UTC/g, (_, day, minute, second = "") =>
    `${stamp(Date.parse(`${day}T${minute}${second || ":00"}Z`)).slice(0, second ? 19 : 16)} ${zone}`);
  for (const each of root.querySelectorAll("[title]")) each.title = write(each.title);
  for (const each of root.querySelectorAll(".zone")) each.textContent = zone;
  const texts = root.createTreeWalker(root.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) if (texts.currentNode.data.includes(" UTC")) texts.currentNode.data = write(texts.currentNode.data);
}

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

function tick(root = document) {
  const now = Date.now() + ahead;
  for (const each of root.querySelectorAll("[data-time]")) {
    const left = (new Date(each.dataset.time || each.dateTime) - now) / 1000;
    if (!each.classList.contains("countdown")) put(each, relative(left));
    else put(each, left > 0.5 ? `in ${span(left)}` : "due now");
  }
  for (const each of root.querySelectorAll("[data-up]")) put(each, `up ${span((now - new Date(each.dataset.up)) / 1000)}`);
  for (const each of root.querySelectorAll(".clock time")) put(each, stamp(now).slice(11, 16));
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

document.getElementById("zone")?.addEventListener("click", () => {
  if (zone === "UTC") localStorage.setItem(LOCAL, "1");
  else localStorage.removeItem(LOCAL);
  location.reload();
});
for (const each of document.querySelectorAll("#zone")) {
  each.hidden = ["UTC", "Etc/UTC"].includes(ownZone);
  each.textContent = `Show them in ${zone === "UTC" ? ownZone : "UTC"}`;
}

localise(document);
document.body.classList.add("script");
document.addEventListener("visibilitychange", () => { if (!document.hidden) beat(); });
tick();
setInterval(() => tick(), 1000);
timer = setTimeout(beat, 500);
