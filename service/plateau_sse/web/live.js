// Runs that are on, on the page at /ops: found by id, agent or owner, and ended.
//
// What must hold: a row stays the node that it was, so that nobody ends another run than the one
// that stood there; it is asked twice.

import {duration, put} from "./figures.js";

const $ = (id) => document.getElementById(id);
const SURE_MS = 5000;

export class LiveRuns {
  // `ask(path, method)` asks the service as an operator: a Response.
  constructor(ask) {
    this.ask = ask;
    this.asked = 0;
    $("find-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look();
    });
    $("find").addEventListener("input", () => this.look());
  }

  async look() {
    const asked = ++this.asked;
    const find = $("find").value.trim();
    const said = await this.said(`api/admin/runs?find=${encodeURIComponent(find)}`, "GET");
    if (asked !== this.asked || !said) return;
    this.paint(said, find);
  }

  // What was answered, null where that is a problem, which is shown.
  async said(path, method) {
    let problem = "The service cannot be reached.";
    try {
      const response = await this.ask(path, method);
      const said = await response.json();
      if (response.ok) {
        $("live-problem").hidden = true;
        return said;
      }
      problem = [said.title && `${said.title}.`, said.detail].filter(Boolean).join(" ");
    } catch {
      // As it is said above.
    }
    $("live-problem").hidden = false;
    put($("live-problem"), problem);
    return null;
  }

  paint({runs, more}, find) {
    const old = new Map([...$("live").children].map((row) => [row.dataset.key, row]));
    runs.forEach((run, at) => {
      const row = old.get(run.id) ?? this.row(run);
      old.delete(run.id);
      paintRow(row, run);
      if ($("live").children[at] !== row) $("live").insertBefore(row, $("live").children[at] ?? null);
    });
    for (const row of old.values()) row.remove();
    const none = find ? "None that is on has this in its id, agent or owner." : "None is on.";
    put($("live-said"), runs.length ? (more ? `And ${more} more: find the one you mean.` : "") : none);
  }

  row({id, agent}) {
    const row = document.createElement("li");
    row.dataset.key = id;
    const [name, what, told] = ["code", "b", "span"].map((one) => document.createElement(one));
    name.textContent = id;
    what.textContent = agent;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "End it";
    button.setAttribute("aria-label", `End run ${id}`);
    button.addEventListener("click", () => this.end(id, button));
    row.append(what, name, told, button);
    return row;
  }

  async end(id, button) {
    if (button.dataset.sure !== "yes") {
      button.dataset.sure = "yes";
      button.textContent = "Sure?";
      button.setAttribute("aria-label", `Sure? End run ${id}`);
      setTimeout(() => {
        button.dataset.sure = "";
        button.textContent = "End it";
        button.setAttribute("aria-label", `End run ${id}`);
      }, SURE_MS);
      return;
    }
    if (await this.said(`api/admin/runs/${encodeURIComponent(id)}/cancel`, "POST")) {
      $("find").focus();
    }
    this.look();
  }
}

function paintRow(row, {status, owner, attempt, running_s: since}) {
  const told = [
    status === "queued" ? "waiting" : `${status} for ${duration(since ?? 0)}`,
    attempt > 1 ? `attempt ${attempt}` : "",
    owner && `owner ${owner}`,
  ];
  put(row.children[2], told.filter(Boolean).join(", "));
}
