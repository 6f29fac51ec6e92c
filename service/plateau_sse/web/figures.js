// A picture of the service, in words, bars and lines on the page at /ops.
// What must hold: what is not known is a dash and never a zero; a row stays the node that it was,
// so that nothing jumps and what somebody has selected stays selected.

import {Charts} from "./chart.js";

const $ = (id) => document.getElementById(id);
const MIB = 2 ** 20;

const integer = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const tenths = new Intl.NumberFormat("en", {minimumFractionDigits: 1, maximumFractionDigits: 1});
const brief = (number) => (number < 9.95 && number % 1 ? tenths : integer).format(number);

const words = {
  count: (n) => integer.format(n),
  mib: (bytes) => integer.format(bytes / MIB),
  mib1: (bytes) => (0 < bytes && bytes < MIB / 20 ? "< 0.1" : tenths.format(bytes / MIB)),
  bound: (bytes) => (bytes ? words.mib1(bytes) : "none"),
  rate: brief,
  // Never 100 of what is not all.
  percent: (share) => `${Math.floor(share * 100)} %`,
  ms: (ms) => (ms < 1000 ? `${brief(ms)} ms` : `${brief(ms / 1000)} s`),
  duration(s) {
    if (s < 60) return `${integer.format(Math.floor(s))} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    return s < 48 * 3600 ? `${Math.floor(s / 3600)} h` : `${integer.format(s / 86400)} d`;
  },
  text: String,
};
export const {duration} = words;

// Only what differs: a live region speaks at every change, even to the same words.
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// ---- what can be known, with what is summed up here

const sum = (counts) => Object.values(counts).reduce((total, n) => total + n, 0);

export function prepare({cache, runs, lately, ...rest}) {
  // Where the store says nothing, nothing has moved that anybody knows of.
  const isKnown = runs.waiting !== null;
  const began = (prefix) =>
    sum(Object.fromEntries(Object.entries(lately).filter(([name]) => name.startsWith(prefix))));
  const {cache_hits: hits = 0, cache_misses: misses = 0} = lately;
  return {
    ...rest,
    cache: {...cache, lately_rate: hits + misses ? hits / (hits + misses) : null},
    runs: {
      ...runs,
      failed_all: isKnown ? sum(runs.failed) : null,
      refused_all: isKnown ? sum(runs.refused) : null,
    },
    lately: isKnown
      ? {...lately, failed: began("runs_failed_"), refused: began("runs_refused_")}
      : null,
  };
}

export function verdict(advice) {
  const wrong = advice.filter(({level}) => level === "error").length;
  const rest = advice.length - wrong;
  if (!advice.length) return "All is well.";
  const look = rest === 1 ? "one thing wants a look" : `${rest} things want a look`;
  if (!wrong) return `It works; ${look}.`;
  const fault = wrong === 1 ? "One thing is wrong" : `${wrong} things are wrong`;
  return rest ? `${fault}, and ${look}.` : `${fault}.`;
}

// ---- single figures: the page says which with `data-of`, and how with `data-as`

const figures = [...document.querySelectorAll("[data-of]")].map((node) => {
  const {of, as = "count"} = node.dataset;
  return {node, path: of.split("."), say: words[as], isLately: of.startsWith("lately.")};
});

function paintFigures(picture) {
  for (const {node, path, say, isLately} of figures) {
    // What has not moved lately is left out of what comes.
    const none = isLately && picture.lately ? 0 : null;
    const value = path.reduce((at, name) => at?.[name], picture) ?? none;
    put(node, value === null ? "–" : say(value));
    if (isLately) node.parentElement.classList.toggle("moved", value > 0);
  }
  const seconds = picture.lately ? Math.min(60, Math.round(picture.lately.seconds)) : 60;
  for (const node of document.querySelectorAll(".lately-s")) put(node, `last ${seconds} s`);
}

function paintMeter(id, value, most) {
  const style = $(id).style;
  const scale = Math.max(value ?? 0, most ?? 0) || 1;
  style.setProperty("--share", (value ?? 0) / scale);
  style.setProperty("--mark", (most ?? 0) / scale);
  $(id).classList.toggle("over", Boolean(most) && value > most);
}

function paintServer(id, state) {
  const known = {up: "up", "not configured": "not configured"}[state] ?? "does not answer";
  put($(id), known);
  $(id).classList.toggle("bad", known === "does not answer");
}

function paintCodes(runs) {
  const said = (title, counts) =>
    Object.keys(counts).length
      ? [`${title} by ${Object.entries(counts).map(([code, n]) => `${code} ${words.count(n)}`).join(", ")}`]
      : [];
  // A service of before tells none of an agent's own apart.
  const own = said("Of the others, failed", runs.own_failures ?? {});
  const all = [...said("Failed", runs.failed), ...own, ...said("Refused", runs.refused)];
  put($("codes"), all.join(". "));
}

// ---- rows, each known by a key

function keyed(parent, list, {keyOf, make, paint}) {
  const old = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  list.forEach((one, index) => {
    const key = keyOf(one);
    const row = old.get(key) ?? make(one);
    old.delete(key);
    row.dataset.key = key;
    paint(row, one);
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] ?? null);
  });
  for (const row of old.values()) row.remove();
}

function node(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const adviceRows = {
  keyOf: ({rule}) => rule,
  make: ({level, change}) => {
    const row = node("li", "", node("b"), node("p", "says"), node("p", "change", change));
    row.dataset.level = level;
    row.firstChild.textContent = level === "error" ? "Wrong" : "Look";
    return row;
  },
  // The words of a rule begin with a capital where a sentence does.
  paint: (row, {says}) => put(row.querySelector(".says"), `${says[0].toUpperCase()}${says.slice(1)}`),
};

const ORDER = ["master", "web", "runner", "redis-streams", "redis-cache"];

function processes({memory, workers}) {
  const at = ({host, pid}) => `${host}:${pid}`;
  const told = new Map(workers.processes.map((one) => [at(one), one]));
  const rank = ({role, host, pid}) => [host !== memory.host, ORDER.indexOf(role), host, pid];
  const compare = (a, b) => {
    const [these, those] = [rank(a), rank(b)];
    const index = these.findIndex((value, i) => value !== those[i]);
    return index < 0 ? 0 : these[index] < those[index] ? -1 : 1;
  };
  return memory.processes.map((one) => ({...told.get(at(one)), ...one})).sort(compare);
}

function serves({role, open, running, places, deaf, connected}) {
  if (deaf || connected === 0) return ["hears", "nothing"];
  if (role === "web" && open !== undefined) {
    return [words.count(open), open === 1 ? "reader" : "readers"];
  }
  return role === "runner" && places !== undefined ? [`${running} of ${places}`, "runs"] : ["–", ""];
}

function processRows(picture, nowS) {
  const all = processes(picture);
  const largest = Math.max(1, ...all.map(({pss_bytes: size}) => size));
  const isOneHost = new Set(all.map(({host}) => host)).size < 2;
  const rows = {
    keyOf: ({host, pid}) => `${host}:${pid}`,
    make() {
      const name = node("th", "", node("b"), node("i"));
      name.scope = "row";
      const size = node("td", "size", node("div", "", node("span"), node("span", "meter")));
      const pair = () => node("td", "", node("b"), node("i"));
      return node("tr", "", name, size, node("td"), pair(), pair());
    },
    paint(row, one) {
      const [name, size, cpu, serving, since] = row.children;
      put(name.firstChild, one.role.replace("-", " "));
      put(name.lastChild, isOneHost ? `${one.pid}` : `${one.host} ${one.pid}`);
      const [mib, bar] = size.firstChild.children;
      put(mib, words.mib(one.pss_bytes));
      bar.style.setProperty("--share", one.pss_bytes / largest);
      put(cpu, one.cpu === undefined ? "–" : `${Math.round(one.cpu * 100)} %`);
      const [what, unit] = serves(one);
      put(serving.firstChild, what);
      put(serving.lastChild, unit);
      serving.classList.toggle("bad", unit === "nothing");
      put(since.firstChild, one.started ? duration(Math.max(0, nowS - one.started)) : "–");
      const heard = one.silent ? `silent ${duration(one.age_s)}` : `${duration(one.age_s)} ago`;
      put(since.lastChild, one.age_s === undefined ? "" : heard);
      row.classList.toggle("silent", Boolean(one.silent));
    },
  };
  keyed($("processes"), all, rows);
}

const hostRows = {
  keyOf: ({host}) => host,
  make() {
    const name = node("th", "", node("b"), node("i"));
    name.scope = "row";
    return node("tr", "", name, ...Array.from({length: 6}, () => node("td")));
  },
  paint(row, one) {
    const [name, web, readers, runs, size, cpu, heard] = row.children;
    put(name.firstChild, one.host);
    put(name.lastChild, one.state === "up" ? "" : `${one.state}: ${one.cause}`);
    put(web, words.count(one.web));
    put(readers, words.count(one.open));
    put(runs, one.runners ? `${one.running} of ${one.places}` : "–");
    put(size, words.mib(one.pss_bytes));
    put(cpu, `${Math.round(one.cpu * 100)} %`);
    put(heard, one.age_s === null ? "–" : `${duration(one.age_s)} ago`);
    row.classList.toggle("silent", one.state === "down");
    row.dataset.state = one.state;
  },
};

// ---- the lines

const charts = new Charts([
  {
    box: $("chart-memory"),
    title: "Memory",
    of: (sample) => sample.memory,
    limit: (sample) => sample.warn,
    limitName: "MEMORY_WARN_MB",
    words: (mib) => `${integer.format(mib)} MiB`,
    least: 10,
  },
  {
    box: $("chart-readers"),
    title: "Readers",
    of: (sample) => sample.readers,
    words: words.count,
    least: 10,
  },
  {
    box: $("chart-events"),
    title: "Events a second",
    of: (sample) => sample.events,
    words: (rate) => `${brief(rate)}/s`,
    least: 10,
  },
]);

// `nowS` is the service's own clock.
export function paint(picture, nowS) {
  // A service of a release before has none.
  const {memory, cache, sse, runs, redis, advice, history, hosts = []} = picture;
  paintFigures(picture);
  keyed($("advice"), advice, adviceRows);
  $("no-advice").hidden = advice.length > 0;
  paintMeter("memory-meter", memory.total_bytes, memory.warn_mb * MIB);
  $("cgroup").hidden = !memory.cgroup.limit_bytes;
  paintMeter("cgroup-meter", memory.cgroup.used_bytes, memory.cgroup.limit_bytes);
  paintMeter("cache-meter", cache.used_bytes, cache.max_bytes);
  paintServer("cache-state", cache.state);
  paintServer("redis-streams-state", redis.streams.state);
  paintServer("redis-cache-state", redis.cache.state);
  paintCodes(runs);
  $("hosts-section").hidden = hosts.length < 2;
  keyed($("hosts"), hosts, hostRows);
  processRows(picture, nowS);
  const now = Date.now() / 1000;
  const sample = (at, bytes, readers, events) =>
    ({at, memory: bytes === null ? null : bytes / MIB, warn: memory.warn_mb, readers, events});
  if (history) charts.recall(history.map(([at, ...rest]) => sample(at + now - nowS, ...rest)));
  charts.add(sample(now, memory.total_bytes, sse.open, sse.events_per_s));
}
