// Follow a run of Plateau from any page, of any origin:
//
//   import {follow} from "https://host/client.js";
//   const handle = follow(eventsUrl, (state) => (pre.textContent = state.text));
//
// The browser's EventSource reconnects by itself and says where it was; what is left is to fold
// the events into one state. States are never changed, only replaced.

export const initial = Object.freeze({
  id: "", // of the last event: "<attempt>-<seq>"
  status: "connecting", // then queued, running, and completed, failed or cancelled
  text: "",
  progress: null, // the latest {step, total_steps, current_agent, message, percentage}
  tools: [], // the latest 100 of {id, name, arguments, output}
  attempt: 0,
  events: 0, // how many were folded
  missed: 0, // how many more the snapshots among them stand for
  error: null, // {code, message, retryable} of a failed run
  reason: null, // of a cancelled one
  finish_reason: null, // of a completed run: stop, length, content_filter, tool_calls, …
  usage: null,
  cached: false,
  duration_ms: null,
  output: null, // of a completed run
  connected: false,
  closed: false, // the stream is gone for good without an end: GET the run to learn why
});

export const finished = ({status}) => ["completed", "failed", "cancelled"].includes(status);

function withTool(tools, {id, name, arguments: given, output}) {
  const known = tools.find((tool) => tool.id === id);
  const tool = {...(known ?? {id, name, arguments: given}), ...(output !== undefined && {output})};
  return [...tools.filter((other) => other !== known), tool].slice(-100);
}

const bare = (event) => {
  if (!event) return null;
  const {type, lastEventId, ...fields} = event;
  return fields;
};

const changes = {
  __proto__: null,
  "run.progress": (_, event) => ({progress: bare(event)}),
  "message.delta": (state, {text}) => ({text: state.text + text}),
  "tool.call": (state, event) => ({tools: withTool(state.tools, event)}),
  "tool.result": (state, event) => ({tools: withTool(state.tools, event)}),
  // Of another run than the one seen before, any event is new.
  "run.restarted": (_, {reason}) =>
    ({text: "", progress: null, tools: [], ...(reason === "other" && {id: ""})}),
  "run.snapshot": (state, {status, text = "", progress, tools = [], missed = 0}) => ({
    status,
    text,
    progress: bare(progress),
    tools: tools.reduce(withTool, []),
    missed: state.missed + missed,
  }),
  "run.completed": (state, event) => {
    const {finish_reason = null, usage = null, cached = false, duration_ms = null} = event;
    const output = event.output ?? state.text;
    return {status: "completed", finish_reason, usage, cached, duration_ms, output};
  },
  "run.failed": (_, {code, message, retryable}) =>
    ({status: "failed", error: {code, message, retryable}}),
  "run.cancelled": (_, {reason = null}) => ({status: "cancelled", reason}),
};

function newer(id, than) {
  const [attempt, seq] = id.split("-").map(Number);
  const [oldAttempt, oldSeq] = than.split("-").map(Number);
  return !than || attempt > oldAttempt || (attempt === oldAttempt && seq > oldSeq);
}

// `event` is what EventSource hands over, or its parsed data with `lastEventId` beside it.
export function fold(state, event) {
  const fields = typeof event.data === "string" ? JSON.parse(event.data) : event;
  const id = event.lastEventId || state.id;
  // A repeat changes nothing. A snapshot is never one: that of a queued run has no id of its
  // own, and after a failover of the store its id may lie before ours.
  // Nor is an end that has no id: EventSource hands over the last one in its place.
  const ends = /^run\.(completed|failed|cancelled)$/.test(fields.type);
  const fresh = fields.type === "run.snapshot" || (ends && !finished(state));
  if (!fresh && event.lastEventId && !newer(id, state.id)) return state;
  const attempt = Number(id.split("-")[0]) || (fields.attempt ?? state.attempt);
  const next = {...state, id, attempt, events: state.events + 1, status: "running"};
  return {...next, ...changes[fields.type]?.(state, fields)};
}

// `onState(state, event)`: `event` is missing where only the connection changed. To go on from
// where an earlier handle stopped, pass its state as `options.state`.
export function follow(url, onState, {state = initial} = {}) {
  const target = new URL(url, location.href);
  if (state.id) target.searchParams.set("last_event_id", state.id);
  const source = new EventSource(target);
  const tell = (next, event) => onState((state = next), event);
  source.onopen = () => tell({...state, connected: true, closed: false});
  source.onmessage = ({data, lastEventId}) => {
    const event = {...JSON.parse(data), lastEventId};
    const next = fold(state, event);
    if (next === state) return;
    // What a snapshot says to be over still has its terminal event to come.
    if (finished(next) && event.type !== "run.snapshot") source.close();
    tell(next, event);
  };
  // EventSource gives up on every status but 200; anything else it tries again by itself.
  source.onerror = () => {
    const gone = source.readyState === EventSource.CLOSED && !finished(state);
    tell({...state, connected: false, closed: gone});
  };
  return {close: () => source.close(), get state() { return state; }};
}
