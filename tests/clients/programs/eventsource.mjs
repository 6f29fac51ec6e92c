// As a browser's own: it comes back by itself and sends the header Last-Event-ID.
import { EventSource } from "eventsource";
import { last, stayAwake, tell, url } from "./program.mjs";

const source = new EventSource(last ? `${url}&last_event_id=${last}` : url);
source.onmessage = (event) => {
  if (tell(event.lastEventId, event.data)) source.close();
};
stayAwake();
