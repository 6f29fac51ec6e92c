// Following one run, whatever the network does.
//
// What must hold: there is one connection at a time; one that is dead is noticed within QUIET_MS,
// also where nobody has said so; whoever follows ends with the run's end, or knows why not.

import {finished, folded, initial, partsOf} from "./fold.js";
import {passes, problemOf, recordAt, whole} from "./service.js";

// The service sends something each 15 s.
const QUIET_MS = 25_000;
// Behind a silence, for the first attempt; twice as long for each that follows. What else the
// browser keeps open to the service may be as dead, and it sends each attempt over one of those.
const ANSWER_MS = 1000;
const AGAIN_MS = 250;
const AGAIN_MOST_MS = 30_000;
// Where nobody answers, the browser itself would knock each second or so, for ever.
const KNOCKS = 3;

// `onState(state, event)`: `event` is missing where only the connection changed. `state`: where an
// earlier handle stopped. `renew()` gives a new URL, or a promise of one, once the token of the
// old one has ended. `keep`: a conversation's events, where one run follows the other.
export function follow(url, onState, {state = initial, renew, keep, EventSource = globalThis.EventSource} = {}) {
  let source = null;
  let over = false;
  let timer = 0;
  let knocks = 0;
  let wait = AGAIN_MS;
  let heard = 0;
  const tell = (next, event) => onState((state = next), event);

  // One timer: until the next attempt, or until a connection has been silent for too long.
  const soon = (act, after, patience) => {
    clearTimeout(timer);
    timer = setTimeout(act, after, patience);
  };
  const listen = (patience = QUIET_MS, next = ANSWER_MS) => {
    heard = Date.now();
    soon(connect, patience, next);
  };

  function connect(patience = QUIET_MS) {
    source?.close();
    if (over) return;
    const target = whole(url);
    if (state.id) target.searchParams.set("last_event_id", state.id);
    target.searchParams.set("heartbeat", "1");
    source = new EventSource(target);
    source.onopen = () => {
      knocks = 0;
      listen();
      tell({...state, connected: true, closed: false, problem: null});
    };
    source.onmessage = ({data, lastEventId}) => {
      listen();
      take({...JSON.parse(data), lastEventId});
    };
    source.onerror = () => {
      if (state.connected) tell({...state, connected: false});
      // 2 is CLOSED: the browser gives up on every status but 200.
      if (source.readyState === 2) return void look();
      if (++knocks < KNOCKS) listen();
      else again();
    };
    listen(patience, Math.min(2 * patience, QUIET_MS));
  }

  function take(event) {
    // Of the next run: what has no id of its own comes with the last one.
    if (finished(state) && event.lastEventId !== state.id) state = {...initial, connected: true};
    const next = folded(state, event, event.lastEventId);
    if (next === state) return;
    if (next.hole) return again();
    if (next.id !== state.id) wait = AGAIN_MS;
    if (finished(next) && !keep) close();
    tell(next, event);
  }

  function again() {
    source.close();
    // Not all at once, who lost the same server.
    soon(connect, wait * (0.5 + Math.random()));
    wait = Math.min(2 * wait, AGAIN_MOST_MS);
    if (state.connected) tell({...state, connected: false});
  }

  // The stream is refused: the run's record says what has become of it. A conversation goes on, and
  // may be read by whom its events are refused.
  async function look() {
    source.close();
    const own = source;
    clearTimeout(timer);
    if (keep && renew) return renewed();
    const asked = await asking(recordAt(url));
    // Meanwhile it may have been closed, or taken up again.
    if (over || own !== source) return;
    if (asked.run && finished(asked.run)) {
      close();
      return tell({...state, ...endOf(asked.run), connected: false});
    }
    if (asked.problem?.status === 401 && renew) return renewed();
    refused(asked.problem);
  }

  // Some refusals pass, as does having no answer at all.
  function refused(problem) {
    if (passes(problem?.status)) return again();
    close();
    tell({...state, connected: false, closed: true, problem});
  }

  async function renewed() {
    const own = source;
    let problem;
    // Who may never answer is asked once more.
    soon(again, QUIET_MS);
    try {
      url = await renew();
    } catch (error) {
      problem = error;
    }
    if (!over && own === source) refused(problem);
  }

  // After a sleep, a time offline, or a page taken out of a cache, timers and sockets lie.
  function wake({type, persisted}) {
    // The browser may keep a page that is left, with its connections, of which it has six.
    if (type === "pagehide") return source.close();
    if (globalThis.document?.hidden) return;
    // A page that was only just loaded has begun already.
    if (persisted === false) return;
    if (persisted || !state.connected || Date.now() - heard > QUIET_MS) soon(connect, 0, ANSWER_MS);
  }
  // Those of the document pass the window on their way down; not all come up again.
  const wakers = (act) => ["visibilitychange", "resume", "pageshow", "pagehide", "online"]
    .forEach((name) => globalThis[act]?.(name, wake, true));
  wakers("addEventListener");

  function close() {
    over = true;
    clearTimeout(timer);
    source?.close();
    wakers("removeEventListener");
  }

  connect();
  return {close, get state() { return state; }};
}

async function asking(url) {
  try {
    const response = await fetch(url, {signal: AbortSignal.timeout(QUIET_MS)});
    const said = await response.json().catch(() => ({}));
    return response.ok ? {run: said} : {problem: problemOf(response, said)};
  } catch {
    return {};
  }
}

function endOf(run) {
  const {status, finish_reason, usage, error = null, reason = null, model = null, output, parts} = run;
  return {status, underway: [], finish_reason, usage, error, reason, model, output,
    closed: false, problem: null, ...(parts && partsOf(parts))};
}
