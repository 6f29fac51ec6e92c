// The answer on the page: a little Markdown, a line at a time, into nodes that keep every
// character. Nodes are built, never parsed: what a model writes stays text.

export function element(name, text, className = "") {
  const node = document.createElement(name);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

const hidden = (text) => Object.assign(element("span", text), {hidden: true});

const names = {"**": "strong", "*": "em", "`": "code"};
// What is marked in a line, with or without its closing mark: `end` says what may stand for one.
const marked = (end) => new RegExp([
  String.raw`(\*\*(?=\S)[^*\n]+(?:\*\*|\*?${end})`,
  String.raw`(?<![\w*])\*(?=[^\s*])[^*\n]+(?:\*|${end})`,
  "`[^`\\n]+(?:`|" + end + "))",
].join("|"));
const spans = marked("(?!)");
// In the line that is still being written, what was begun may yet be closed.
const growing = marked("$");

function inline(text) {
  return text.split(text.endsWith("\n") ? spans : growing).flatMap((part, index) => {
    if (index % 2 === 0) return part ? [document.createTextNode(part)] : [];
    const mark = part.startsWith("**") ? "**" : part[0];
    const closed = part.length > mark.length && part.endsWith(mark);
    const node = element(names[mark], part.slice(mark.length, closed ? -mark.length : undefined));
    node.prepend(hidden(mark));
    if (closed) node.append(hidden(mark));
    return [node];
  });
}

export const answer = {
  text: "",
  start: 0, // where the line begins that is still being written
  open: [], // its nodes, replaced as it grows
  block: null, // {kind, node}: what the next line may belong to
  before: null, // the block before that line

  show(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.clear();
    const added = text.slice(this.text.length);
    this.text = text;
    if (this.extend(added)) return;
    for (const node of this.open) node.remove();
    this.block = this.before;
    for (let end; (end = text.indexOf("\n", this.start) + 1); this.start = end) {
      this.line(text.slice(this.start, end));
    }
    this.before = this.block;
    this.open = this.start < text.length ? this.line(text.slice(this.start)) : [];
  },

  clear() {
    document.getElementById("answer").replaceChildren();
    Object.assign(this, {text: "", start: 0, open: [], block: null, before: null});
  },

  // Plain words at the end of a line whose kind is known need no new nodes.
  extend(added) {
    const last = this.open.at(-1);
    const node = last?.nodeType === Node.TEXT_NODE ? last : last?.lastChild;
    const known = this.text.length - added.length - this.start > 16;
    if (!known || node?.nodeType !== Node.TEXT_NODE || /[*`\n]/.test(added)) return false;
    node.appendData(added);
    return true;
  },

  // Adds one line, with its end if it has one; returns the nodes that it added.
  line(text) {
    const fence = /^\s*```/.test(text);
    if (this.block?.kind === "pre" && fence) return this.endFence(text);
    if (this.block?.kind === "pre") return this.within(document.createTextNode(text));
    if (fence) return this.begin("pre", hidden(text));
    if (!text.trim()) return this.blank(text);
    const [heading, hashes] = /^(#{1,6})\s+/.exec(text) ?? [];
    if (heading) return this.heading(hashes.length, heading, text);
    const item = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+/.exec(text);
    if (item) return this.item(item, text);
    if (this.block?.kind === "p") return this.within(...inline(text));
    const listed = /^\s/.test(text) && this.block?.node.lastChild;
    if (listed) return this.into(listed, ...inline(text));
    return this.begin("p", ...inline(text));
  },

  into(parent, ...nodes) {
    parent.append(...nodes);
    return nodes;
  },

  within(...nodes) {
    return this.into(this.block.node, ...nodes);
  },

  begin(kind, ...nodes) {
    const node = document.createElement(kind);
    node.append(...nodes);
    this.block = {kind, node};
    return this.into(document.getElementById("answer"), node);
  },

  endFence(text) {
    const nodes = this.within(hidden(text));
    this.block = null;
    return nodes;
  },

  blank(text) {
    // A list may go on after a blank line.
    const list = ["ul", "ol"].includes(this.block?.kind);
    if (list) return this.into(this.block.node.lastChild, hidden(text));
    this.block = null;
    return this.into(document.getElementById("answer"), document.createTextNode(text));
  },

  heading(level, mark, text) {
    const words = inline(text.slice(mark.length));
    const nodes = this.begin(`h${Math.min(6, level + 2)}`, hidden(mark), ...words);
    this.block = null;
    return nodes;
  },

  item([mark, indent, number], text) {
    const kind = number ? "ol" : "ul";
    const row = document.createElement("li");
    row.append(hidden(mark), ...inline(text.slice(mark.length)));
    if (number) row.value = Number(number);
    if (indent.length > 1) row.className = "deep";
    return this.block?.kind === kind ? this.within(row) : this.begin(kind, row);
  },
};
