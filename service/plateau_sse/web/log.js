// The log of a run's events: the latest 100, and what was done between them.

import {element} from "./markdown.js";

const LENGTH = 100;
const SHOWN_CHARS = 160;

export class Log {
  constructor(list) {
    this.list = list;
    this.waiting = [];
    this.last = "";
  }

  add({lastEventId, type, ...fields}) {
    // What has no id of its own comes with the last one.
    const id = lastEventId === this.last ? "" : lastEventId;
    this.last = lastEventId;
    this.push([id, type, fields]);
  }

  note(words) {
    this.push(["", words, null]);
  }

  push(row) {
    this.waiting.push(row);
    if (this.waiting.length > LENGTH) this.waiting.shift();
  }

  paint() {
    if (!this.waiting.length) return;
    const {list} = this;
    const atEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
    list.append(...this.waiting.map(rowOf));
    this.waiting = [];
    while (list.children.length > LENGTH) list.firstChild.remove();
    if (atEnd) this.toEnd();
  }

  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}

function rowOf([id, type, fields]) {
  const row = element("li");
  if (fields) {
    const shown = JSON.stringify(fields).slice(0, SHOWN_CHARS);
    row.append(element("b", id || "–"), ` ${type} `, element("i", shown));
  } else {
    row.append(element("span", `— ${type} —`, "note"));
  }
  return row;
}
