// Draws an answer as it comes: text and thoughts as Markdown, and what else is on the tape.
//
// What must hold: what a model, a tool or an application writes becomes text; nodes and addresses
// are made as markdown.js makes them.

import {element, link, Writer} from "./markdown.js";

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");

function block(text, label) {
  const node = element("pre", text);
  node.tabIndex = 0;
  node.setAttribute("aria-label", label);
  return node;
}

function fillTool(node, {name = "tool", arguments: given, output, error, client}) {
  const open = client ? "yours" : "running";
  const how = error !== undefined ? "failed" : output !== undefined ? "done" : open;
  const said = {failed: `failed: ${error}`, done: "done", yours: "yours to run", running: "running…"};
  const summary = element("summary");
  summary.append(element("code", String(name)), " ", element("span", said[how], "how"));
  node.dataset.state = how;
  node.replaceChildren(summary);
  if (given !== undefined) node.append(block(shown(given), "Arguments"));
  if (output !== undefined) node.append(block(shown(output), "Result"));
}

function save(file) {
  // Never as what it says it is: the browser is to keep it, not to show it.
  const bytes = bytesOf(file.url);
  const button = element("button", `Save file (${file.media_type}, ${sizeOf(bytes.length)})`);
  button.type = "button";
  button.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([bytes], {type: "application/octet-stream"}));
    const anchor = element("a");
    anchor.href = url;
    anchor.download = `answer.${/^[\w-]+\/([\w-]{1,12})/.exec(file.media_type)?.[1] ?? "bin"}`;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  return button;
}

