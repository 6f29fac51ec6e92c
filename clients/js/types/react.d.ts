import type {
  AnswerState, Ask, InputRequest, Key, Part, Problem, Progress, RunError, RunEvent, SourcePart,
  ToolPart, Underway, Usage,
} from "./index.js";

export interface ConversationOptions {
  /** Where the service is. */
  url: string | URL;
  agent: string;
  conversation: string;
  key?: Key;
  user?: string;
  options?: Record<string, unknown>;
  cache?: Ask["cache"];
  /** Each event as it comes, and the run that it is of. */
  onEvent?: (event: RunEvent, run: string) => void;
}
export interface ShownMessage {
  id: string;
  role: string;
  status: string | null;
  text: string;
  parts: readonly Part[];
  tools: readonly ToolPart[];
  sources: readonly SourcePart[];
  underway?: readonly Underway[];
  progress?: Progress | null;
  finish_reason?: string | null;
  error?: RunError | null;
  created_at?: number;
  /** Of an answer: the id of its question. */
  reply_to?: string | null;
  /** A question that was asked here. */
  own?: boolean;
  /** Of an answer that was heard since the conversation was loaded. */
  usage?: Usage | null;
  model?: string | null;
  cached?: boolean;
  duration_ms?: number | null;
  attempt?: number;
  events?: number;
  /** The id of the last event. */
  place?: string;
}
export interface ConversationValue {
  messages: readonly ShownMessage[];
  status: "loading" | "idle" | "asking" | "queued" | "running";
  error: Problem | RunError | null;
  answer: AnswerState;
  /** Whether somebody is there to be heard. */
  connected: boolean;
  /** Where the answer to the latest question asked here came from, once that is known. */
  cache: "hit" | "joined" | "miss" | null;
  /** `drop` was called, and `resume` not yet. */
  dropped: boolean;
}
export interface ConversationActions {
  send(input: string, more?: Partial<Ask>): Promise<void>;
  stop(): Promise<void>;
  /** Nothing is heard until `resume`, which goes on where this has stopped. */
  drop(): void;
  resume(): void;
  retry(): Promise<void> | undefined;
  regenerate(): Promise<void> | undefined;
  approve(request: Pick<InputRequest, "id">, approved?: boolean): Promise<void>;
  respond(
    request: Pick<InputRequest, "id">,
    payload: unknown,
    status?: "resolved" | "cancelled",
  ): Promise<void>;
}

export function useAnswer(
  eventsUrl: string | URL | null | undefined,
  options?: { renew?: () => string | Promise<string> },
): AnswerState;
export function useConversation(
  options: ConversationOptions,
): ConversationValue & ConversationActions;
export class Conversation implements ConversationActions {
  constructor(options: ConversationOptions);
  set options(options: ConversationOptions);
  get: () => ConversationValue;
  subscribe: (listener: () => void) => () => void;
  load: () => Promise<void>;
  send: ConversationActions["send"];
  stop: ConversationActions["stop"];
  drop: ConversationActions["drop"];
  resume: ConversationActions["resume"];
  retry: ConversationActions["retry"];
  regenerate: ConversationActions["regenerate"];
  approve: ConversationActions["approve"];
  respond: ConversationActions["respond"];
}
