// With the error handling of its README. It asks again as it asked before, by POST where that was
// one, and with the header Last-Event-ID: after a cut, and when its page is shown again.
import { EventStreamContentType, fetchEventSource } from "@microsoft/fetch-event-source";
import { last, mode, request, tell, url } from "./program.mjs";

class RetriableError extends Error {}
class FatalError extends Error {}

// The page.
globalThis.window = globalThis;
globalThis.document = Object.assign(new EventTarget(), { hidden: false });

function show(shown) {
  document.hidden = !shown;
  document.dispatchEvent(new Event("visibilitychange"));
}

function read(event) {
  try {
    return tell(event.id, event.data);
  } catch (error) {
    throw new FatalError("not JSON", { cause: error });
  }
}

let isNew = mode === "hide";
const controller = new AbortController();
if (last) request.headers["last-event-id"] = last;

await fetchEventSource(url, {
  ...request,
  signal: controller.signal,
  async onopen(response) {
    if (response.ok && response.headers.get("content-type") === EventStreamContentType) {
      return;
    } else if (response.status >= 400 && response.status < 500 && response.status !== 429) {
      throw new FatalError(await response.text());
    } else {
      throw new RetriableError();
    }
  },
  onmessage(event) {
    if (read(event)) controller.abort();
    else if (isNew && JSON.parse(event.data).type === "message.delta") {
      isNew = false;
      setImmediate(show, false);
      // Nobody is quicker, and where someone were it would take its own end for a fault.
      setTimeout(show, 100, true);
    }
  },
  onclose() {
    throw new RetriableError();
  },
  onerror(error) {
    if (error instanceof FatalError) throw error;
  },
});
