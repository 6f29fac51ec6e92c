// The page at /: asks, follows the answer with client.js, and shows what happens on the way.
// What must hold: #answer's textContent is the run's text, to the character, at every moment.

import {answer, element} from "./answer.js";
import {finished, follow, initial} from "./client.js";

const $ = (id) => document.getElementById(id);
const LOG_LENGTH = 100;
// Reading speed: time enough to drop the connection half way.
const PACE_MS = 60;
// Where the service is, with the prefix that a proxy may serve it under.
const base = new URL(".", import.meta.url).href;

let run = null; // {id, cache, events_url, record_url, cancel_url, asked, first_ms, total_ms}
let state = initial;
let stream = null; // of follow(); null while dropped
let asking = false;
let cancelling = false;
let early = ""; // a hit's answer, shown before its stream has even begun

// ---- what survives a reload, in this tab only

function save(name, value) {
  try {
    sessionStorage.setItem(`plateau.${name}`, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page works, it only forgets.
  }
}

function load(name) {
  try {
    return JSON.parse(sessionStorage.getItem(`plateau.${name}`));
  } catch {
    return null;
  }
}

// On the time line of the machine, so that a reload does not start it anew.
const clock = () => performance.timeOrigin + performance.now();

// ---- the form

const agent = () => $("agent").value || $("other").value.trim();

function request() {
  const body = {agent: agent(), input: $("input").value};
  if (body.agent === "study") body.options = {task: $("task").value, pace_ms: PACE_MS};
  if ($("refresh").checked) body.cache = {mode: "refresh"};
  return body;
}

function saveForm() {
  const fields = ["agent", "other", "task", "input"].map((id) => [id, $(id).value]);
  save("form", {...Object.fromEntries(fields), refresh: $("refresh").checked});
}

function restoreForm() {
  const {refresh = false, ...fields} = load("form") ?? {};
  for (const [id, value] of Object.entries(fields)) $(id).value = value;
  $("refresh").checked = refresh;
  $("key").value = load("key") ?? "";
  $("key-field").hidden = !$("key").value;
}

function formChanged() {
  $("other-field").hidden = $("agent").value !== "";
  $("task-field").hidden = agent() !== "study";
  const words = $("input").value.match(/\S+/g)?.length ?? 0;
  $("words").textContent = words === 1 ? "1 word" : `${words} words`;
  showCode();
}

// ---- talking to the service

async function call(method, url, {body, key} = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    const response = await fetch(url, {method, headers, body: body && JSON.stringify(body)});
    const answer = await response.json().catch(() => ({}));
    const problem = response.ok ? null : problemOf(response, answer);
    return {response, answer, problem};
  } catch {
    const detail = "Check that it runs and that you are online, then ask again.";
    return {problem: {title: "The service cannot be reached.", detail}};
  }
}

function problemOf(response, {title, detail = "", code = "", field = ""}) {
  const wait = response.headers.get("Retry-After");
  if (wait) detail = `${detail} Try again in ${wait} s.`.trim();
  return {title: title ?? `The service answered ${response.status}.`, detail, code, field};
}

function showProblem(box, problem) {
  box.hidden = !problem;
  if (!problem) return;
  const title = element("strong", problem.title.replace(/[^.!?]$/, "$&."));
  const code = problem.code ? [" ", element("code", problem.code)] : [];
  box.replaceChildren(title, ` ${problem.detail}`, ...code);
}

const controlOf = {
  agent: () => ($("agent").value ? $("agent") : $("other")),
  unknown_agent: () => ($("agent").value ? $("agent") : $("other")),
  unauthorized: () => $("key"),
  "options.task": () => $("task"),
  input: () => $("input"),
};

function showFormProblem(problem) {
  showProblem($("problem"), problem);
  for (const id of ["agent", "other", "task", "input", "key"]) {
    $(id).removeAttribute("aria-invalid");
  }
  if (!problem) return;
  if (problem.code === "unauthorized") $("key-field").hidden = false;
  const control = (controlOf[problem.code] ?? controlOf[problem.field])?.();
  if (!control) return;
  control.setAttribute("aria-invalid", "true");
  control.focus();
}

async function ask() {
  if (asking) return;
  asking = true;
  const asked = clock();
  const key = $("key").value.trim();
  saveForm();
  save("key", key);
  paintSoon();
  const {response, answer: taken, problem} = await call("POST", `${base}v1/runs`, {body: request(), key});
  asking = false;
  showFormProblem(problem);
  paintSoon();
  if (problem) return;
  const events = new URL(taken.events_url, response.url);
  const record = new URL(events);
  record.pathname = record.pathname.replace(/\/events$/, "");
  run = {
    id: taken.id,
    cache: response.headers.get("X-Cache") ?? (taken.cached ? "hit" : "miss"),
    events_url: events.href,
    record_url: record.href,
    cancel_url: new URL(taken.cancel_url, response.url).href,
    asked,
  };
  early = taken.output ?? "";
  if (early) run.first_ms = clock() - asked;
  log.clear();
  join();
  if ($("run").getBoundingClientRect().top > innerHeight * 0.7) showRun();
}

