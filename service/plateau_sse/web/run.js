// One run on the page, as a card of its own: followed with client.js, dropped and taken up again,
// cancelled; its answer, its figures and the log of its events.
//
// What must hold: a card follows its run until that is over, whatever else is asked meanwhile.

import {Answer} from "./answer.js";
import {call, showProblem} from "./asking.js";
import {finished, follow, initial, partsOf} from "./client.js";
import {Log} from "./log.js";

// On the time line of the machine, so that a reload does not start it anew.
export const clock = () => performance.timeOrigin + performance.now();

const CUT_OFF = ["length", "content_filter"];
const ms = (value) => (value === undefined || value === null ? "–" : `${Math.round(value)} ms`);

export class Run {
  // `run` is what is kept of it: {id, title, cache, events_url, record_url, cancel_url, asked,
  // first_ms, total_ms}. `early` is what a hit's POST was answered, shown before its stream has
  // even begun.
  // `page` is told: changed(), problem(problem), again(this).
  constructor(run, page, early = {}) {
    this.run = run;
    this.page = page;
    const {output, parts = [{type: "text", part: 0, text: output}]} = early;
    this.early = output ? {...initial, ...partsOf(parts)} : null;
    this.card = document.getElementById("run-template").content.firstElementChild.cloneNode(true);
    this.answer = new Answer(this.at("answer"));
    this.log = new Log(this.at("log"));
    this.painting = 0;
    for (const name of ["drop", "resume", "cancel", "copy"]) this.onPress(name, () => this[name]());
    this.onPress("again", () => page.again(this));
    this.at("copy").addEventListener("blur", () => (this.at("copy").textContent = "Copy"));
    this.at("log-box").addEventListener("toggle", () => this.log.toEnd());
    this.at("title").textContent = run.title ?? "Answer";
    this.join();
  }

  at(name) {
    return this.card.querySelector(`[data-is="${name}"]`);
  }

  get over() {
    return finished(this.state) || Boolean(this.run.lost);
  }

  onPress(name, act) {
    this.at(name).addEventListener("click", () =>
      this.at(name).getAttribute("aria-disabled") !== "true" && act());
  }

  join(from = initial) {
    this.stream?.close();
    this.cancelling = false;
    this.state = from;
    this.stream = follow(this.run.events_url, (...told) => this.onState(...told), {state: from});
    this.paintSoon();
  }

  onState(next, event) {
    this.state = next;
    if (event) this.log.add(event);
    const {run} = this;
    if (next.text && run.first_ms === undefined) this.time("first_ms");
    if (finished(next) && run.total_ms === undefined) this.time("total_ms");
    if (next.closed) this.recover();
    this.paintSoon();
  }

  time(name) {
    // After a reload nobody knows when it happened, only how long the run itself took.
    const told = name === "total_ms" ? this.state.duration_ms : null;
    this.run[name] = this.run.rejoined ? told : clock() - this.run.asked;
    this.page.changed();
  }

  // The stream is gone for good: the record knows why.
  async recover() {
    const {response, answer: record, problem} = await call("GET", this.run.record_url);
    this.stream = null;
    if (response?.status >= 400 && response.status < 500) {
      this.run.lost = problem;
      this.page.changed();
    } else if (!problem && finished(record)) {
      const {status, output, error, finish_reason, usage, model = null, parts} = record;
      const end = {status, output, error, finish_reason, usage, model, closed: false};
      this.state = {...this.state, ...end, ...(parts && partsOf(parts))};
    }
    this.paintSoon();
  }

  drop() {
    this.stream?.close();
    this.stream = null;
    this.log.note(`dropped after ${this.state.id || "no event"}`);
    this.paintSoon();
  }

  resume() {
    this.log.note(`resumed after ${this.state.id || "no event"}`);
    this.join({...this.state, connected: false, closed: false});
  }

