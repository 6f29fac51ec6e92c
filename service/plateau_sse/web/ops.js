// The page at /ops: what the service says of itself, every two seconds.
// What must hold: the token is in no address and nowhere but in this tab; figures that have stopped
// coming say how old they are, and nothing is called well by them.

import {duration, paint, prepare, put, verdict} from "./figures.js";
import {LiveRuns} from "./live.js";

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1000;
// Three pictures that did not come; twice that, and the connection is taken for dead.
const LATE_MS = 7000;
const DEAD_MS = 14000;
const TOKEN = "plateau.admin_token";

let token = "";
let following = null; // the AbortController of whoever follows; null while nobody does
let picture = null;
let came = 0; // when the picture did, by this clock
let aheadMs = 0; // the service's clock, of ours
let broken = ""; // why nothing comes

// ---- the token, in this tab only

function remember(sent) {
  token = sent;
  try {
    if (sent) sessionStorage.setItem(TOKEN, sent);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // Storage is forbidden: the page works, it asks again after a reload.
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return "";
  }
}

// ---- the feed

// Not an EventSource: it takes no header, so the token would stand in an address, which a proxy may
// log; and of a refusal it tells neither that it is one nor why.
async function follow() {
  stop();
  const mine = new AbortController();
  following = mine;
  while (following === mine) {
    const why = await read(mine.signal);
    if (following !== mine) return;
    broken = why;
    paintFeed();
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function stop() {
  following?.abort();
  following = null;
}

// Shows what comes. Returns why no more does, "" where the service has only handed over.
async function read(stopped) {
  const attempt = new AbortController();
  const end = () => attempt.abort();
  let heard = Date.now();
  const guard = setInterval(() => Date.now() - heard > DEAD_MS && end(), 1000);
  stopped.addEventListener("abort", end);
  try {
    const response = await fetch(new URL("api/admin/metrics", import.meta.url), {
      headers: {Accept: "text/event-stream", Authorization: `Bearer ${token}`},
      cache: "no-store",
      signal: attempt.signal,
    });
    if (!response.ok) return await refused(response);
    remember(token);
    aheadMs = (Date.parse(response.headers.get("Date")) || Date.now()) - Date.now();
    for await (const next of pictures(response.body)) {
      if (stopped.aborted) return "";
      heard = Date.now();
      if (!show(next)) return "The service has changed: reload this page.";
    }
    return "";
  } catch {
    return "The connection is lost.";
  } finally {
    end();
    clearInterval(guard);
    stopped.removeEventListener("abort", end);
  }
}

const live = new LiveRuns((path, method) => fetch(new URL(path, import.meta.url), {
  method,
  headers: {Authorization: `Bearer ${token}`},
  cache: "no-store",
  signal: AbortSignal.timeout(DEAD_MS),
}));

async function* pictures(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const {done, value} = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

async function refused(response) {
  const {code, title = "", detail = ""} = await response.json().catch(() => ({}));
  if (response.status === 401) {
    const wrong = "That is not this service’s ADMIN_TOKEN, so it has been forgotten.";
    ask(token && {title: wrong, code});
    return "";
  }
  if (code === "admin_closed") {
    ask({title: "This service has no ADMIN_TOKEN, so it shows its figures to nobody.", code}, true);
    return "";
  }
  return [`The service answered ${response.status}.`, title && `${title}.`, detail].join(" ").trim();
}

// ---- the gate

function ask(problem, isClosed = false) {
  stop();
  remember("");
  picture = null;
  broken = "";
  $("figures").hidden = $("feed-line").hidden = true;
  $("gate").hidden = false;
  $("form").hidden = isClosed;
  $("closed").hidden = !isClosed;
  document.body.dataset.level = "none";
  document.title = "Plateau, operations";
  put($("verdict"), "Is it well, what does it use, and what should change?");
  $("problem").hidden = !problem;
  if (problem) {
    const [title, code] = ["strong", "code"].map((name) => document.createElement(name));
    title.textContent = problem.title;
    code.textContent = problem.code;
    $("problem").replaceChildren(title, " ", code);
  }
  $("token").setAttribute("aria-invalid", String(Boolean(problem)));
  $(isClosed ? "retry" : "token").focus();
}

// It comes back where the service refuses; until then the line above the figures says what happens.
function enter() {
  $("gate").hidden = true;
  // What had the focus is gone.
  $("verdict").focus();
  follow();
  paintFeed();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const sent = $("token").value.trim();
  $("token").value = "";
  // What no header can hold is refused here as the service would.
  token = /^[\x21-\x7e]+$/.test(sent) ? sent : "?";
  enter();
});
$("retry").addEventListener("click", enter);
$("forget").addEventListener("click", () => {
  remember("");
  location.reload();
});

// ---- what is shown

// Whether it could be.
function show(next) {
  try {
    const prepared = prepare(next);
    paint(prepared, (Date.now() + aheadMs) / 1000);
    picture = prepared;
  } catch (error) {
    console.error(error);
    return false;
  }
  came = Date.now();
  broken = "";
  $("figures").hidden = false;
  live.look();
  paintFeed();
  return true;
}

function paintFeed() {
  if (!$("gate").hidden) return;
  const ageMs = Date.now() - came;
  const isStale = picture === null || ageMs > LATE_MS;
  const isLost = broken || (picture !== null && isStale);
  const state = !following ? "paused" : isLost ? "lost" : "live";
  const why = broken || "No figures come.";
  const age = picture ? `These are ${duration(ageMs / 1000)} old; trying again.` : "Trying again.";
  const feed = {
    live: picture ? "Live, every 2 s" : "Connecting…",
    lost: `${why} ${age}`,
    paused: "Paused while nobody looks",
  }[state];
  const advice = isStale ? [] : picture.advice;
  const says = isStale ? (isLost ? "How it is now is not known." : "Plateau, operations") : verdict(advice);
  $("feed-line").hidden = false;
  $("feed").dataset.state = state;
  document.body.dataset.level = isStale ? "none" : (advice[0]?.level ?? "well");
  put($("feed"), feed);
  put($("no-advice"), isStale ? "Not known." : "Nothing needs a change.");
  put($("verdict"), says);
  document.title = state === "paused" ? "Plateau, paused" : `${says} – Plateau`;
  // A worker that is replaced breaks the feed for a second: that is shown, and not worth a word.
  announce(isLost && isStale ? why : "", says, advice);
}

// Once for each change of what is the matter; a figure that moves is no news.
let announced = "";
function announce(lost, says, advice) {
  const matter = [lost, says, ...advice.map(({rule}) => rule)].join();
  if (announced === matter) return;
  announced = matter;
  put($("said"), [lost, says, ...advice.map((one) => `${one.says}.`)].join(" ").trim());
}

// ---- wiring

document.addEventListener("visibilitychange", () => {
  if (!$("gate").hidden) return;
  if (document.hidden) stop();
  else follow();
  paintFeed();
});
setInterval(paintFeed, 1000);
token = remembered();
if (!document.hidden) follow();
