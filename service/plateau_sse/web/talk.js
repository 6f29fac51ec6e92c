// A conversation on the page: what was said in it, and what is being said, whoever asked it.
//
// What must hold: one connection, however much runs; what is shown is what the service keeps.

import {clock, Turn} from "./turn.js";
import {LONG_MS} from "./asking.js";
import {Conversation} from "./conversation.js";

// `messages` in pairs: what was asked, and the answer, which names its question. Two who ask at
// once stand both before the first answer.
function exchanges(messages) {
  const found = [];
  for (const one of messages) {
    if (one.role !== "assistant") {
      found.push({question: one, said: null});
      continue;
    }
    const open = found.filter(({question, said}) => question && !said);
    // What was sent just now has no name yet by which an answer could know it.
    const pair = open.find(({question}) => question.id === one.reply_to) ??
      open.findLast(({question}) => !one.reply_to || question.id.startsWith("sent-"));
    if (pair) pair.said = one;
    else found.push({question: null, said: one});
  }
  return found;
}

// Of events that no frame has shown yet, as in a tab that nobody sees.
const HELD_MOST = 200;

export class Talk {
  // `page` has options(): what a Conversation takes; and is told changed(value) where there is
  // something to show, and asked(card) where a question is.
  constructor(root, page, id) {
    this.root = root;
    this.page = page;
    this.id = id;
    this.turns = [];
    this.events = []; // each with its run, in their order
    this.asked = null;
    this.stopping = this.waitsLong = false;
    this.painting = this.waiting = 0;
    this.leave = null;
    this.isClosed = false;
    this.store = new Conversation(this.options());
    root.replaceChildren();
  }

  options() {
    const onEvent = (event, run) => this.told(event, run);
    return {...this.page.options(), conversation: this.id, onEvent};
  }

  // Of one in which nothing was said yet there is nothing to load.
  open() {
    this.leave ??= this.store.subscribe(() => this.changed());
  }

  close() {
    this.isClosed = true;
    this.leave?.();
    clearTimeout(this.waiting);
    cancelAnimationFrame(this.painting);
  }

  // Whether it was taken.
  ask(input, more) {
    this.open();
    return this.sent(() => this.store.send(input, more));
  }

  async sent(ask) {
    this.store.options = this.options();
    this.asked = clock();
    await ask();
    this.paint();
    const {cache} = this.store.get();
    // What a conversation tells of an answer does not say where it came from.
    const turn = this.turns.findLast(({isOwn}) => isOwn);
    if (turn && cache) turn.isKnown = cache === "hit";
    this.paintSoon();
    return !this.store.get().error?.title;
  }

  async cancel() {
    this.resume();
    this.stopping = true;
    this.paintSoon();
    await this.store.stop();
    this.stopping = false;
    this.paintSoon();
  }

  drop() {
    this.store.drop();
    this.note("disconnected");
  }

  resume() {
    if (!this.store.get().dropped) return;
    this.note("reconnected");
    this.store.resume();
  }

  again() {
    const {status} = this.store.get().messages.at(-1);
    return this.sent(() => (status === "completed" ? this.store.regenerate() : this.store.retry()));
  }

  respond(request, payload) {
    return this.sent(() => this.store.respond(request, payload));
  }

  told(event, run) {
    this.events.push([event, run]);
    if (this.events.length > HELD_MOST) this.events.shift();
    this.paintSoon();
  }

  note(words) {
    this.paint();
    const {place} = this.store.get().messages.at(-1) ?? {};
    this.turns.at(-1)?.log.note(`${words} after ${place || "no event"}`);
    this.paintSoon();
  }

  changed() {
    const {connected, status} = this.store.get();
    const waits = !connected && status !== "idle";
    if (waits) {
      this.waiting ||= setTimeout(() => {
        this.waitsLong = true;
        this.changed();
      }, LONG_MS);
    } else {
      clearTimeout(this.waiting);
      this.waiting = 0;
      this.waitsLong = false;
    }
    this.paintSoon();
  }

  // ---- painting: once a frame at most, however fast the events come

  paintSoon() {
    this.painting ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.painting);
    this.painting = 0;
    if (this.isClosed) return;
    const value = this.store.get();
    const all = exchanges(value.messages);
    const isOn = !["idle", "loading"].includes(value.status);
    const {connected, dropped} = value;
    const {stopping, waitsLong} = this;
    // What was asked before the conversation was there goes below what was said in it.
    const isAbove = all.length > 1 && this.turns.length === 1 && this.turns[0].isOwn &&
      !this.turns[0].said;
    while (this.turns.length > (isAbove ? 0 : all.length)) this.turns.pop().card.remove();
    // Of several that are asked one is told, and those behind it wait.
    const last = all.length - 1;
    const begun = all.findIndex(({said}) => ["queued", "running"].includes(said?.status));
    const told = begun < 0 ? last : begun;
    all.forEach(({question, said}, at) => {
      const turn = this.turns[at] ?? this.begin(question);
      const own = this.events.filter(([, run]) => run === said?.id);
      for (const [event] of own) turn.log.add(event);
      const state = {isLast: at === last, isOn: isOn && at >= told, isTold: at === told, connected,
        dropped, stopping, waitsLong};
      turn.show(question, said, state);
    });
    this.events = [];
    this.page.changed(value, waitsLong);
  }

  begin(question) {
    const isOwn = question?.own ?? false;
    const turn = new Turn(this, isOwn ? this.asked : null);
    this.turns.push(turn);
    this.root.append(turn.card);
    if (isOwn) this.page.asked(turn.card);
    return turn;
  }
}