// On a phone the answer is written below the edge of the screen.
function showRun() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("run").scrollIntoView({behavior: still ? "auto" : "smooth"});
}

// ---- the run

function join(from = initial) {
  stream?.close();
  cancelling = false;
  state = from;
  stream = follow(run.events_url, onState, {state: from});
  save("run", run);
  showCode();
  paintSoon();
}

function onState(next, event) {
  state = next;
  if (event) log.add(event);
  if (state.text && run.first_ms === undefined) time("first_ms", clock() - run.asked);
  if (finished(state) && run.total_ms === undefined) time("total_ms", clock() - run.asked);
  if (state.closed) recover(run);
  paintSoon();
}

function time(name, ms) {
  // After a reload nobody knows when it happened, only how long the run itself took.
  run[name] = run.rejoined ? (name === "total_ms" ? state.duration_ms : null) : ms;
  save("run", run);
}

// The stream is gone for good: the record knows why.
async function recover(left) {
  const {response, answer: record, problem} = await call("GET", left.record_url);
  if (left !== run) return;
  stream = null;
  if (response?.status >= 400 && response.status < 500) {
    run.lost = problem;
    save("run", null);
  } else if (!problem && finished(record)) {
    const {status, output, error, finish_reason, usage} = record;
    state = {...state, status, error, finish_reason, usage, output, text: output ?? state.text, closed: false};
  }
  paintSoon();
}

function drop() {
  stream?.close();
  stream = null;
  log.note(`dropped after ${state.id || "no event"}`);
  paintSoon();
}

function resume() {
  log.note(`resumed after ${state.id || "no event"}`);
  join({...state, connected: false, closed: false});
}

async function cancel() {
  const cancelled = run;
  if (!stream) resume();
  cancelling = true;
  paintSoon();
  const {problem} = await call("POST", run.cancel_url);
  if (cancelled !== run || !problem) return;
  cancelling = false;
  if (!finished(state)) showFormProblem(problem);
  paintSoon();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(state.text);
    $("copy").textContent = "Copied";
  } catch {
    // No clipboard without https: select it, so that one key does it.
    getSelection().selectAllChildren($("answer"));
  }
}

// ---- painting: once a frame at most, however fast the events come

let painting = 0;
const paintSoon = () => (painting ||= requestAnimationFrame(paint));

function paint() {
  painting = 0;
  able("ask", !asking);
  $("ask").textContent = asking ? "Asking…" : "Ask";
  $("tour").hidden = run !== null;
  for (const id of ["controls", "facts", "answer", "log-box"]) $(id).hidden = run === null;
  if (!run) return;
  const over = finished(state) || Boolean(run.lost);
  $("run").dataset.status = run.lost ? "lost" : state.status;
  put($("status"), sentence());
  able("drop", !over && stream);
  able("resume", !over && !stream);
  able("cancel", !over && !cancelling);
  able("again", over && !asking);
  able("copy", state.text);
  $("answer").setAttribute("aria-busy", String(!over && stream !== null));
  answer.show(state.text || early);
  paintProgress(over);
  paintFacts();
  paintFailure();
  log.paint();
}

function sentence() {
  const cut = ["length", "content_filter"].includes(state.finish_reason);
  if (state.status === "completed" && cut) return `Cut off (${state.finish_reason}).`;
  if (state.status === "completed" && run.cache === "hit") return "Complete, from the cache.";
  if (state.status === "completed") return "Complete.";
  if (state.status === "failed") return "Failed.";
  if (state.status === "cancelled") return "Cancelled.";
  if (run.lost) return "This run is no longer there.";
  if (!stream) return `Dropped after event ${state.id || "0"}. Resume goes on from there.`;
  if (cancelling) return "Cancelling…";
  if (!state.connected) return state.events ? "Connection lost, reconnecting…" : "Connecting…";
  return state.status === "queued" ? "Queued, waiting for a runner." : "Running.";
}

