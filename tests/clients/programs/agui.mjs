// AG-UI's own agent, at its HTTP address. Its argument says what it is asked; what has come of
// it is printed at the end.
import {
  HttpAgent,
  buildResumeArray,
  runHttpRequest,
  transformHttpEventStream,
} from "@ag-ui/client";
import { existsSync, writeFileSync } from "node:fs";

const { url, headers, threadId, history, runs } = JSON.parse(process.argv[2]);
const tried = [];

class Agent extends HttpAgent {
  // What a page that is loaded again asks for: all that the run has said so far, and the rest.
  connect() {
    return transformHttpEventStream(
      runHttpRequest(async () => {
        const response = await fetch(`${new URL(url).origin}/agui/${threadId}/events`, { headers });
        tried.push(note(response));
        return response;
      }),
    );
  }
}

const note = (response) => ({
  status: response.status,
  cache: response.headers.get("x-cache"),
  run: response.headers.get("x-plateau-run"),
});

const agent = new Agent({
  url,
  headers,
  threadId,
  initialMessages: history ?? [],
  fetch: async (...request) => {
    const response = await fetch(...request);
    tried.push(note(response));
    return response;
  },
});

const told = [];
for (const { message, until, touch, connect, answers, ...asked } of runs) {
  if (message) agent.addMessage(message);
  const seen = { events: [], error: null, failed: null, outcome: null };
  let said = "";
  const watch = {
    onEvent: ({ event }) => {
      seen.events.push(event);
      if (event.type === "TEXT_MESSAGE_CONTENT") said += event.delta;
      if (until && said.includes(until) && !existsSync(touch)) writeFileSync(touch, "");
    },
    onRunErrorEvent: ({ event }) => {
      seen.error = event;
    },
    onRunFailed: ({ error }) => {
      seen.failed = String(error);
    },
    onRunFinishedEvent: ({ event }) => {
      seen.outcome = event;
    },
  };
  const parameters = { ...asked };
  if (answers) parameters.resume = buildResumeArray(agent.pendingInterrupts, answers);
  try {
    await (connect ? agent.connectAgent(parameters, watch) : agent.runAgent(parameters, watch));
  } catch (error) {
    seen.failed ??= String(error);
  }
  told.push(seen);
}
console.log(JSON.stringify({ messages: agent.messages, runs: told, tried }));
process.exit(0);
