// Talking to the service, and saying what went wrong.

import {element} from "./markdown.js";

const ANSWER_MOST_MS = 30_000;

// What waits for longer than this may wait for a connection of the browser's own, which opens six
// to one address over HTTP/1.1, in all its tabs together; each open answer takes one.
export const LONG_MS = 4000;
export function whyItWaits() {
  const [page] = performance.getEntriesByType("navigation");
  if (!page?.nextHopProtocol.startsWith("http/1")) return "It takes long.";
  return "It takes long. Over HTTP/1.1 a browser has six connections to one address, and each open " +
    "answer takes one: close another tab of this page.";
}

export async function call(method, url, {body, key} = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const signal = AbortSignal.timeout(ANSWER_MOST_MS);
  try {
    const sent = body && JSON.stringify(body);
    const response = await fetch(url, {method, headers, body: sent, signal});
    const answer = await response.json().catch(() => ({}));
    signal.throwIfAborted(); // half an answer is none
    const problem = response.ok ? null : problemOf(response, answer);
    return {response, answer, problem};
  } catch {
    if (signal.aborted) {
      const title = `The service has not answered within ${ANSWER_MOST_MS / 1000} s.`;
      return {problem: {title, detail: "It may be at work on it all the same. Try again."}};
    }
    const detail = "Check that it runs and that you are online, then ask again.";
    return {problem: {title: "The service cannot be reached.", detail}};
  }
}

function problemOf(response, {title, detail = "", code = "", field = ""}) {
  const wait = response.headers.get("Retry-After");
  if (wait) detail = `${detail} Try again in ${wait} s.`.trim();
  return {title: title ?? `The service answered ${response.status}.`, detail, code, field};
}

export function showProblem(box, problem) {
  box.hidden = !problem;
  if (!problem) return;
  const title = element("strong", problem.title.replace(/[^.!?]$/, "$&."));
  const code = problem.code ? [" ", element("code", problem.code)] : [];
  box.replaceChildren(title, ` ${problem.detail}`, ...code);
}
