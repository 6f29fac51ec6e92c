// A conversation as one value that changes: what was said, what is being said, what went wrong.
//
// What must hold: what is shown is what the service keeps, but for the messages that are told
// meanwhile, and an answer names its question (`reply_to`); one run at a time is asked from here.
// There is one connection, on which whatever runs in the conversation is told, whoever asked it,
// one run behind the other: of two that overlap each is shown to its end.

import {finished, initial, partsOf} from "./fold.js";
import {follow} from "./follow.js";
import {ask, cancel, conversation, PlateauError} from "./service.js";

const EMPTY = Object.freeze({
  messages: [], status: "loading", error: null, answer: initial, connected: false, dropped: false,
  cache: null,
});

// `options`: {url, agent, conversation, key, user, options, cache, onEvent}. `status` is loading,
// idle, asking, queued, running; `answer` is the state of the latest answer, `cache` (hit, miss,
// joined) where that to the latest question asked here came from. `onEvent(event, run)`
// is told each event, of which `data` that is transient is nowhere else.
export class Conversation {
  #options;
  #value = EMPTY;
  #listeners = new Set();
  #handle = null;
  // What is told, or is to be told next.
  #run = null;
  // What was asked here and is told behind that.
  #next = null;
  // The question that is sent just now, which has no name yet.
  #asking = null;
  // The latest question of the conversation where it was asked here, as it was asked.
  #last = null;
  #loaded = null;
  // Connects from a state; null where nothing is to be heard.
  #connect = null;
  #lasts = false;
  #painting = 0;
  #opened = 0;
  // Runs in the order in which they were told.
  #heard = [];

  constructor(options) {
    this.#options = options;
  }

  set options(options) {
    this.#options = options;
  }

  get = () => this.#value;

