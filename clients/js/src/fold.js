// From events to one state. States are never changed, only replaced.
//
// What must hold: whatever a connection does, a state has each event once, or says that there is
// a hole. An answer is a tape, and an event's id says where on it the event ends, so a repeat and
// a hole are seen by arithmetic. What is state alone (progress, a call that is still being
// written) has no id of its own: EventSource hands over the last one with it, so it is known by
// its type.

export const initial = Object.freeze({
  id: "", // of the last event: "<tag>-<attempt>-<at>"
  status: "connecting", // then queued, running, and completed, failed or cancelled
  text: "", // the answer: all parts of type "text"
  // In their order: {type: "text" | "reasoning", part, text, continues?}, and as they came
  // "tool.call" (its output or error with it), "source", "file", "data", "step",
  // "input.request".
  parts: [],
  tools: [], // those of the parts that are calls
  sources: [], // those that are sources
  underway: [], // {id, name, arguments} of calls being written, {id, output} of first results
  progress: null, // the latest {step, total_steps, current_agent, message, percentage}
  attempt: 0,
  events: 0, // how many were folded
  error: null, // {code, message, retryable} of a failed run
  reason: null, // of a cancelled one
  finish_reason: null, // of a completed run: stop, length, content_filter, tool_calls, …
  usage: null,
  model: null,
  cached: false,
  duration_ms: null,
  output: null, // of a completed run
  open: null, // the number of the part that goes on, if its next delta comes now
  hole: false, // something is missing before an event, which was not taken: connect again
  connected: false,
  closed: false, // the stream is gone for good without an end, and so is its record
  problem: null, // why it is closed: {status, code, title, detail, …}
});

const nothing = (({text, parts, tools, sources, underway, progress, open}) =>
  ({text, parts, tools, sources, underway, progress, open}))(initial);

export const finished = ({status}) => ["completed", "failed", "cancelled"].includes(status);

// ---- from an event to what it changes

const bare = ({lastEventId, ...fields}) => fields;
const untyped = ({type, lastEventId, ...fields}) => fields;

function replaced(list, at, one) {
  const copy = list.slice();
  copy[at] = one;
  return copy;
}

const without = (list, id) => (list.some((one) => one.id === id)
  ? list.filter((one) => one.id !== id) : list);

function delta(type) {
  return (state, {part, text = "", continues}) => {
    const last = state.parts.at(-1);
    // Whoever begins within a part has not seen it opened.
    const goesOn = state.open === part && last?.type === type && last.part === part;
    const grown = goesOn
      ? {...last, text: last.text + text}
      : {type, part, text, ...(continues !== undefined && {continues})};
    return {
      parts: goesOn ? replaced(state.parts, state.parts.length - 1, grown) : [...state.parts, grown],
      ...(type === "text" && {text: state.text + text}),
      open: part,
    };
  };
}

const mark = (change) => (state, event) => ({...change(state, bare(event)), open: null});
const added = (state, event) => ({parts: [...state.parts, event]});

function result(state, {type, ...fields}) {
  const underway = without(state.underway, fields.id);
  // The latest call of that id: an agent may count its calls anew in each step.
  const at = state.parts.findLastIndex((one) => one.type === "tool.call" && one.id === fields.id);
  if (at < 0) return {...added(state, {type, ...fields}), underway};
  const call = state.parts[at];
  const tool = {...call, ...fields};
  const tools = state.tools.map((one) => (one === call ? tool : one));
  return {parts: replaced(state.parts, at, tool), tools, underway};
}

function data(state, event) {
  const same = (one) =>
    one.type === "data" && one.name === event.name && one.id === event.id;
  const at = event.id === undefined ? -1 : state.parts.findIndex(same);
  return at < 0 ? added(state, event) : {parts: replaced(state.parts, at, event)};
}

const tape = {
  __proto__: null,
  "message.delta": delta("text"),
  "reasoning.delta": delta("reasoning"),
  "tool.call": mark((state, event) => ({
    ...added(state, event),
    tools: [...state.tools, event],
    underway: without(state.underway, event.id),
  })),
  "tool.result": mark(result),
  source: mark((state, event) =>
    ({...added(state, event), sources: [...state.sources, event]})),
  file: mark(added),
  data: mark(data),
  step: mark(added),
  "input.request": mark(added),
  "run.completed": mark((state, event) => {
    const {finish_reason = null, usage = null, model = null} = event;
    const {cached = false, duration_ms = null, output = state.text} = event;
    return {status: "completed", underway: [], finish_reason, usage, model, cached, duration_ms,
      output};
  }),
  "run.failed": mark((_, {code, message, retryable}) =>
    ({status: "failed", underway: [], error: {code, message, retryable}})),
  "run.cancelled": mark((_, {reason = null}) =>
    ({status: "cancelled", underway: [], reason})),
};

