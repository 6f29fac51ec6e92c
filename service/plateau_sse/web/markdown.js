// Draws Markdown while it comes, with streaming-markdown's parser.
//
// What must hold: every node is made here, from names that stand here. What is written becomes
// text (but for `<br>`, the one way to break a line within a cell of a table), and where it is the address of a link one of http, https or mailto; nothing of it is lost
// but Markdown's own signs. How the text was cut on its way makes no difference to what is drawn,
// and the work grows with the text, whatever it is.

import * as md from "./smd.js";

export function element(name, text = "", className = "") {
  const node = document.createElement(name);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

// ---- links

const SCHEMES = ["http:", "https:", "mailto:"];

// Gives `node`, an <a>, the address if it is one that may be followed.
export function link(node, address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return node;
  }
  if (!SCHEMES.includes(url.protocol)) return node;
  node.href = url.href;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  return node;
}

// ---- Markdown

// The page has h1 to h3 of its own, and no heading leaves out a level: whatever an answer begins
// with is an h4.
const HEADINGS = [md.HEADING_1, md.HEADING_2, md.HEADING_3, md.HEADING_4, md.HEADING_5, md.HEADING_6];
class Levels {
  constructor() {
    this.top = this.last = null;
  }

  nameOf(token) {
    const level = HEADINGS.indexOf(token);
    this.top ??= level;
    const wanted = 4 + Math.max(0, level - this.top);
    this.last = Math.min(wanted, (this.last ?? 3) + 1, 6);
    return `h${this.last}`;
  }
}

const NAMES = {
  [md.PARAGRAPH]: "p",
  [md.CODE_INLINE]: "code",
  [md.ITALIC_AST]: "em",
  [md.ITALIC_UND]: "em",
  [md.STRONG_AST]: "strong",
  [md.STRONG_UND]: "strong",
  [md.STRIKE]: "s",
  [md.LINK]: "a",
  [md.RAW_URL]: "a",
  [md.IMAGE]: "a", // nothing is loaded from elsewhere: an image is a link to it
  [md.BLOCKQUOTE]: "blockquote",
  [md.LINE_BREAK]: "br",
  [md.RULE]: "hr",
  [md.LIST_UNORDERED]: "ul",
  [md.LIST_ORDERED]: "ol",
  [md.LIST_ITEM]: "li",
  [md.CHECKBOX]: "span",
  [md.TABLE_ROW]: "tr",
  [md.EQUATION_BLOCK]: "code",
  [md.EQUATION_INLINE]: "code",
};

function made(token, parent, levels) {
  if (token === md.CODE_BLOCK || token === md.CODE_FENCE) {
    const block = parent.appendChild(element("pre"));
    block.tabIndex = 0; // what scrolls must be reached by keyboard
    return block.appendChild(element("code"));
  }
  if (token === md.TABLE) {
    const around = parent.appendChild(element("div", "", "table"));
    around.tabIndex = 0;
    return around.appendChild(element("table"));
  }
  if (token === md.TABLE_ROW && parent.tagName === "TABLE") {
    const isHead = !parent.tHead;
    const rows = isHead ? parent.createTHead() : parent.tBodies[0] ?? parent.createTBody();
    return rows.appendChild(element("tr"));
  }
  if (token === md.TABLE_CELL) {
    return parent.appendChild(element(parent.parentElement?.tagName === "THEAD" ? "th" : "td"));
  }
  const name = HEADINGS.includes(token) ? levels.nameOf(token) : NAMES[token] ?? "span";
  const node = parent.appendChild(element(name));
  if (token === md.CHECKBOX) node.textContent = "☐";
  return node;
}

// What is no address that may be followed is to be read: it may be code, as in `on[name](event)`.
function address(node, value) {
  link(node, value);
  const isShown = node.href || node.textContent === value; // an address that stands for itself
  if (value && !isShown) node.after(` (${value})`);
}

