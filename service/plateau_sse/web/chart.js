// The last ten minutes as lines, one chart a figure, all at the same moments.
// What must hold: what is kept is bounded, and where nothing came the line is broken.

const KEPT_S = 600;
// The narrowest of these that holds all there is.
const WINDOWS_S = [60, 120, 300, KEPT_S];
// Three pictures that did not come; what the service remembers is 5 s apart.
const GAP_S = 8;
// Nearer to a picture of ours what it remembers says nothing new.
const NEAR_S = 1;
const WIDTH = 1000;
const HEIGHT = 100;

const SVG = "http://www.w3.org/2000/svg";
const clock = new Intl.DateTimeFormat("en-GB", {timeStyle: "medium"});

function part(name, className, parent) {
  const node = parent.appendChild(document.createElement(name));
  node.className = className;
  return node;
}

// A round number that is not less.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((round) => round >= value);
}

// A figure's: {box, title, of, words, least, limit?, limitName?}. `of` and `limit` take a sample and
// give a number or null, `words` says such a number, `least` is the lowest top of the scale.
class Chart {
  constructor(figure) {
    Object.assign(this, figure);
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "slider");
    this.box.setAttribute("aria-label", `${this.title}, the last minutes`);
    this.plot = part("div", "plot", this.box);
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.plot.append(this.svg);
    [this.area, this.limitLine, this.line] = ["area", "limit", "line"].map((name) => {
      const path = this.svg.appendChild(document.createElementNS(SVG, "path"));
      path.setAttribute("class", name);
      path.setAttribute("vector-effect", "non-scaling-stroke");
      return path;
    });
    this.most = part("span", "most", this.plot);
    this.limitLabel = part("span", "limit-name", this.plot);
    this.dot = part("span", "dot", this.plot);
    this.cross = part("span", "cross", this.plot);
    const axis = part("p", "axis", this.box);
    this.from = part("span", "from", axis);
    this.readout = part("span", "readout", axis);
    part("span", "to", axis).textContent = "now";
  }

  draw(samples, windowS, now, picked) {
    const x = (at) => WIDTH * (1 - (now - at) / windowS);
    const values = samples.map(this.of);
    const limit = this.limit?.(samples.at(-1)) ?? null;
    const top = roundUp(Math.max(this.least, 1.1 * Math.max(limit ?? 0, ...values)));
    const y = (value) => HEIGHT * (1 - value / top);
    const pieces = runs(samples, values);
    const point = ([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(2)}`;
    const lines = pieces.map((piece) => `M${piece.map(point).join("L")}`);
    this.line.setAttribute("d", lines.join(""));
    this.area.setAttribute("d", pieces.map((piece, index) =>
      `${lines[index]}L${x(piece.at(-1)[0])} ${HEIGHT}L${x(piece[0][0])} ${HEIGHT}Z`).join(""));
    this.limitLine.setAttribute("d", limit === null ? "" : `M0 ${y(limit)}H${WIDTH}`);
    this.limitLabel.textContent = limit === null ? "" : this.limitName;
    // Below its line where that is near the top.
    this.limitLabel.style.top = `${y(limit ?? 0)}%`;
    this.limitLabel.classList.toggle("below", limit > top / 2);
    this.plot.classList.toggle("passed", limit !== null && values.at(-1) > limit);
    this.most.textContent = this.words(top);
    this.from.textContent = `${windowS / 60} min ago`;
    this.mark(this.dot, samples.at(-1), x, y);
    this.mark(this.cross, picked, x, y);
    this.say(picked, now, windowS);
  }

  mark(node, sample, x, y) {
    const value = sample ? this.of(sample) : null;
    node.hidden = value === null;
    if (value === null) return;
    node.style.left = `${(100 * x(sample.at)) / WIDTH}%`;
    node.style.setProperty("--at", `${y(value)}%`);
  }

  // Of the moment that somebody looks at; what nobody asked for is not read out as it changes.
  say(picked, now, windowS) {
    if (this.said === picked) return;
    this.said = picked;
    const value = picked && this.of(picked);
    const words = value === null ? "not known" : this.words(value);
    const time = picked && clock.format(picked.at * 1000);
    this.readout.textContent = picked ? `${time} · ${words}` : "";
    this.box.setAttribute("aria-valuemin", -windowS);
    this.box.setAttribute("aria-valuemax", 0);
    this.box.setAttribute("aria-valuenow", picked ? Math.round(picked.at - now) : 0);
    this.box.setAttribute("aria-valuetext", picked ? `${words} at ${time}` : "now");
  }
}

// The pieces without a gap, each a list of [time, value].
function runs(samples, values) {
  const pieces = [];
  let last = -Infinity;
  samples.forEach(({at}, index) => {
    const value = values[index];
    if (value === null) return;
    if (at - last > GAP_S) pieces.push([]);
    pieces.at(-1).push([at, value]);
    last = at;
  });
  return pieces;
}

export class Charts {
  // `at` of a sample is in seconds of the clock.
  constructor(figures) {
    this.samples = [];
    this.picked = null;
    this.charts = figures.map((figure) => new Chart(figure));
    for (const {box, plot} of this.charts) {
      const pick = (event) => this.pick(this.nearest(event.clientX, plot));
      plot.addEventListener("pointermove", pick);
      plot.addEventListener("pointerdown", pick);
      plot.addEventListener("pointerleave", () => this.pick(null));
      box.addEventListener("blur", () => this.pick(null));
      box.addEventListener("keydown", (event) => this.key(event));
    }
  }

  add(sample) {
    this.samples.push(sample);
    this.samples = this.samples.filter(({at}) => sample.at - at <= KEPT_S && at <= sample.at);
    if (!this.samples.includes(this.picked)) this.picked = null;
    this.draw();
  }

  // What the service remembers of the time in which this page did not look.
  recall(known) {
    const isNew = ({at}) => this.samples.every((sample) => Math.abs(sample.at - at) > NEAR_S);
    this.samples = [...known.filter(isNew), ...this.samples].sort((a, b) => a.at - b.at);
  }

  get windowS() {
    const spanS = this.samples.at(-1).at - this.samples[0].at;
    return WINDOWS_S.find((windowS) => windowS >= spanS) ?? KEPT_S;
  }

  draw() {
    if (!this.samples.length) return;
    const now = this.samples.at(-1).at;
    for (const chart of this.charts) chart.draw(this.samples, this.windowS, now, this.picked);
  }

  pick(sample) {
    if (this.picked === sample) return;
    this.picked = sample;
    this.draw();
  }

  nearest(clientX, plot) {
    if (!this.samples.length) return null;
    const {left, width} = plot.getBoundingClientRect();
    const at = this.samples.at(-1).at - this.windowS * (1 - (clientX - left) / width);
    return this.samples.reduce((best, one) =>
      Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best);
  }

  key(event) {
    const last = this.samples.length - 1;
    const index = this.picked ? this.samples.indexOf(this.picked) : last;
    const to = {ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: last}[event.key];
    if (event.key === "Escape") this.pick(null);
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.pick(this.samples[Math.min(last, Math.max(0, to))]);
  }
}
