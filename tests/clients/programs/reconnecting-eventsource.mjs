// It makes a new EventSource where the old one gives up, with ?lastEventId=.
import { EventSource } from "eventsource";
import ReconnectingEventSource from "reconnecting-eventsource";
import { last, stayAwake, tell, url } from "./program.mjs";

const source = new ReconnectingEventSource(url, {
  eventSourceClass: EventSource,
  lastEventId: last || undefined,
});
// Not `onmessage`: there it does not see what the last id was.
source.addEventListener("message", (event) => {
  if (tell(event.lastEventId, event.data)) source.close();
});
stayAwake();