function set(node, attribute, value) {
  if (attribute === md.HREF || attribute === md.SRC) address(node, value);
  if (attribute === md.SRC && !node.textContent) node.textContent = "image";
  if (attribute === md.CHECKED) node.textContent = "☑";
  if (attribute === md.START && /^\d{1,9}$/.test(value)) node.start = Number(value);
}

function put(node, text) {
  const {lastChild} = node;
  if (lastChild?.nodeType === Node.TEXT_NODE) lastChild.appendData(text);
  else if (text) node.append(text);
}

// The parser copies what it keeps back with each character that it adds, and the blanks before a
// line of code: neither may grow with the text.
const HELD_MOST = 4096;
const BLANKS_MOST = 1000; // a tab is four
const CELLS_MOST = 2000; // of a table: to lay it out costs more than its cells
const DEEPEST = 100; // a browser lays out some thousand nodes within each other, then it crashes
// What the parser drops where nothing but the end follows it.
const UNOPENED = /^(\\\[?|\$\$|``?|\[)$/;

// Writes Markdown into `root`, a character at a time: the parser would draw some of what is not
// well formed differently where it is given it in other pieces.
export class Writer {
  constructor(root) {
    this.root = root;
    this.text = "";
    this.anew = 0; // how much had been written when all of it was last drawn anew
    this.begin();
  }

  begin() {
    this.root.replaceChildren();
    this.levels = new Levels();
    this.ended = false;
    this.blanks = 0;
    this.said = ""; // not in a node yet: to add to one costs as much as it has
    this.parse();
  }

  parse() {
    this.nodes = [this.root];
    this.cells = 0;
    this.parser = md.parser({
      data: null,
      add_token: (_, token) => {
        if (token === md.TABLE) this.cells = 0;
        if (token === md.TABLE_CELL) this.cells++;
        this.nodes.push(made(token, this.top(), this.levels));
      },
      end_token: () => this.top() !== this.root && this.nodes.pop(),
      add_text: (_, text) => (this.said += text),
      set_attr: (_, attribute, value) => set(this.top(), attribute, value),
    });
  }

  // The node that is written into, with all that was said.
  top() {
    const node = this.nodes.at(-1);
    if (this.said) put(node, this.said);
    this.said = "";
    return node;
  }

  write(text) {
    // What had come to its end and goes on is drawn anew.
    if (this.ended) {
      this.anew = this.text.length;
      this.begin();
      this.feed(this.text);
    }
    this.text += text;
    this.feed(text);
    this.top();
  }

  feed(text) {
    for (const char of text) {
      if (char === "\r") continue;
      this.blanks = char === " " || char === "\t" ? this.blanks + 1 : 0;
      if (this.blanks > BLANKS_MOST) continue;
      md.parser_write(this.parser, char);
      const tooMuch = this.parser.pending.length > HELD_MOST || this.cells > CELLS_MOST;
      if (tooMuch || this.nodes.length > DEEPEST) this.giveUp();
    }
  }

  // What is held back is no Markdown: it is text, and what follows begins anew.
  giveUp() {
    const {token, pending} = this.parser;
    if (token === md.LINE_BREAK) made(token, this.top(), this.levels);
    const node = this.top().tagName === "TABLE" ? this.root : this.top();
    if (token !== md.RAW_URL) put(node, pending); // that is shown while it is held
    this.parse();
  }

  // Nothing may come for a while. What goes on is drawn anew: each time only where it is twice as
  // much as the last time.
  rest() {
    if (this.text.length >= 2 * this.anew) this.end();
  }

  // The parser keeps back what may yet become something else, and some of it even now.
  end() {
    if (this.ended) return;
    this.ended = true;
    const {pending} = this.parser;
    md.parser_end(this.parser);
    const dropped = !this.said && UNOPENED.test(pending) ? pending : "";
    put(this.top(), dropped || this.parser.pending.replace(/\n$/, ""));
  }
}
