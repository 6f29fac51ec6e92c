/** What a run does; `partsOf` a record makes the same of its parts. */
export type Status = "connecting" | "queued" | "running" | "completed" | "failed" | "cancelled";
export type FinishReason =
  | "stop" | "length" | "content_filter" | "tool_calls" | "input_required" | "other";

export interface TextPart {
  type: "text" | "reasoning";
  part: number;
  text: string;
  continues?: number;
}
export interface ToolPart {
  type: "tool.call";
  id: string;
  name: string;
  arguments: unknown;
  /** The caller executes it. */
  client?: boolean;
  output?: unknown;
  error?: string;
}
export interface ResultPart {
  type: "tool.result";
  id: string;
  output?: unknown;
  error?: string;
}
export interface SourcePart {
  type: "source";
  id: string;
  url?: string;
  media_type?: string;
  title?: string;
  filename?: string;
}
export interface FilePart {
  type: "file";
  media_type: string;
  url: string;
}
export interface DataPart {
  type: "data";
  name: string;
  value: unknown;
  id?: string;
}
export interface StepPart {
  type: "step";
  name: string;
}
export interface InputRequest {
  type: "input.request";
  id: string;
  kind: "approval" | "question";
  message: string;
  tool_call_id?: string;
  schema?: unknown;
}
export type Part =
  | TextPart | ToolPart | ResultPart | SourcePart | FilePart | DataPart | StepPart | InputRequest;

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cached_input_tokens?: number;
  reasoning_tokens?: number;
}
export interface Progress {
  step: number;
  total_steps: number;
  current_agent: string;
  message: string;
  percentage: number;
}
export interface RunError {
  code: string;
  message: string;
  retryable: boolean;
}
/** Why the service refused; docs/errors.md has the codes. */
export interface Problem {
  title: string;
  status: number;
  code: string;
  detail: string;
  field: string;
  retry_after_s: number | null;
}
export interface Underway {
  id: string;
  name?: string;
  arguments?: string;
  output?: unknown;
}

export interface AnswerState {
  readonly id: string;
  readonly status: Status;
  readonly text: string;
  readonly parts: readonly Part[];
  readonly tools: readonly ToolPart[];
  readonly sources: readonly SourcePart[];
  readonly underway: readonly Underway[];
  readonly progress: Progress | null;
  readonly attempt: number;
  readonly events: number;
  readonly error: RunError | null;
  readonly reason: string | null;
  readonly finish_reason: FinishReason | null;
  readonly usage: Usage | null;
  readonly model: string | null;
  readonly cached: boolean;
  readonly duration_ms: number | null;
  readonly output: string | null;
  readonly open: number | null;
  readonly hole: boolean;
  readonly connected: boolean;
  /** The stream is gone for good; `problem` says why. */
  readonly closed: boolean;
  readonly problem: Problem | null;
}

/** An event of a run, as docs/events.md has them. */
export interface RunEvent {
  type: string;
  lastEventId?: string;
  [member: string]: unknown;
}

export const initial: AnswerState;
export function finished(state: { status: string }): boolean;
export function fold(
  state: AnswerState,
  event: RunEvent | MessageEvent<string>,
): AnswerState;
export function partsOf(parts: readonly Part[] | null | undefined): {
  text: string;
  parts: Part[];
  tools: ToolPart[];
  sources: SourcePart[];
};

export interface FollowOptions {
  state?: AnswerState;
  /** A new URL of the events, once the token of the old one has ended. */
  renew?: () => string | Promise<string>;
  /** A conversation's events: one run follows the other, and the state begins anew with each. */
  keep?: boolean;
  /** Where there is none, as in Node. */
  EventSource?: typeof globalThis.EventSource;
}
export interface Handle {
  close(): void;
  readonly state: AnswerState;
}
export function follow(
  eventsUrl: string | URL,
  onState: (state: AnswerState, event?: RunEvent) => void,
  options?: FollowOptions,
): Handle;

export type Key = string | (() => string | Promise<string>);
export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content?: unknown;
  tool_calls?: unknown[];
  tool_call_id?: string;
  name?: string;
}
export interface Ask {
  agent: string;
  input?: string;
  messages?: Message[];
  conversation_id?: string;
  user?: string;
  options?: Record<string, unknown>;
  cache?: { mode?: "use" | "refresh" | "off"; ttl_s?: number };
  resume?: { id: string; status: "resolved" | "cancelled"; payload?: unknown }[];
}
export interface Answer {
  id: string;
  status: string;
  agent: string;
  cached: boolean;
  cache: "hit" | "joined" | "miss";
  events_url: string;
  cancel_url: string;
  record_url: string;
  /** Of a run in a conversation, as in `conversation`. */
  conversation_events_url?: string;
  output?: string | null;
  parts?: Part[];
}
export interface CallOptions {
  key?: Key;
  signal?: AbortSignal;
}
export function ask(
  url: string | URL,
  body: Ask,
  options?: CallOptions & { headers?: Record<string, string>; idempotencyKey?: string },
): Promise<Answer>;
export function cancel(
  run: string | { cancel_url: string },
  options?: CallOptions,
): Promise<{ id: string; status: string } | null>;

export interface SavedMessage {
  id: string;
  role: string;
  status: string | null;
  content: string | null;
  parts: Part[];
  length: number;
  truncated: boolean;
  reply_to: string | null;
  created_at: number;
}
export function conversation(
  url: string | URL,
  id: string,
  options?: CallOptions & { user?: string },
): Promise<{
  id: string;
  messages: SavedMessage[];
  active_run: { id: string; status: string; events_url: string; cancel_url: string } | null;
  /** Of whatever runs in it, to be resolved against the service's URL; `follow` with `keep`. */
  events_url?: string | null;
}>;

export class PlateauError extends Error implements Problem {
  constructor(problem: Partial<Problem> & { title: string });
  title: string;
  status: number;
  code: string;
  detail: string;
  field: string;
  retry_after_s: number | null;
}
