// `fetch` and a parser, and coming back by hand: where the answer says it is, by GET.
import { setTimeout } from "node:timers/promises";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { last, request, tell, url } from "./program.mjs";

let [seen, retry] = [last, 1000];
let [address, options] = [url, request];

async function ended() {
  const headers = { ...options.headers, Accept: "text/event-stream", "Last-Event-ID": seen };
  const response = await fetch(address, { ...options, headers });
  if (response.status !== 200) throw new Error(`${response.status}`);
  const location = response.headers.get("Location");
  if (location) [address, options] = [new URL(location, url), {}];
  const events = response.body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream({ onRetry: (ms) => (retry = ms) }));
  for await (const { id, data } of events) {
    seen = id ?? seen;
    if (tell(id, data)) return true;
  }
  return false;
}

function broke(error) {
  if (!(error instanceof TypeError)) throw error;
  return false;
}

while (!(await ended().catch(broke))) await setTimeout(retry);
