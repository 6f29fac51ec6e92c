// The page at /: a small chat. What is asked, and in which conversation; the rest is beside it.
// What must hold: what was typed is there until it has been taken; the address names what is
// shown, so that it can be opened in another tab.

import {call, showProblem} from "./asking.js";
import {History} from "./history.js";
import {copySnippets, showSnippets} from "./snippets.js";
import {Talk} from "./talk.js";
import {Turn} from "./turn.js";

const $ = (id) => document.getElementById(id);
// Reading speed: time enough to disconnect half way.
const PACE_MS = 60;
const TITLE_CHARS = 80;
// Where the service is, with the prefix that a proxy may serve it under.
const base = new URL(".", import.meta.url).href;
const key = () => $("key").value.trim();
const past = new History(base, key);

let talk = null; // what is shown; null where that is a single answer
let isOn = false;
let problem = null;

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

function asked() {
  const options = agent() === "study" ? {task: $("task").value} : null;
  return {agent: agent(), ...(options && {options})};
}

function saveForm() {
  const fields = ["agent", "other", "task", "input"].map((id) => [id, $(id).value]);
  save("form", {...Object.fromEntries(fields), refresh: $("refresh").checked});
}

function restoreForm() {
  const {refresh = false, agent: name = "study", other = "", ...fields} = load("form") ?? {};
  for (const [id, value] of Object.entries(fields)) $(id).value = value;
  choose(name || other);
  $("refresh").checked = refresh;
  $("key").value = load("key") ?? "";
  $("key-field").hidden = !$("key").value;
}

function choose(name) {
  const isKnown = [...$("agent").options].some(({value}) => value === name);
  $("agent").value = isKnown ? name : "";
  if (!isKnown) $("other").value = name;
}

function formChanged() {
  $("other-field").hidden = $("agent").value !== "";
  $("task-field").hidden = agent() !== "study";
  const words = $("input").value.match(/\S+/g)?.length ?? 0;
  $("words").textContent = words === 1 ? "1 word" : `${words} words`;
  showSnippets(base, {...asked(), input: $("input").value}, Boolean(key()));
}

// Those that runners have stand before the name that anybody may type. Where the service does not
// tell, there are those that come with it.
async function listAgents() {
  const {answer} = await call("GET", `${base}v1/agents`, {key: key()});
  const was = agent();
  const other = $("agent").options[$("agent").options.length - 1];
  const known = [...$("agent").options].map(({value}) => value);
  for (const {name} of answer?.agents ?? []) {
    if (!known.includes(name)) $("agent").add(new Option(name, name), other);
  }
  choose(was);
  formChanged();
}

// ---- asking

const controlOf = {
  agent: () => ($("agent").value ? $("agent") : $("other")),
  unknown_agent: () => ($("agent").value ? $("agent") : $("other")),
  unauthorized: () => $("key"),
  "options.task": () => $("task"),
  input: () => $("input"),
};

// Who has begun to type goes on where that is, unless it is what is wrong.
function showFormProblem(next, takesFocus = true) {
  problem = next;
  showProblem($("problem"), next);
  for (const id of ["agent", "other", "task", "input", "key"]) {
    $(id).removeAttribute("aria-invalid");
  }
  if (!next) return;
  if (next.code === "unauthorized") $("key-field").hidden = false;
  const control = (controlOf[next.code] ?? controlOf[next.field])?.();
  if (!control) return;
  control.setAttribute("aria-invalid", "true");
  if (takesFocus) control.focus();
}

async function ask() {
  if (isOn) {
    const detail = "Stop it, or wait for its end.";
    return showFormProblem({title: "An answer is being written.", detail});
  }
  saveForm();
  save("key", key());
  if (!talk) begin();
  const asking = talk;
  const input = $("input").value;
  const more = $("refresh").checked ? {cache: {mode: "refresh"}} : {};
  if (!(await asking.ask(input, more)) || talk !== asking) return;
  if ($("input").value === input) $("input").value = "";
  formChanged();
  saveForm();
  history.replaceState(null, "", `#c=${asking.id}`);
  past.mark(asking.id);
  readAgain();
}

// ---- what is shown