  async cancel() {
    if (!this.stream) this.resume();
    this.cancelling = true;
    this.paintSoon();
    const {problem} = await call("POST", this.run.cancel_url);
    if (!problem) return;
    this.cancelling = false;
    if (!finished(this.state)) this.page.problem(problem);
    this.paintSoon();
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.state.text);
      this.at("copy").textContent = "Copied";
    } catch {
      // No clipboard without https: select it, so that one key does it.
      getSelection().selectAllChildren(this.at("answer"));
    }
  }

  close() {
    this.stream?.close();
    cancelAnimationFrame(this.painting);
    this.card.remove();
  }

  // ---- painting: once a frame at most, however fast the events come

  paintSoon() {
    this.painting ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.painting = 0;
    const {state, run, over} = this;
    this.card.dataset.status = run.lost ? "lost" : state.status;
    put(this.at("status"), this.sentence());
    this.able("drop", !over && this.stream);
    this.able("resume", !over && !this.stream);
    this.able("cancel", !over && !this.cancelling);
    this.able("again", over);
    this.able("copy", state.text);
    this.at("answer").setAttribute("aria-busy", String(!over && this.stream !== null));
    // Until the stream of a hit has said as much, what its POST was answered is shown.
    if (over || state.text.length >= (this.early?.text.length ?? 0)) this.early = null;
    this.answer.show(this.early ?? state, over);
    this.paintProgress();
    this.paintFacts();
    this.paintFailure();
    this.log.paint();
  }

  able(name, yes) {
    this.at(name).setAttribute("aria-disabled", String(!yes));
  }

  sentence() {
    const {state, run} = this;
    const cut = CUT_OFF.includes(state.finish_reason);
    if (state.status === "completed" && cut) return `Cut off (${state.finish_reason}).`;
    if (state.status === "completed" && run.cache === "hit") return "Complete, from the cache.";
    if (state.status === "completed") return "Complete.";
    if (state.status === "failed") return "Failed.";
    if (state.status === "cancelled") return "Cancelled.";
    if (run.lost) return "This run is no longer there.";
    if (!this.stream) return `Dropped after event ${state.id || "0"}. Resume goes on from there.`;
    if (this.cancelling) return "Cancelling…";
    if (!state.connected) return state.events ? "Connection lost, reconnecting…" : "Connecting…";
    return state.status === "queued" ? "Queued, waiting for a runner." : "Running.";
  }

  paintProgress() {
    const {step, total_steps: steps, message, percentage, current_agent: who} =
      this.state.progress ?? {};
    this.at("progress-line").hidden = this.over;
    const share = percentage ?? (steps ? (100 * step) / steps : undefined);
    const bar = this.at("progress");
    // Without a value the bar says: at work, nobody knows how far.
    if (!Number.isFinite(share)) bar.removeAttribute("value");
    else bar.value = share / 100;
    const where = steps ? `Step ${step} of ${steps}` : "";
    const label = [where, who, message].filter(Boolean).join(" · ");
    put(this.at("progress-label"), label || "Nothing told yet");
  }

  paintFacts() {
    const {state, run} = this;
    const {input_tokens: asked, output_tokens: said} = state.usage ?? {};
    const facts = {
      status: state.status,
      cache: run.cache,
      first: ms(run.first_ms),
      total: ms(run.total_ms),
      id: state.id || "–",
      events: String(state.events),
      tokens: state.usage ? `${asked} → ${said}` : "–",
      attempt: String(state.attempt || "–"),
    };
    for (const [name, text] of Object.entries(facts)) put(this.at(`fact-${name}`), text);
  }

  paintFailure() {
    const {code = "", message = "", retryable} = this.state.error ?? {};
    const again = retryable ? " Another try may work." : "";
    const failed = {title: "The run failed", code, detail: message + again};
    const shown = this.state.status === "failed" ? failed : this.run.lost;
    const box = this.at("failure");
    if (box.hidden === Boolean(shown)) showProblem(box, shown);
  }
}

// Only what differs: a live region speaks at every change, even to the same words.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
