// An answer as spans of text, a class for how each token came to be; a tip tells of the step.

const HOW = {
  prefill: "the first token, from the prompt's forward",
  ar: "one token by one forward",
  accepted: "drafted, and the verifier agreed",
  bonus: "the verifier's own choice",
  diffused: "committed by diffusion, not verified",
};
const tip = document.getElementById("tip");

export class Answer {
  constructor(box) {
    this.text = "";
    this.steps = new Map();
    this.body = document.createElement("div");
    this.body.className = "answer";
    box.append(this.body);
    this.thinking = null;
    this.body.addEventListener("pointerover", (event) => this.tell(event.target));
    this.body.addEventListener("pointerleave", () => this.tell(null));
    this.body.addEventListener("focusin", (event) => this.tell(event.target));
    this.body.addEventListener("focusout", () => this.tell(null));
    this.body.addEventListener("keydown", (event) => this.move(event));
  }

  add(spans, steps) {
    for (const step of steps) {
      this.steps.set(step.number, step);
    }
    for (const span of spans) {
      const piece = document.createElement("span");
      piece.className = `t ${span.origin}`;
      piece.textContent = span.text;
      piece.dataset.step = span.step;
      piece.dataset.origin = span.origin;
      this.place(span).append(piece);
      if (span.channel === "content") {
        this.text += span.text;
      }
    }
    const first = this.body.querySelector(".t");
    if (first && !this.body.querySelector('[tabindex="0"]')) {
      first.tabIndex = 0; // Tab comes to one token of an answer, arrows go on from there
    }
  }

  move(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !event.target.classList.contains("t")) {
      return;
    }
    const tokens = [...this.body.querySelectorAll(".t")];
    const next = tokens[tokens.indexOf(event.target) + by];
    if (next) {
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  }

  place(span) {
    if (span.channel !== "reasoning") {
      return this.body;
    }
    if (!this.thinking) {
      const box = document.createElement("details");
      box.className = "thinking";
      box.open = true;
      const summary = document.createElement("summary");
      summary.textContent = "thinking";
      this.thinking = document.createElement("div");
      this.thinking.className = "thought";
      box.append(summary, this.thinking);
      this.body.prepend(box);
    }
    return this.thinking;
  }

  tell(target) {
    for (const marked of this.body.querySelectorAll(".same")) {
      marked.classList.remove("same");
    }
    if (!target?.dataset?.step) {
      tip.hidden = true;
      return;
    }
    const step = this.steps.get(Number(target.dataset.step));
    for (const same of this.body.querySelectorAll(`[data-step="${target.dataset.step}"]`)) {
      same.classList.add("same");
    }
    const lines = [HOW[target.dataset.origin]];
    if (step) {
      const forwards = step.forwards === 1 ? "1 forward" : `${step.forwards} forwards`;
      const drafts = step.drafted ? `, ${step.accepted} of ${step.drafted} drafts accepted` : "";
      lines.push(`${step.kind} ${step.number} (${step.strategy}): ${forwards}${drafts}`);
    }
    tip.textContent = lines.join(". ");
    tip.hidden = false;
    const place = target.getBoundingClientRect();
    const left = Math.min(place.left, innerWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 4 ? above : place.bottom + 6}px`;
  }
}