function toldOf(state, event) {
  // A call, or a result, that is there already is never taken back to what was before it. An
  // agent may count its calls anew in each step.
  const isCall = ({type, id}) => type === "tool.call" && id === event.id;
  const found = state.parts.findLast((one) => one.type === "step" || isCall(one));
  const call = found?.type === "tool.call" ? found : undefined;
  const late = event.type === "tool.delta"
    ? call : call && (call.output !== undefined || call.error !== undefined);
  if (late) return {};
  const {preliminary, ...fields} = untyped(event);
  return {underway: [...without(state.underway, event.id), fields]};
}

const states = {
  __proto__: null,
  "run.queued": () => ({status: "queued"}),
  "run.progress": (_, event) => ({progress: untyped(event)}),
  "tool.delta": toldOf,
  "tool.result": toldOf,
  data: () => ({}), // transient: whoever wants it gets it as the event
};

const isState = ({type, preliminary, transient}) => states[type] &&
  (type === "tool.result" ? preliminary : type !== "data" || transient);

// ---- where it is on the tape

const utf8 = new TextEncoder();
const place = (id) => /^(?:([0-9a-f]{6})-)?(\d+)-(\d+)$/.exec(id ?? "") ?? [];

// How much further the tape is behind an event than before it.
function width(state, {type, part, text = ""}) {
  if (!["message.delta", "reasoning.delta"].includes(type)) return 1;
  return utf8.encode(text).length + (state.open === part ? 0 : 1);
}

// An event that is not known may have a `data` of its own, which is nothing to be parsed: in what
// EventSource hands over there is an event, of its own type where those are asked for.
function fieldsOf(event) {
  const {type = "message", data} = event;
  if (typeof data !== "string") return event;
  try {
    const fields = JSON.parse(data);
    const isOne = typeof fields?.type === "string" && ["message", fields.type].includes(type);
    return isOne ? fields : event;
  } catch {
    return event;
  }
}

// `event` is what EventSource hands over, or its parsed data with `lastEventId` beside it.
export const fold = (state, event) => folded(state, fieldsOf(event), event.lastEventId || "");

// The same of the data already parsed.
export function folded(state, fields, id) {
  const {type} = fields;
  const next = {...state, events: state.events + 1, status: "running", hole: false};
  if (type === "heartbeat") return state;
  if (type === "run.restarted") {
    return {...next, ...nothing, id, attempt: fields.attempt ?? state.attempt};
  }
  if (isState(fields)) return finished(state) ? state : {...next, ...states[type](state, fields)};
  return onTape(state, next, fields, id);
}

function onTape(state, next, fields, id) {
  const change = tape[fields.type] ?? mark(() => ({}));
  if (!id || id === state.id) {
    const changed = change(state, fields);
    // An end may stand nowhere on the tape, as that of a run that the store has lost.
    if (changed.status && finished(state)) return state;
    if (!id || changed.status) return {...next, ...changed};
  }
  const [, tag, attempt, at] = place(id);
  const [, oldTag, oldAttempt, oldAt] = place(state.id);
  const other = oldTag && tag && oldTag !== tag;
  const same = !other && attempt === oldAttempt;
  if (!other && +attempt < +oldAttempt || (same && +at <= +oldAt)) return state;
  // A later attempt, or another run's, begins with nothing and at its beginning.
  const anew = state.id && !same ? nothing : {};
  const from = {...state, ...anew};
  if (state.id && +at - width(from, fields) !== (same ? +oldAt : 0)) return {...state, hole: true};
  return {...next, ...anew, id, attempt: +attempt, ...change(from, fields)};
}

// What a record, or a message of a conversation, has as its `parts`, as a state would have them.
export function partsOf(parts) {
  const kinds = {text: "message.delta", reasoning: "reasoning.delta"};
  let state = initial;
  for (const one of parts ?? []) {
    const type = kinds[one.type] ?? one.type;
    state = {...state, ...tape[type]?.(state, {...one, type}), open: null};
  }
  const {text, parts: all, tools, sources} = state;
  return {text, parts: all, tools, sources};
}
