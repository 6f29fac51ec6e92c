// It asks again as it asked before, with the header Last-Event-ID.
import { createEventSource } from "eventsource-client";
import { last, request, tell, url } from "./program.mjs";

const source = createEventSource({ url, ...request, initialLastEventId: last || undefined });
for await (const { id, data } of source) {
  if (tell(id, data)) break;
}
source.close();
