// Asking the service over HTTP.
//
// What must hold: what fails is one kind of error, which says what to do; what may have been done
// is not done twice, and what cannot be sent is not sent again.

const ANSWER_MOST_MS = 30_000;
const TRIES = 3;

// 0: nothing was answered.
export const passes = (status) => !status || status >= 500 || [408, 425, 429].includes(status);

export class PlateauError extends Error {
  // `code` is the service's (docs/errors.md), or "unreachable", "client" where it could not be
  // sent at all, "not_plateau"; `status` is 0 where nothing was answered; `detail` says what to do,
  // `field` is the member of the body that is wrong.
  constructor(what) {
    const {title, detail} = what;
    super(detail ? `${title.replace(/[^.!?]$/, "$&.")} ${detail}` : title);
    const name = "PlateauError";
    Object.assign(this, {name, status: 0, code: "", detail: "", field: "", retry_after_s: null}, what);
  }
}

export function problemOf(response, said) {
  const {status, headers} = response;
  const {title = `The service answered ${status}.`, detail = "", code = "", field = ""} = said ?? {};
  return {title, detail, code, field, status, retry_after_s: Number(headers.get("Retry-After")) || null};
}

const sleep = (ms, signal) => new Promise((done, failed) => {
  const timer = setTimeout(done, ms);
  signal?.addEventListener("abort", () => {
    clearTimeout(timer);
    failed(signal.reason);
  });
});

// `key`: an API key or a token, or a function that gives one, or a promise of it.
// `has` is what an answer of Plateau's has in it.
export async function call(method, url, options = {}) {
  const {body, key, headers, signal, tries = TRIES} = options;
  const sent = {...headers};
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const token = key?.call ? await key() : key;
  if (token) sent.Authorization = `Bearer ${token}`;
  const limit = AbortSignal.timeout(ANSWER_MOST_MS);
  let init;
  try {
    init = {
      method, headers: sent, body: body && JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    };
    new Request(url, init);
  } catch ({message}) {
    throw new PlateauError({title: message, code: "client"});
  }
  try {
    const response = await fetch(url, init);
    const text = await response.text();
    const said = text && parsed(text);
    if (response.ok && said?.id) return {response, said};
    throw new PlateauError(problemOf(response, response.ok
      ? {title: "Plateau does not answer so.", code: "not_plateau"} : said));
  } catch (error) {
    signal?.throwIfAborted();
    const failed = error instanceof PlateauError ? error : unreachable(limit.aborted);
    if (!passes(failed.status) || tries <= 1) throw failed;
    const wait = (failed.retry_after_s ?? 2 ** (TRIES - tries)) * 1000;
    if (wait > ANSWER_MOST_MS) throw failed;
    await sleep(wait * (1 + Math.random() / 4), signal);
    return call(method, url, {...options, tries: tries - 1});
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const unreachable = (late) => new PlateauError({
  title: late ? `The service has not answered within ${ANSWER_MOST_MS / 1000} s.`
    : "The service cannot be reached.",
  code: "unreachable",
  detail: "Check that it runs and that you are online.",
});

// Of a page, what is relative is beside it.
export const whole = (url) => new URL(url, globalThis.location?.href);
const from = (base, path) => new URL(path, whole(base).href.replace(/\/?$/, "/"));

// Of a run, from the URL of its events.
export function recordAt(events) {
  const record = whole(events);
  record.pathname = record.pathname.replace(/\/events$/, "");
  return record;
}

// Ask an agent: a promise of {id, status, cached, cache, events_url, cancel_url, record_url, …}.
// `base` is where the service is; `body` as `POST /v1/runs` takes it. A request that was cut off
// is sent again under the same Idempotency-Key, so it is the same run.
export async function ask(base, body, {key, signal, headers = {}, idempotencyKey = unique()} = {}) {
  const url = from(base, "v1/runs");
  const sent = {"Idempotency-Key": idempotencyKey, ...headers};
  const {response, said} = await call("POST", url, {body, key, signal, headers: sent});
  const events = new URL(said.events_url, response.url || url);
  return {
    ...said,
    cache: response.headers.get("X-Cache") ?? (said.cached ? "hit" : "miss"),
    events_url: events.href,
    record_url: recordAt(events).href,
    cancel_url: new URL(said.cancel_url, events).href,
  };
}

// End a run: `run` is what `ask` gave, or its `cancel_url`. One that has ended already stays so.
export async function cancel(run, {key, signal} = {}) {
  const url = typeof run === "string" ? run : run.cancel_url;
  try {
    return (await call("POST", url, {key, signal})).said;
  } catch (error) {
    if (error.code !== "run_finished") throw error;
    return null;
  }
}

// What was said in a conversation: {id, messages, active_run}.
export async function conversation(base, id, {key, user, signal} = {}) {
  const url = from(base, `v1/conversations/${encodeURIComponent(id)}`);
  if (user) url.searchParams.set("user", user);
  const {response, said} = await call("GET", url, {key, signal});
  const run = said.active_run;
  if (!run) return said;
  const at = (link) => new URL(link, response.url || url).href;
  return {...said, active_run: {...run, events_url: at(run.events_url), cancel_url: at(run.cancel_url)}};
}

// `randomUUID` is there on pages that came over https alone.
const unique = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