// What a data: URL holds. The policy lets a page fetch nothing but the service.
function bytesOf(url) {
  const [head, body = ""] = url.split(/,(.*)/s);
  try {
    if (!head.endsWith(";base64")) return new TextEncoder().encode(decodeURIComponent(body));
    return Uint8Array.from(atob(body), (char) => char.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}

const sizeOf = (bytes) => (bytes < 1024 ? `${bytes} bytes` : `${Math.ceil(bytes / 1024)} KiB`);

function fileOf(part) {
  const node = element("p", "", "file");
  const isData = String(part.url).startsWith("data:");
  node.append(isData ? save(part) : link(element("a", `File (${part.media_type})`), part.url));
  return node;
}

function asks({kind, message = ""}) {
  const node = element("p", "", "asks");
  node.append(element("strong", kind === "approval" ? "Asks for approval: " : "Asks: "), message);
  return node;
}

function sourceOf({id, url, title, filename, media_type: type}) {
  const name = title || filename || url || type || id || "source";
  const node = element("li");
  const anchor = link(element("a", name), url);
  let host = "";
  if (anchor.href && title && /^http/.test(url)) ({host} = new URL(url));
  node.append(anchor, ...(host ? [" ", element("span", host, "host")] : []));
  return node;
}

const drawers = {
  __proto__: null,
  "tool.call": fillTool,
  "tool.result": fillTool,
  file: (node, part) => node.replaceChildren(fileOf(part)),
  data: (node, {name, value}) => {
    const summary = element("summary");
    summary.append("Data ", element("code", String(name)));
    node.replaceChildren(summary, block(shown(value), "Value"));
  },
  step: (node, {name}) => (node.textContent = name),
  "input.request": (node, part) => node.replaceChildren(asks(part)),
};
const FOLDED = ["tool.call", "tool.result", "data"];

export class Answer {
  constructor(root) {
    this.body = root.appendChild(element("div", "", "parts"));
    this.underway = root.appendChild(element("div", "", "underway"));
    this.sources = root.appendChild(element("div", "", "sources"));
    this.clear();
    this.seen = {};
  }

  clear() {
    this.body.replaceChildren();
    this.drawn = []; // of each part: {part, node, writer?}
    this.writers = new Map(); // by number of the part
  }

  // `over`: nothing more will come.
  show({parts, underway, sources, tools}, over) {
    if (!this.goesOnWith(parts)) this.clear();
    for (let at = 0; at < parts.length; at++) {
      if (this.drawn[at]?.part !== parts[at]) this.draw(at, parts[at]);
    }
    if (over) this.leave();
    if (this.seen.underway !== underway) this.showUnderway(underway, tools);
    if (this.seen.sources !== sources) this.showSources(sources);
    this.seen = {underway, sources};
  }

  goesOnWith(parts) {
    return this.drawn.every(({part}, at) => {
      const now = parts[at];
      if (now === part) return true;
      return now?.type === part.type && now.id === part.id && now.part === part.part &&
        (part.text === undefined || now.text?.startsWith(part.text));
    });
  }

  draw(at, part) {
    const old = this.drawn[at];
    const isText = part.type === "text" || part.type === "reasoning";
    const one = old ?? (isText ? this.begin(part) : this.place(part));
    const before = this.drawn[at - 1];
    if (!old && before?.writer && before.writer !== one.writer) this.rest(before);
    if (isText) one.writer.write(part.text.slice(old ? old.part.text.length : 0));
    else drawers[part.type]?.(one.node, part);
    this.drawn[at] = {...one, part};
  }

  // Two who speak at once are not torn apart: what goes on with an earlier part is drawn there.
  begin(part) {
    const earlier = this.writers.get(part.continues);
    const one = earlier?.type === part.type ? earlier : this.beginBlock(part);
    this.writers.set(part.part, one);
    if (one === earlier && one.thoughts) this.think(one, true);
    return one;
  }

  beginBlock({type}) {
    if (type === "text") {
      const node = this.body.appendChild(element("div", "", "said"));
      return {type, node, writer: new Writer(node)};
    }
    const words = element("div", "", "said");
    const summary = element("summary");
    const node = this.body.appendChild(element("details", "", "thoughts"));
    node.append(summary, words);
    const one = {type, node, thoughts: node, writer: new Writer(words)};
    summary.addEventListener("click", () => (node.dataset.touched = "yes"));
    this.think(one, true);
    return one;
  }

  place(part) {
    if (part.type === "source") return {node: null};
    const name = FOLDED.includes(part.type) ? "details" : "div";
    const className = part.type.startsWith("tool.") ? "tool" : part.type.replace(".", "-");
    return {node: this.body.appendChild(element(name, "", className))};
  }

  // Open while it thinks; then folded, unless whoever reads it has said otherwise.
  think({thoughts}, goesOn) {
    thoughts.firstChild.textContent = goesOn ? "Thinking…" : "Thoughts";
    if (!thoughts.dataset.touched) thoughts.open = goesOn;
  }

  // Something else comes. It may go on later.
  rest(one) {
    one.writer.rest();
    if (one.thoughts) this.think(one, false);
  }

  // What is still at work when the run is over never came to its end.
  leave() {
    for (const one of this.drawn) {
      if (!one.writer || one.writer.ended) continue;
      one.writer.end();
      if (one.thoughts) this.think(one, false);
    }
    for (const how of this.body.querySelectorAll('[data-state="running"] .how')) {
      how.parentElement.parentElement.dataset.state = "left";
      how.textContent = "no result";
    }
  }

  showUnderway(underway, tools) {
    const rows = underway.map(({id, name, arguments: given, output}) => {
      const known = name ?? tools.find((tool) => tool.id === id)?.name ?? "tool";
      const row = element("div", "", "writing");
      const what = output === undefined ? shown(given) : `→ ${shown(output)}`;
      row.append(element("code", String(known)), " ", element("span", what));
      return row;
    });
    this.underway.replaceChildren(...rows);
  }

  showSources(sources) {
    if (!sources.length) return this.sources.replaceChildren();
    const list = element("ol");
    list.append(...sources.map(sourceOf));
    this.sources.replaceChildren(element("h4", "Sources"), list);
  }
}