function paintProgress(over) {
  const {step, total_steps: steps, message, percentage, current_agent: who} = state.progress ?? {};
  $("progress-line").hidden = over;
  const share = percentage ?? (steps ? (100 * step) / steps : undefined);
  // Without a value the bar says: at work, nobody knows how far.
  if (share === undefined) $("progress").removeAttribute("value");
  else $("progress").value = share / 100;
  const where = steps ? `Step ${step} of ${steps}` : "";
  const label = [where, who, message].filter(Boolean).join(" · ");
  put($("progress-label"), label || "Nothing told yet");
}

const ms = (value) => (value === undefined || value === null ? "–" : `${Math.round(value)} ms`);

function paintFacts() {
  put($("fact-status"), state.status);
  put($("fact-cache"), run.cache);
  put($("fact-first"), ms(run.first_ms));
  put($("fact-total"), ms(run.total_ms));
  put($("fact-id"), state.id || "–");
  put($("fact-events"), String(state.events));
  put($("fact-missed"), String(state.missed));
  put($("fact-attempt"), String(state.attempt || "–"));
}

function paintFailure() {
  const {code = "", message = "", retryable} = state.error ?? {};
  const again = retryable ? " Another try may work." : "";
  const failed = {title: "The run failed", code, detail: message + again};
  const shown = state.status === "failed" ? failed : run.lost;
  if ($("failure").hidden === Boolean(shown)) showProblem($("failure"), shown);
}

// Only what differs: a live region speaks at every change, even to the same words.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function able(id, yes) {
  $(id).setAttribute("aria-disabled", String(!yes));
}

// ---- the log of events

const log = {
  waiting: [],
  add({lastEventId, type, ...fields}) {
    this.push([lastEventId, type, fields]);
  },
  note(words) {
    this.push(["", words, null]);
  },
  push(row) {
    this.waiting.push(row);
    if (this.waiting.length > LOG_LENGTH) this.waiting.shift();
  },
  clear() {
    this.waiting = [];
    $("log").replaceChildren();
  },
  paint() {
    if (!this.waiting.length) return;
    const list = $("log");
    const atEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
    list.append(...this.waiting.map(logRow));
    this.waiting = [];
    while (list.children.length > LOG_LENGTH) list.firstChild.remove();
    if (atEnd) this.toEnd();
  },
  toEnd() {
    $("log").scrollTop = $("log").scrollHeight;
  },
};

function logRow([id, type, fields]) {
  const row = document.createElement("li");
  if (fields) {
    const shown = JSON.stringify(fields).slice(0, 160);
    row.append(element("b", id || "–"), ` ${type} `, element("i", shown));
  } else {
    row.append(element("span", `— ${type} —`, "note"));
  }
  return row;
}

// ---- the same from your code

function showCode() {
  const url = run?.events_url ?? `${base}v1/runs/<id>/events?token=<token>`;
  const {options, ...body} = request();
  if (options) body.options = {task: options.task};
  body.input = body.input.length > 60 ? `${body.input.slice(0, 60)}…` : body.input || "Your text";
  const json = JSON.stringify(body).replaceAll("'", String.raw`'\''`);
  const key = load("key") ? `  -H "Authorization: Bearer $PLATEAU_KEY" \\\n` : "";
  $("curl").textContent = `curl ${base}v1/runs \\
  -H 'Content-Type: application/json' \\
${key}  -d '${json}'

curl -N '${url}'`;
  $("snippet").textContent = `const source = new EventSource(${JSON.stringify(url)});
source.onmessage = ({data, lastEventId}) => {
  const {type, text = ""} = JSON.parse(data);
  console.log(lastEventId, type, text);
};`;
  $("module").textContent = `import {follow} from ${JSON.stringify(`${base}client.js`)};

follow(${JSON.stringify(url)}, ({status, text}) => console.log(status, text));`;
}

// ---- wiring

function sample() {
  $("input").value = $("sample-text").content.textContent;
  formChanged();
  saveForm();
}

const press = (id, act) =>
  $(id).addEventListener("click", () => $(id).getAttribute("aria-disabled") !== "true" && act());

press("drop", drop);
press("resume", resume);
press("cancel", cancel);
press("again", () => $("form").requestSubmit());
press("copy", copy);
press("sample", sample);
$("copy").addEventListener("blur", () => ($("copy").textContent = "Copy"));
$("log-box").addEventListener("toggle", () => log.toEnd());
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("form").addEventListener("input", formChanged);
$("form").addEventListener("change", saveForm);
$("form").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  $("form").requestSubmit();
});
addEventListener("pagehide", saveForm);

const apple = /Mac|iPhone|iPad/.test(navigator.platform);
$("shortcut").textContent = `${apple ? "⌘" : "Ctrl"} + Enter asks`;
restoreForm();
formChanged();
run = load("run");
if (run) {
  run.rejoined = true;
  join();
}
paintSoon();
