// It comes back by itself and says what it has seen in ?lastEventId=.
import { EventSourcePolyfill } from "event-source-polyfill";
import { last, tell, url } from "./program.mjs";

const source = new EventSourcePolyfill(last ? `${url}&lastEventId=${last}` : url);
source.onmessage = (event) => {
  if (tell(event.lastEventId, event.data)) source.close();
};
