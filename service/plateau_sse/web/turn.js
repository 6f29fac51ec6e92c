// One exchange on the page: what was asked, and the answer to it as it comes; its figures and the
// log of its events.
//
// What must hold: where a button that has the focus can do no more, another has it; a live region
// is told only what differs.

import {Answer} from "./answer.js";
import {showProblem, whyItWaits} from "./asking.js";
import {finished} from "./client.js";
import {Log} from "./log.js";
import {requestForms} from "./requests.js";

// On the time line of the machine.
export const clock = () => performance.timeOrigin + performance.now();

const TITLE_CHARS = 160;
const BUTTONS = ["cancel", "drop", "resume", "copy", "again"];
const INSTEAD = {drop: "resume", resume: "drop"};
const ENDED = {
  completed: "Complete.",
  failed: "Failed.",
  cancelled: "Stopped.",
};
const CUT_OFF = {
  length: "Cut off: it would have been longer than it may be.",
  content_filter: "Cut off by a filter of the model’s.",
  input_required: "It waits for your answer.",
};
const ms = (value) => (Number.isFinite(value) ? `${Math.round(value)} ms` : "–");

// What the service kept of how somebody has answered a question of an agent's.
const ANSWERED = {'{"approved":true}': "Approved.", '{"approved":false}': "Declined."};

export class Turn {
  // `talk` is told what is pressed: cancel(), drop(), resume(), again(), respond(request, payload).
  constructor(talk, asked = null) {
    this.talk = talk;
    this.asked = asked; // when, where it was asked here
    this.isOwn = asked !== null;
    this.isKnown = null; // whether the answer was known already; null where nobody has said
    this.card = document.getElementById("run-template").content.firstElementChild.cloneNode(true);
    this.answer = new Answer(this.at("answer"));
    this.log = new Log(this.at("log"));
    this.first = this.total = null;
    this.requests = requestForms(this.at("requests"), (...all) => talk.respond(...all));
    for (const name of BUTTONS) {
      const button = this.at(name);
      const act = name === "copy" ? () => this.copy() : () => talk[name]();
      button.addEventListener("click", () =>
        button.getAttribute("aria-disabled") !== "true" && act());
    }
    this.at("copy").addEventListener("blur", () => (this.at("copy").textContent = "Copy"));
    this.at("log-box").addEventListener("toggle", () => this.log.toEnd());
  }

  at(name) {
    return this.card.querySelector(`[data-is="${name}"]`);
  }

  // `question` and `said` are messages of the conversation, either of which may be missing;
  // `state` is {isLast, isOn, isTold, isAlone, connected, dropped, stopping, waitsLong}.
  show(question, said, state) {
    this.said = said;
    const status = said?.status ?? (state.isOn ? "connecting" : "unanswered");
    const over = !state.isOn || finished({status});
    this.card.dataset.status = status;
    this.showQuestion(question);
    this.time(said, over);
    put(this.at("status"), sentence(status, said, {...state, isKnown: this.isKnown}));
    this.showButtons({
      cancel: state.isOn && state.isTold && !state.stopping,
      drop: state.isOn && state.isTold && !state.dropped,
      resume: state.dropped && state.isLast,
      copy: over && Boolean(said?.text),
      again: over && state.isLast && !state.isAlone,
    });
    this.at("answer").hidden = !said;
    this.at("answer").setAttribute("aria-busy", String(!over && !state.dropped));
    if (said) this.answer.show({underway: [], ...said}, over);
    this.requests.show(said?.parts ?? [], over && state.isLast && !state.isAlone);
    this.showProgress(said?.progress ?? {}, over);
    this.showFacts(said ?? {}, status);
    this.showFailure(said?.error, status);
    this.log.paint();
  }

  showQuestion(question) {
    const text = ANSWERED[question?.text] ?? question?.text ?? "An answer";
    if (this.text === text) return;
    this.text = text;
    const words = text.trim().replace(/\s+/g, " ");
    const isLong = words.length > TITLE_CHARS;
    put(this.at("title"), isLong ? `${words.slice(0, TITLE_CHARS)}…` : words || "–");
    this.at("whole-box").hidden = !isLong;
    put(this.at("whole"), isLong ? text : "");
  }

  // After a reload nobody knows when it happened, only how long the run itself took.
  time(said, over) {
    if (!said) return;
    const since = this.asked === null ? null : clock() - this.asked;
    if (said.text && this.first === null) this.first = since;
    if (over && this.total === null) this.total = since ?? said.duration_ms ?? null;
  }

  showButtons(can) {
    const focused = BUTTONS.find((name) => this.at(name) === document.activeElement);
    const next = [INSTEAD[focused], ...BUTTONS].find((name) => can[name]);
    for (const name of BUTTONS) {
      this.at(name).setAttribute("aria-disabled", String(!can[name]));
      // What can do no more stays as long as nothing else can have the focus.
      this.at(name).hidden = !can[name] && (name !== focused || next !== undefined);
    }
    if (focused && !can[focused] && next) this.at(next).focus();
  }

  showProgress({step, total_steps: steps, message, percentage, current_agent: who}, over) {
    this.at("progress-line").hidden = over;
    const share = percentage ?? (steps ? (100 * step) / steps : undefined);
    const bar = this.at("progress");
    // Without a value the bar says: at work, nobody knows how far.
    if (!Number.isFinite(share)) bar.removeAttribute("value");
    else bar.value = share / 100;
    const where = steps ? `Step ${step} of ${steps}` : "";
    put(this.at("progress-label"), [where, who, message].filter(Boolean).join(" · "));
  }

  showFacts({cached = null, usage, place, events, attempt}, status) {
    const isKnown = this.isKnown ?? cached;
    const {input_tokens: asked, output_tokens: said} = usage ?? {};
    const facts = {
      status,
      cache: isKnown === null ? "–" : isKnown ? "yes" : "no",
      first: ms(this.first),
      total: ms(this.total),
      id: place || "–",
      events: String(events ?? "–"),
      tokens: usage ? `${asked} → ${said}` : "–",
      attempt: String(attempt || "–"),
    };
    for (const [name, text] of Object.entries(facts)) put(this.at(`fact-${name}`), text);
  }

  showFailure(error, status) {
    const {code = "", message = "", retryable} = error ?? {};
    const detail = message + (retryable ? " Another try may work." : "");
    const shown = status === "failed" && error ? {title: "It failed", code, detail} : null;
    if (this.at("failure").hidden === Boolean(shown)) showProblem(this.at("failure"), shown);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.said.text);
      this.at("copy").textContent = "Copied";
    } catch {
      // No clipboard without https: select it, so that one key does it.
      getSelection().selectAllChildren(this.at("answer"));
    }
  }
}

function sentence(status, said, state) {
  if (status === "completed" && CUT_OFF[said.finish_reason]) return CUT_OFF[said.finish_reason];
  if (status === "completed" && (said.cached || state.isKnown)) return "Complete: it was known already.";
  if (ENDED[status]) return ENDED[status];
  if (!state.isOn) return "It has no answer.";
  if (state.dropped) return "Disconnected. Reconnect, and it goes on with the very next word.";
  if (state.stopping) return "Stopping…";
  if (!state.connected) {
    const what = said?.events ? "Connection lost, reconnecting…" : "Asking…";
    return state.waitsLong ? `${what} ${whyItWaits()}` : what;
  }
  return status === "running" ? "Writing…" : "Waiting for its turn…";
}

// Only what differs: a live region speaks at every change, even to the same words.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
