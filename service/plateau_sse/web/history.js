// What was asked before: conversations, and single answers, the latest first.
//
// What must hold: a list that cannot be had is none, and nothing depends on it.

import {call} from "./asking.js";
import {element} from "./markdown.js";

const SHOWN = 20;
const STATES = {
  completed: "complete",
  failed: "failed",
  cancelled: "stopped",
  running: "being written",
  queued: "waiting",
};

function ago(seconds) {
  const then = new Date(seconds * 1000);
  const isToday = then.toDateString() === new Date().toDateString();
  const time = {hour: "2-digit", minute: "2-digit"};
  return then.toLocaleString("en-GB", isToday ? time : {day: "numeric", month: "short", ...time});
}

function row(href, title, told) {
  const node = element("li");
  const anchor = node.appendChild(element("a"));
  anchor.href = href;
  anchor.append(element("span", title, "title"), " ", element("span", told, "told"));
  return node;
}

const $ = (id) => document.getElementById(id);

export class History {
  // `base` is where the service is, `key()` gives the key.
  constructor(base, key) {
    this.base = base;
    this.key = key;
    this.next = null;
    this.current = "";
    this.asked = 0;
    $("more").addEventListener("click", () => this.more());
    $("runs-box").addEventListener("toggle", () => $("runs-box").open && this.showRuns());
  }

  read(path) {
    return call("GET", new URL(path, this.base), {key: this.key()});
  }

  // The problem that there is, where it cannot be had.
  async show() {
    const asked = ++this.asked;
    const {answer, problem} = await this.read(`v1/conversations?limit=${SHOWN}`);
    if (asked !== this.asked) return null;
    if (!problem) {
      $("talks").replaceChildren();
      this.add(answer);
    }
    if (!problem && $("runs-box").open) this.showRuns();
    return problem;
  }

  async more() {
    const asked = this.asked;
    const {answer, problem} = await this.read(this.next);
    if (!problem && asked === this.asked) this.add(answer);
  }

  add({conversations, next}) {
    for (const {id, question, asked_at: at} of conversations) {
      const known = question?.trim() || "Conversation";
      const node = row(`#c=${id}`, known, ago(at));
      node.dataset.id = id;
      $("talks").append(node);
    }
    this.next = next;
    $("more").hidden = !next;
    $("no-talks").hidden = $("talks").children.length > 0;
    this.mark(this.current);
  }

  async showRuns() {
    const {answer, problem} = await this.read(`v1/runs?limit=${SHOWN}`);
    const runs = problem ? [] : answer.runs;
    $("earlier").replaceChildren(...runs.map(({id, agent, status, conversation_id: talk, asked_at}) =>
      row(talk ? `#c=${talk}` : `#r=${id}`, agent,
        `${STATES[status] ?? status}, ${ago(asked_at)}`)));
    $("no-earlier").hidden = runs.length > 0;
  }

  mark(id) {
    this.current = id;
    for (const node of $("talks").children) {
      if (node.dataset.id === id) node.firstChild.setAttribute("aria-current", "page");
      else node.firstChild.removeAttribute("aria-current");
    }
  }
}
