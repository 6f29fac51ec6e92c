// Asking the service over HTTP.
//
// What must hold: what fails is one kind of error, which says what to do; what may have been done
// is not done twice.

const ANSWER_MOST_MS = 30_000;
const TRIES = 3;

// 0: nothing was answered.
export const passes = (status) => !status || status >= 500 || [408, 425, 429].includes(status);

export class PlateauError extends Error {
  // `code` is the service's (docs/errors.md), or "unreachable"; `status` is 0 where nothing was
  // answered; `detail` says what to do, `field` is the member of the body that is wrong.
  constructor({title, status = 0, code = "", detail = "", field = "", retry_after_s = null}) {
    super(detail ? `${title.replace(/[^.!?]$/, "$&.")} ${detail}` : title);
    this.name = "PlateauError";
    Object.assign(this, {title, status, code, detail, field, retry_after_s});
  }
}

export function problemOf(response, said) {
  const {title = `The service answered ${response.status}.`, detail = "", code = "", field = ""} =
    said ?? {};
  const wait = Number(response.headers.get("Retry-After"));
  return {title, detail, code, field, status: response.status, retry_after_s: wait || null};
}

const sleep = (ms, signal) => new Promise((done, failed) => {
  const timer = setTimeout(done, ms);
  signal?.addEventListener("abort", () => {
    clearTimeout(timer);
    failed(signal.reason);
  });
});

// `key`: an API key or a token, or a function that gives one, or a promise of it.
export async function call(method, url, {body, key, headers = {}, signal, tries = TRIES} = {}) {
  const sent = {...headers};
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const token = typeof key === "function" ? await key() : key;
  if (token) sent.Authorization = `Bearer ${token}`;
  const limit = AbortSignal.timeout(ANSWER_MOST_MS);
  try {
    const response = await fetch(url, {
      method, headers: sent, body: body && JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const text = await response.text();
    const said = text && parsed(text);
    if (response.ok) return {response, said};
    throw new PlateauError(problemOf(response, said));
  } catch (error) {
    signal?.throwIfAborted();
    const failed = error instanceof PlateauError ? error : unreachable(limit.aborted);
    if (!passes(failed.status) || tries <= 1) throw failed;
    const wait = (failed.retry_after_s ?? 2 ** (TRIES - tries)) * 1000;
    if (wait > ANSWER_MOST_MS) throw failed;
    await sleep(wait * (1 + Math.random() / 4), signal);
    return call(method, url, {body, key, headers, signal, tries: tries - 1});
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function unreachable(late) {
  const title = late
    ? `The service has not answered within ${ANSWER_MOST_MS / 1000} s.`
    : "The service cannot be reached.";
  return new PlateauError({title, code: "unreachable", detail: "Check that it runs and that you are online."});
}

const from = (base, path) => new URL(path, `${String(base).replace(/\/?$/, "/")}`);

// Ask an agent: a promise of {id, status, cached, cache, events_url, cancel_url, record_url, …}.
// `base` is where the service is; `body` as `POST /v1/runs` takes it. A request that was cut off
// is sent again under the same Idempotency-Key, so it is the same run.
export async function ask(base, body, {key, signal, headers = {}, idempotencyKey = unique()} = {}) {
  const url = from(new URL(base, globalThis.location?.href), "v1/runs");
  const sent = {"Idempotency-Key": idempotencyKey, ...headers};
  const {response, said} = await call("POST", url, {body, key, signal, headers: sent});
  const events = new URL(said.events_url, response.url || url);
  const record = new URL(events);
  record.pathname = record.pathname.replace(/\/events$/, "");
  return {
    ...said,
    cache: response.headers.get("X-Cache") ?? (said.cached ? "hit" : "miss"),
    events_url: events.href,
    record_url: record.href,
    cancel_url: new URL(said.cancel_url, events).href,
  };
}

// End a run: `run` is what `ask` gave, or its `cancel_url`. One that has ended already stays so.
export async function cancel(run, {key, signal} = {}) {
  const url = typeof run === "string" ? run : run.cancel_url;
  try {
    return (await call("POST", url, {key, signal})).said;
  } catch (error) {
    if (error.code === "run_finished") return null;
    throw error;
  }
}

// What was said in a conversation: {id, messages, active_run}.
export async function conversation(base, id, {key, user, signal} = {}) {
  const where = new URL(base, globalThis.location?.href);
  const url = from(where, `v1/conversations/${encodeURIComponent(id)}`);
  if (user) url.searchParams.set("user", user);
  const {response, said} = await call("GET", url, {key, signal});
  const run = said.active_run;
  if (!run) return said;
  const at = (link) => new URL(link, response.url || url).href;
  return {...said, active_run: {...run, events_url: at(run.events_url), cancel_url: at(run.cancel_url)}};
}

function unique() {
  // `randomUUID` is there on pages that came over https alone.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
