// Draws Markdown while it comes, with streaming-markdown's parser.
//
// What must hold: every node is made here, from names that stand here. What is written becomes
// text, and where it is the address of a link one of http, https or mailto. And how the text was
// cut on its way makes no difference to what is drawn.

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

// The page has h1 to h3 of its own.
const NAMES = {
  [md.PARAGRAPH]: "p",
  [md.HEADING_1]: "h4",
  [md.HEADING_2]: "h5",
  [md.HEADING_3]: "h6",
  [md.HEADING_4]: "h6",
  [md.HEADING_5]: "h6",
  [md.HEADING_6]: "h6",
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

function made(token, parent) {
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
  const node = parent.appendChild(element(NAMES[token] ?? "span"));
  if (token === md.CHECKBOX) node.textContent = "☐";
  return node;
}

function set(node, attribute, value) {
  if (attribute === md.HREF) link(node, value);
  if (attribute === md.SRC) {
    link(node, value);
    if (!node.textContent) node.textContent = "image";
  }
  if (attribute === md.CHECKED) node.textContent = "☑";
  if (attribute === md.START && /^\d{1,9}$/.test(value)) node.start = Number(value);
}

// Writes Markdown into `root`, a character at a time: the parser would draw some of what is not
// well formed differently where it is given it in other pieces.
export class Writer {
  constructor(root) {
    this.root = root;
    this.text = "";
    this.begin();
  }

  begin() {
    this.root.replaceChildren();
    this.ended = false;
    const nodes = [this.root];
    this.parser = md.parser({
      data: null,
      add_token: (_, token) => nodes.push(made(token, nodes.at(-1))),
      end_token: () => nodes.length > 1 && nodes.pop(),
      add_text: (_, text) => {
        const {lastChild} = nodes.at(-1);
        if (lastChild?.nodeType === Node.TEXT_NODE) lastChild.appendData(text);
        else nodes.at(-1).append(text);
      },
      set_attr: (_, attribute, value) => set(nodes.at(-1), attribute, value),
    });
  }

  write(text) {
    // What had come to its end and goes on is drawn anew.
    if (this.ended) {
      this.begin();
      this.feed(this.text);
    }
    this.text += text;
    this.feed(text);
  }

  feed(text) {
    for (const char of text) if (char !== "\r") md.parser_write(this.parser, char);
  }

  // The parser keeps back what may yet become something else.
  end() {
    if (!this.ended) md.parser_end(this.parser);
    this.ended = true;
  }
}
