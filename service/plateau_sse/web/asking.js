// Talking to the service, and saying what went wrong.

import {element} from "./markdown.js";

export async function call(method, url, {body, key} = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    const response = await fetch(url, {method, headers, body: body && JSON.stringify(body)});
    const answer = await response.json().catch(() => ({}));
    const problem = response.ok ? null : problemOf(response, answer);
    return {response, answer, problem};
  } catch {
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
