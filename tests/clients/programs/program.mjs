// What the programs share: node <program>.mjs, and then
//   follow URL
//   resume URL LAST_EVENT_ID
//   post URL BODY [IDEMPOTENCY_KEY]
// Each prints what its library hands over, a line of JSON for each event, and ends with 0 when
// the terminal event has come.

export const [mode, url, extra, key] = process.argv.slice(2);
export const posts = mode !== "follow" && mode !== "resume";
export const last = mode === "resume" ? extra : "";

/** For those that can POST: the options of `fetch`. */
export const request = posts
  ? {
      method: "POST",
      body: extra,
      headers: { "Content-Type": "application/json", ...(key && { "Idempotency-Key": key }) },
    }
  : { headers: {} };

let awake;
process.exitCode = 1;

/** For those whose timers let Node go: until the end has been told. */
export function stayAwake() {
  awake = setInterval(() => {}, 1000);
}

/** Prints an event; whether it is the last one. Throws where its data is no JSON. */
export function tell(id, data) {
  console.log(JSON.stringify({ id: id ?? "", data }));
  const ended = ["run.completed", "run.failed", "run.cancelled"].includes(JSON.parse(data).type);
  if (ended) {
    process.exitCode = 0;
    clearInterval(awake);
  }
  return ended;
}
