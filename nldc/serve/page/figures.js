// The figures of an answer while it comes, and one bar for each of its steps.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 56;
const MOST = 120; // bars: an answer of more steps shows its last ones

const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

export class Figures {
  constructor(at) {
    this.at = at;
    this.since = performance.now();
    this.first = null;
    this.last = null;
    this.tokens = 0;
    this.forwards = 0;
    this.drafts = 0;
    this.accepted = 0;
    this.steps = new Map();
    this.drawn = false;
    this.show();
  }

  add(told) {
    this.last = performance.now();
    this.first ??= this.last;
    this.tokens = told.tokens;
    this.forwards = told.forwards;
    this.accepted = told.accepted;
    for (const step of told.steps) {
      this.steps.set(step.number, { ...step, counts: {} });
      this.drafts += step.drafted > 0 ? 1 : 0;
    }
    for (const span of told.spans) {
      const step = this.steps.get(span.step);
      if (step) {
        step.counts[span.origin] = (step.counts[span.origin] ?? 0) + 1;
      }
    }
    if (!this.drawn) {
      this.drawn = true;
      requestAnimationFrame(() => this.show());
    }
  }

  whole(metrics) {
    this.forwards = metrics.forwards;
    this.show();
  }

  get rate() {
    const seconds = (this.last - this.first) / 1000;
    return this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : NaN;
  }

  get tpf() {
    return this.forwards ? this.tokens / this.forwards : NaN;
  }

  show() {
    this.drawn = false;
    this.at("f-rate").textContent = fixed(this.rate, 0);
    this.at("f-tpf").textContent = fixed(this.tpf, 2);
    this.at("f-accept").textContent = this.drafts ? fixed(this.accepted / this.drafts, 2) : "–";
    this.at("f-first").textContent = this.first ? `${fixed(this.first - this.since, 0)} ms` : "–";
    this.bars();
  }

  bars() {
    const steps = [...this.steps.values()].slice(-MOST);
    const of = (step) => [
      ["a", step.counts.accepted ?? 0],
      ["b", step.counts.bonus ?? 0],
      ["d", step.counts.diffused ?? 0],
      ["o", (step.counts.ar ?? 0) + (step.counts.prefill ?? 0)],
    ];
    const most = Math.max(4, ...steps.map((step) => of(step).reduce((sum, [, n]) => sum + n, 0)));
    const wide = WIDTH / Math.max(24, steps.length);
    const found = [];
    steps.forEach((step, place) => {
      let top = HEIGHT;
      for (const [kind, count] of of(step)) {
        const tall = (count / most) * (HEIGHT - 2);
        if (tall > 0) {
          top -= tall;
          const bar = document.createElementNS(SVG, "rect");
          bar.setAttribute("class", kind);
          bar.setAttribute("x", (place * wide).toFixed(2));
          bar.setAttribute("y", top.toFixed(2));
          bar.setAttribute("width", Math.max(0.5, wide - 1).toFixed(2));
          bar.setAttribute("height", tall.toFixed(2));
          found.push(bar);
        }
      }
    });
    this.at("bars").replaceChildren(...found);
    this.at("bars-text").textContent = steps.length
      ? `tokens of each step, ${this.steps.size} steps, ${most} at most`
      : "tokens of each step";
  }

  sentence(finish) {
    const parts = [`${this.tokens} tokens`, `${this.forwards} forwards`];
    if (Number.isFinite(this.rate)) {
      parts.push(`${fixed(this.rate, 0)} tokens a second`);
    }
    if (finish) {
      parts.push(`ended by ${finish}`);
    }
    return parts.join(", ");
  }
}
