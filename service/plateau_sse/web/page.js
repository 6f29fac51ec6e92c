// The page at /: asks, and shows each answer on a card of its own, the newest first.
// What must hold: an answer that is on stays in sight and goes on, whatever is asked meanwhile.

import {call, showProblem} from "./asking.js";
import {Run, clock} from "./run.js";

const $ = (id) => document.getElementById(id);
// Reading speed: time enough to drop the connection half way.
const PACE_MS = 60;
// A browser has six connections to a host, and each run that is on takes one.
const RUNS_MOST = 5;
// Where the service is, with the prefix that a proxy may serve it under.
const base = new URL(".", import.meta.url).href;

let runs = []; // the newest first
let asking = false;

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

// ---- asking

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
  if (runs.filter((run) => !run.over).length >= RUNS_MOST) {
    const detail = "Cancel one of them, or wait for its end.";
    return showFormProblem({title: `${RUNS_MOST} answers are on.`, detail});
  }
  asking = true;
  const asked = clock();
  const key = $("key").value.trim();
  const title = titleOf(request());
  saveForm();
  save("key", key);
  paint();
  const {response, answer: taken, problem} =
    await call("POST", `${base}v1/runs`, {body: request(), key});
  asking = false;
  showFormProblem(problem);
  paint();
  if (!problem) begin(taken, response, {title, asked});
}

function titleOf({agent: name, input, options}) {
  const words = input.trim().replace(/\s+/g, " ");
  const what = options ? `${name}, ${options.task}` : name;
  return `${what}: ${words.length > 60 ? `${words.slice(0, 60)}…` : words}`;
}

function begin(taken, response, {title, asked}) {
  const events = new URL(taken.events_url, response.url);
  const record = new URL(events);
  record.pathname = record.pathname.replace(/\/events$/, "");
  const run = {
    id: taken.id,
    title,
    cache: response.headers.get("X-Cache") ?? (taken.cached ? "hit" : "miss"),
    events_url: events.href,
    record_url: record.href,
    cancel_url: new URL(taken.cancel_url, response.url).href,
    asked,
  };
  if (taken.output) run.first_ms = clock() - asked;
  for (const one of runs) if (one.over) one.card.open = false;
  runs.unshift(new Run(run, page, taken));
  $("answers").prepend(runs[0].card);
  dropOldest();
  runsChanged();
  if ($("runs").getBoundingClientRect().top > innerHeight * 0.7) showRuns();
}

// Those that are over make room; there are never more on than there may be.
function dropOldest() {
  while (runs.length > RUNS_MOST) {
    const oldest = runs.findLastIndex((run) => run.over);
    runs.splice(oldest, 1)[0].close();
  }
}

// On a phone the answer is written below the edge of the screen.
function showRuns() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("runs").scrollIntoView({behavior: still ? "auto" : "smooth"});
}

// ---- the runs

const page = {changed: saveRuns, problem: showFormProblem, again: () => $("form").requestSubmit()};

function saveRuns() {
  save("runs", runs.map(({run}) => run).filter((run) => !run.lost));
}

function runsChanged() {
  saveRuns();
  showCode();
  paint();
}

function restoreRuns() {
  for (const run of load("runs") ?? []) {
    runs.push(new Run({...run, rejoined: true}, page));
    $("answers").append(runs.at(-1).card);
  }
  runsChanged();
}

function paint() {
  $("ask").setAttribute("aria-disabled", String(asking));
  $("ask").textContent = asking ? "Asking…" : "Ask";
  $("tour").hidden = runs.length > 0;
}

// ---- the same from your code

function showCode() {
  const url = runs[0]?.run.events_url ?? `${base}v1/runs/<id>/events?token=<token>`;
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

$("sample").addEventListener("click", sample);
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
restoreRuns();