const page = {
  options() {
    const {options, ...rest} = asked();
    const paced = options && {options: {...options, pace_ms: PACE_MS}};
    return {url: base, key, ...rest, ...paced};
  },

  changed({messages, status, error}) {
    const was = isOn;
    isOn = !["idle", "loading"].includes(status);
    if (was && !isOn && $("runs-box").open) past.showRuns();
    $("ask").setAttribute("aria-disabled", String(isOn));
    $("tour").hidden = messages.length > 0;
    $("forget").hidden = messages.length === 0 || isOn;
    const title = messages[0]?.text.trim().replace(/\s+/g, " ") || "New conversation";
    const words = title.length > TITLE_CHARS ? `${title.slice(0, TITLE_CHARS)}…` : title;
    if ($("runs-title").textContent !== words) $("runs-title").textContent = words;
    // What went wrong with an answer stands beside it.
    const next = error?.title ? error : null;
    if (next !== problem) showFormProblem(next);
  },

  // On a phone the answer would be written below the edge of the screen.
  asked(card) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    card.scrollIntoView({behavior: still ? "auto" : "smooth", block: "start"});
  },
};

function begin(id = newId()) {
  talk?.close();
  talk = new Talk($("answers"), page, id);
  isOn = false;
  $("trouble").hidden = true;
  talk.paint();
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function show() {
  // An id of neither has a letter that an address would write in another way.
  const [, kind, id = ""] = /^#(c|r)=([\w.:@~-]{1,128})$/.exec(location.hash) ?? [];
  past.mark(kind === "c" ? id : "");
  if (kind === "r") return showAnswer(id);
  if (kind !== "c") return begin();
  begin(id);
  talk.open();
  // Whoever answered last is asked again, and answers are for whoever had asked for them.
  const path = `v1/runs?limit=1&conversation_id=${encodeURIComponent(id)}`;
  const {answer} = await past.read(path);
  if (talk?.id !== id || !answer?.runs?.length) return;
  choose(answer.runs[0].agent);
  formChanged();
}

// One that belongs to no conversation.
async function showAnswer(id) {
  talk?.close();
  talk = null;
  isOn = false;
  const {answer, problem: refused} = await past.read(`v1/runs/${encodeURIComponent(id)}`);
  if (talk) return;
  page.changed({messages: [], status: "idle", error: null});
  $("tour").hidden = true;
  $("runs-title").textContent = "An earlier answer";
  showProblem($("trouble"), refused);
  if (refused) return $("answers").replaceChildren();
  const turn = new Turn({}, null);
  $("answers").replaceChildren(turn.card);
  const {partsOf} = await import("./client.js");
  const said = {...answer, ...partsOf(answer.parts)};
  const isStillOn = ["queued", "running"].includes(answer.status);
  turn.show({text: `Asked of ${answer.agent}`}, said,
    {isAlone: true, isOn: isStillOn, isLast: true, connected: true});
}

async function readAgain() {
  const refused = await past.show();
  if (refused?.code !== "unauthorized" || problem) return;
  const isIdle = document.activeElement === document.body;
  showFormProblem({...refused, title: key() ? refused.title : "This service asks for a key"}, isIdle);
}

async function forget() {
  const {id} = talk;
  if (!confirm("Delete this conversation? It cannot be brought back.")) return;
  const path = `${base}v1/conversations/${encodeURIComponent(id)}`;
  const {problem: refused} = await call("DELETE", path, {key: key()});
  if (refused) return showFormProblem(refused);
  fresh();
  readAgain();
}

function fresh() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  show();
  $("input").focus();
}

// ---- wiring

$("sample").addEventListener("click", () => {
  $("input").value = $("sample-text").content.textContent;
  formChanged();
  saveForm();
});
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
$("key").addEventListener("change", () => {
  save("key", key());
  listAgents();
  readAgain();
});
$("new").addEventListener("click", fresh);
$("forget").addEventListener("click", forget);
// A link within the page, too, is one.
addEventListener("popstate", () => {
  show();
  $("runs-title").focus();
});
addEventListener("pagehide", saveForm);

const apple = /Mac|iPhone|iPad/.test(navigator.platform);
$("shortcut").textContent = `${apple ? "⌘" : "Ctrl"} + Enter asks`;
if (matchMedia("(max-width: 60rem)").matches) $("talks-box").open = false;
copySnippets();
restoreForm();
formChanged();
show();
listAgents();
readAgain();