  subscribe = (listener) => {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.#loaded = this.load();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#leave();
    };
  };

  // What the service has of it, and from there on whatever runs in it.
  load = async () => {
    const opened = ++this.#opened;
    try {
      const said = await this.#read();
      if (opened !== this.#opened || this.#run) return;
      this.#set({messages: said.messages.map(shown), status: "idle", error: null});
      if (said.events_url) return this.#listen(said);
      // A service that was replaced by an older one, or whose store is away, tells one run.
      if (said.active_run) this.#follow(said.active_run);
    } catch (error) {
      if (opened === this.#opened) this.#set({status: "idle", error: problem(error)});
    }
  };

  #read() {
    const {url, conversation: id, ...rest} = this.#options;
    return conversation(url, id, rest);
  }

  #at = (path) => {
    const where = new URL(this.#options.url, globalThis.location?.href).href;
    return new URL(path, where.replace(/\/?$/, "/"));
  };

  #listen(said) {
    // What is asked, and ended, before the first event is heard is behind what was read, too.
    const after = said.messages.at(-1)?.id ?? "0";
    const behind = ({events_url}) => {
      const url = this.#at(events_url);
      url.searchParams.set("after", after);
      return url;
    };
    const renew = async () => behind(await this.#read());
    const hear = (state, event) => this.#hear(state, event);
    this.#begin((state) => follow(behind(said), hear, {keep: true, renew, state}), true);
  }

  #begin(connect, lasts) {
    this.#handle?.close();
    this.#connect = connect;
    this.#lasts = lasts;
    this.#handle = connect(initial);
  }

  // Nothing is heard until `resume`, which goes on where this has stopped.
  drop = () => {
    this.#handle?.close();
    this.#set({dropped: Boolean(this.#connect), connected: false});
  };

  resume = () => {
    if (!this.#value.dropped) return;
    this.#set({dropped: false});
    this.#handle = this.#connect({...this.#handle.state, connected: false});
  };

  #hear(state, event) {
    if (!event) {
      if (state.closed) this.#handle = this.#connect = null;
      const closed = state.closed && {status: "idle", error: state.problem};
      return this.#set({connected: state.connected, ...closed});
    }
    if (event.type === "conversation.missed") return void this.#refresh(null);
    if (event.type === "run.started" && this.#heard.at(-1) !== event.run) {
      this.#heard.push(event.run);
      if (this.#next?.id === event.run) this.#goOn();
      if (this.#run?.id !== event.run) {
        const cancel_url = this.#at(`v1/runs/${event.run}/cancel`).href;
        // Somebody asked it before what was asked here, which comes behind it.
        if (this.#run && !this.#heard.includes(this.#run.id)) this.#next = this.#run;
        if (!this.#next) this.#last = null;
        // Without a token of its own to end it by.
        this.#run = {id: event.run, cancel_url, key: this.#options.key};
        this.#set({error: null});
        this.#refresh(event.run);
      }
    }
    // What has no name yet is told again once it begins.
    if (this.#run && this.#heard.at(-1) === this.#run.id) this.#show(state, event);
  }

  // Somebody else has asked: what, the service knows. What was told from that run on is newer.
  async #refresh(run) {
    const opened = ++this.#opened;
    try {
      const said = await this.#read();
      if (opened !== this.#opened) return;
      const from = this.#heard.indexOf(run);
      const newer = from < 0 ? [] : this.#heard.slice(from);
      const known = said.messages.map(({id}) => id);
      // What is asked just now the service may not have yet.
      const waits = [this.#run, this.#next].map((one) => one && questionOf(one.id));
      const kept = this.#value.messages.filter(({id}) => newer.includes(id) ||
        id === this.#asking || (waits.includes(id) && !known.includes(id)));
      const ids = kept.map(({id}) => id);
      const before = said.messages.map(shown).filter(({id}) => !ids.includes(id));
      this.#set({messages: [...before, ...kept]});
    } catch (error) {
      if (opened === this.#opened) this.#set({error: problem(error)});
    }
  }

  send = (input, more = {}) => this.#ask({input, ...more}, input);

  // The latest question once more: after a failure as it was, of an answer that is there anew.
  retry = () => this.#last ? this.#ask(this.#last.body, this.#last.shown) : this.#again({});
  regenerate = () => this.#again({cache: {mode: "refresh"}});
  #again(more) {
    const asked = this.#value.messages.findLast(({role}) => role === "user");
    return asked && this.#ask({input: asked.text, ...more}, asked.text);
  }

  // To an `input.request`: approve({id}), approve({id}, false), respond({id}, payload).
  respond = ({id}, payload, status = "resolved") =>
    this.#ask({input: said(payload, status), resume: [{id, status, payload}]}, null);
  approve = (request, approved = true) => this.respond(request, {approved});

  stop = async () => {
    if (!this.#run) return;
    try {
      await cancel(this.#run, {key: this.#run.key});
    } catch (error) {
      this.#set({error: problem(error)});
    }
  };

  async #ask(body, shownAs) {
    const own = shownAs === null ? [] : [{id: `sent-${this.#value.messages.length}`, own: true,
      role: "user", text: shownAs, status: null, reply_to: null,
      parts: [{type: "text", part: 0, text: shownAs}], tools: [], sources: []}];
    const asking = {status: "asking", error: null, cache: null};
    const isLoading = this.#value.status === "loading";
    if (isLoading) {
      // It is seen at once, and below what was said before as soon as that is there.
      this.#set({messages: own, ...asking});
      await this.#loaded;
    }
    const {status} = this.#value;
    if (isLoading ? ["queued", "running"].includes(status) : status !== "idle") {
      const title = "An answer is on: wait for its end, or stop it.";
      return this.#set({error: problem(new PlateauError({title, code: "busy"}))});
    }
    this.#opened += 1;
    const last = {body, shown: shownAs};
    const heard = this.#heard.length;
    const others = () => this.#value.messages.filter((one) => !own.includes(one));
    this.#set({messages: [...others(), ...own], ...asking});
    const {url, agent, conversation: conversation_id, key, user, options, cache} = this.#options;
    const asked = {agent, conversation_id, ...(user && {user}), ...(options && {options}),
      ...(cache && {cache}), ...body};
    this.#asking = own[0]?.id;
    try {
      const run = await ask(url, asked, {key});
      this.#asking = null;
      this.#set({messages: named(this.#value.messages, own[0], run), cache: run.cache});
      // An answer that was there has another id in the conversation, which only that knows.
      if (run.cached && this.#heard.length > heard) this.#refresh(this.#heard.at(-1));
      this.#asked(run, last);
    } catch (error) {
      this.#asking = null;
      // What was not taken is not in the conversation: it is the caller's to send again.
      this.#last = last;
      const status = this.#run ? "running" : "idle";
      this.#set({messages: others(), status, error: problem(error)});
    }
  }

  // The conversation's events may have told of it already, and of what was asked behind it.
  #asked(run, last) {
    const isHeard = this.#heard.includes(run.id);
    if (!isHeard || this.#heard.at(-1) === run.id) this.#last = last;
    if (!this.#handle || !this.#lasts) return this.#follow(run);
    if (this.#run?.id === run.id) {
      this.#run = run;
    } else if (run.cached) {
      if (!this.#run) this.#set({status: "idle"});
    } else if (!isHeard) {
      this.#next = run;
      if (!this.#run) this.#goOn();
    }
  }

  #goOn() {
    this.#run = this.#next;
    this.#next = null;
    this.#set({status: this.#run ? "queued" : "idle"});
  }

  #follow(run) {
    // Who has left meanwhile finds it on loading, should it come back.
    if (this.#listeners.size === 0) return;
    this.#run = run;
    this.#show(initial);
    const show = (state, event) => this.#show(state, event);
    this.#begin((state) => follow(run.events_url, show, {state}), false);
  }

  #show(state, event) {
    const {messages} = this.#value;
    const {id} = this.#run;
    const {parts, tools, sources, underway, progress, status, finish_reason, error} = state;
    const {usage, model, cached, duration_ms, attempt, events} = state;
    const own = {id, role: "assistant", reply_to: questionOf(id),
      text: state.text || state.output || "", parts, tools, sources, underway, progress, status, finish_reason, error, usage, model, cached,
      duration_ms, attempt, events, place: state.id};
    const at = messages.findIndex((one) => one.id === id);
    const all = at < 0 ? [...messages, own] : messages.with(at, own);
    const over = finished(state) || state.closed;
    if (over) [this.#run, this.#next] = [this.#next, null];
    if (over && !this.#lasts) this.#handle = this.#connect = null;
    const next = this.#run ? "queued" : "idle";
    const now = over ? next : status === "connecting" ? "queued" : status;
    const problem = state.closed ? state.problem : error ?? this.#value.error;
    const {connected} = state;
    this.#set({messages: all, status: now, error: problem, answer: state, connected}, over);
    if (event) this.#options.onEvent?.(event, id);
  }

  #leave() {
    this.#opened += 1;
    this.#handle?.close();
    this.#handle = this.#run = this.#next = this.#connect = null;
    this.#lasts = false;
    this.#heard = [];
    this.#value = EMPTY;
  }

  // Many pieces come within a frame, which is painted once.
  #set(change, now = true) {
    this.#value = {...this.#value, ...change};
    if (now) {
      clearTimeout(this.#painting);
      this.#painting = 0;
      for (const listener of this.#listeners) listener();
    } else {
      this.#painting ||= setTimeout(() => this.#set({}), 16);
    }
  }
}

const problem = (error) => error instanceof PlateauError ? error
  : new PlateauError({title: String(error?.message ?? error), code: "client"});

// The message that a run answers.
const questionOf = (run) => `${run}-user`;

// `own` as the service calls it, which may have told of it already.
function named(messages, own, {id: run, cached}) {
  const id = questionOf(run);
  if (!own || cached) return messages;
  const rest = messages.some((one) => one.id === id)
    ? messages.filter((one) => one !== own) : messages;
  return rest.map((one) => (one === own || one.id === id ? {...one, id, own: true} : one));
}

const said = (payload, status) => status === "cancelled" ? "Cancelled."
  : typeof payload === "string" ? payload : JSON.stringify(payload ?? null);

function shown({id, role, status, content, parts, created_at, reply_to = null, error = null}) {
  const folded = partsOf(parts?.length ? parts : [{type: "text", part: 0, text: content ?? ""}]);
  return {id, role, status, created_at, reply_to, error, underway: [], progress: null, ...folded};
}
