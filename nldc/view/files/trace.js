const trace = dataOf("trace");
const at = (id) => document.getElementById(id);
const HOW = {
  prefill: "chosen by the prompt's own forward",
  ar: "AR: one token by one forward",
  accepted: "drafted, and the verifier chose the same",
  bonus: "the verifier's own choice",
  diffused: "filled in, verified by nobody",
  refused: "drafted, and refused",
};
function make(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}
const shown = (text) => text.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥");
const boxed = (text) => (text === "" ? "∅" : text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣"));
const ms = (seconds) => `${(1e3 * seconds).toFixed(2)} ms`;
const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const share = (value) => (value === null || value === undefined ? "" : `${(100 * value).toFixed(1)} %`);
const whence = (step, node) => trace.places[`${step.strategy}/${node}`] || "";

let sequence, tokens, frames, frame = 0, timer = null;

function row(cells, tag = "td") {
  const line = make("tr");
  for (const cell of cells) {
    const isNumber = typeof cell === "number" || /^[\d.]+( ms| %)?$/.test(cell);
    line.append(make(tag, isNumber ? "number" : "", String(cell)));
  }
  return line;
}

// The text

function show(number) {
  sequence = trace.sequences[number];
  const box = at("text");
  box.replaceChildren();
  if (sequence.prompt) box.append(make("span", "prompt", sequence.prompt.join("")));
  else box.append(make("span", "prompt", `(a prompt of ${sequence.length} tokens) `));
  tokens = [];
  let left = sequence.tokens;
  for (const step of sequence.steps) {
    step.tokens.slice(0, step.kept).forEach((text, place) => {
      add(box, step, place, text, step.origins[place], !place);
    });
    left -= step.kept;
    const draft = step.draft;
    if (draft && left > 0)
      draft.tokens.slice(draft.accepted).forEach((text, n) => {
        add(box, step, draft.accepted + n, text, "refused", false);
      });
  }
  frames = sequence.steps.flatMap(framesOf);
  at("frame").max = Math.max(0, frames.length - 1);
  listSteps();
  draw(0);
  if (tokens.length) choose(tokens[0], false);
}

function add(box, step, place, text, kind, begins) {
  // A span, since a button is a box that no line breaks within.
  const made = make("span", `t ${kind}${begins ? " begins" : ""}`, shown(text) || "∅");
  made.setAttribute("role", "button");
  made.tabIndex = tokens.length ? -1 : 0;
  made.setAttribute("aria-label", `${text}: ${kind}, step ${step.number}`);
  const token = { made, step, place, kind, text };
  made.addEventListener("mouseenter", () => choose(token, false));
  made.addEventListener("focus", () => choose(token, false));
  made.addEventListener("click", () => {
    choose(token, true);
    draw(frames.findIndex((each) => each.step === step));
  });
  tokens.push(token);
  box.append(made);
}

at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    document.activeElement.click();
    return;
  }
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
  const here = tokens.findIndex((each) => each.made === document.activeElement);
  if (!by || here < 0) return;
  event.preventDefault();
  const next = tokens[Math.min(tokens.length - 1, Math.max(0, here + by))];
  next.made.focus();
});

function choose(token) {
  for (const each of tokens) {
    each.made.classList.toggle("here", each === token);
    each.made.classList.toggle("of-step", each.step === token.step);
    each.made.tabIndex = each === token ? 0 : -1;
  }
  describe(token.step, token);
}

// A step

function sure(chosen) {
  if (!chosen) return "";
  return `${share(chosen.probability)}, ${chosen.first ? "ahead of" : "behind"} “${boxed(chosen.other)}” by ${chosen.gap.toPrecision(3)}`;
}

function describe(step, token) {
  const box = at("step");
  box.replaceChildren();
  if (token) {
    box.append(make("h3", "mono", `“${boxed(token.text)}”`), make("p", "", HOW[token.kind]));
    const refused = token.kind === "refused";
    const chosen = refused ? step.draft.by[token.place] : step.chosen[token.place];
    if (chosen) {
      box.append(make("p", "soft", `${chosen.node} (${whence(step, chosen.node)}) chose it in row ${chosen.row} of ${chosen.forward}, for position ${chosen.position}, in step ${chosen.step}`));
      box.append(make("p", "", sure(chosen)));
    }
    if (refused && token.place === step.draft.accepted) {
      const own = step.draft.verified[token.place];
      box.append(make("p", "", `In its place “${boxed(step.draft.targets[token.place])}” was chosen: ${sure(own)}`));
    }
  }
  box.append(make("h3", "", `Step ${step.number}: ${step.strategy}.${step.method}`));
  box.append(make("p", "soft", `${ms(step.seconds)} with ${step.live} live, ${counted(step.nfe, "forward")}, ${counted(step.tokens.length, "token")}`));
  const draft = step.draft;
  if (draft) {
    const table = make("table");
    table.append(row(["draft", "sure", "chosen", ""], "th"));
    draft.tokens.forEach((text, place) => {
      const end = place < draft.accepted ? "accepted" : place === draft.accepted ? "refused here" : "not looked at";
      const target = place <= draft.accepted ? boxed(draft.targets[place]) : "";
      const line = row([boxed(text), share(draft.probability[place]), target, end]);
      line.firstChild.className = "mono";
      line.children[2].className = "mono";
      table.append(line);
    });
    box.append(table);
    if (draft.branch !== null) box.append(make("p", "soft", `of several drafts, number ${draft.branch}`));
  }
  const table = make("table");
  table.append(row(["forward", "rows", "time"], "th"));
  for (const [node, rows, seconds] of step.forwards) {
    const line = row([node, rows, ms(seconds)]);
    line.title = whence(step, node);
    table.append(line);
  }
  box.append(table);
  for (const line of at("steps").rows) line.setAttribute("aria-selected", line.dataset.step === String(step.number));
}

// The player

function framesOf(step) {
  const found = [];
  let before = null;
  for (const round of step.rounds) {
    const masked = new Set(round.masked);
    const rows = round.rows.map((text, place) => ({
      text,
      kind: masked.has(place) ? "masked" : before && before.has(place) ? "fresh" : "",
    }));
    if (!before && !found.length) rows.forEach((each, place) => { if (place && each.kind === "") each.kind = "fresh"; });
    before = masked;
    found.push({ step, rows, said: `${round.node}, iteration ${found.length + 1} of ${step.rounds.length}: ${masked.size} of ${rows.length} rows are masked` });
  }
  const draft = step.draft;
  if (draft) {
    const rows = draft.tokens.map((text, place) => ({ text, kind: "", small: share(draft.probability[place]) }));
    found.push({ step, rows, said: `${rows.length} tokens are drafted` });
    const held = draft.tokens.map((text, place) => ({
      text, kind: place < draft.accepted ? "accepted" : "refused", small: share(draft.probability[place]),
    }));
    const own = draft.verified[draft.accepted];
    held.splice(draft.accepted, 0, { text: draft.targets[draft.accepted], kind: "bonus", small: own ? share(own.probability) : "" });
    found.push({ step, rows: held, said: `${draft.accepted} of ${rows.length} are accepted, and one more is chosen` });
  }
  if (!found.length)
    found.push({ step, said: step.kind === "prefill" ? "the prompt is read" : "a token is chosen",
      rows: step.tokens.map((text, place) => ({ text, kind: step.origins[place] })) });
  return found;
}

function draw(number) {
  if (!frames.length) return;
  frame = Math.min(frames.length - 1, Math.max(0, number));
  const { step, rows, said } = frames[frame];
  at("frame").value = frame;
  at("frame").setAttribute("aria-valuetext", said);
  at("said").textContent = `${frame + 1} of ${frames.length} · step ${step.number} · ${said}`;
  at("rows").replaceChildren(...rows.map(({ text, kind, small }) => {
    const made = make("li", kind, kind === "masked" ? "▒" : boxed(text));
    if (small) made.append(make("small", "", small));
    return made;
  }));
}
function stop() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "Play";
}
at("first").addEventListener("click", () => { stop(); draw(0); });
at("back").addEventListener("click", () => { stop(); draw(frame - 1); });
at("on").addEventListener("click", () => { stop(); draw(frame + 1); });
at("last").addEventListener("click", () => { stop(); draw(frames.length - 1); });
at("frame").addEventListener("input", () => { stop(); draw(Number(at("frame").value)); });
at("play").addEventListener("click", () => {
  if (timer !== null) return stop();
  if (frame === frames.length - 1) draw(0);
  at("play").textContent = "Pause";
  timer = setInterval(() => {
    draw(frame + 1);
    if (frame === frames.length - 1) stop();
  }, 450);
});

// Steps as a table

function listSteps() {
  const table = at("steps");
  table.replaceChildren(row(["step", "of", "time", "drafted", "accepted", "iterations", "tokens"], "th"));
  for (const step of sequence.steps) {
    const draft = step.draft;
    const line = row([step.number, `${step.strategy}.${step.method}`, ms(step.seconds),
      draft ? draft.tokens.length : "", draft ? draft.accepted : "", step.rounds.length || "",
      step.tokens.slice(0, step.kept).map(boxed).join("")]);
    line.lastChild.className = "tokens";
    line.dataset.step = step.number;
    line.addEventListener("click", () => {
      describe(step, null);
      draw(frames.findIndex((each) => each.step === step));
    });
    table.append(line);
  }
}

// Figures

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function bars(place, label, lines) {
  const height = 22 * lines.length + 4;
  const chart = svg("svg", { viewBox: `0 0 320 ${height}`, role: "img", "aria-label": label });
  lines.forEach(({ name, whole, part, said }, n) => {
    const y = 22 * n + 4;
    chart.append(svg("text", { x: 26, y: y + 12, "text-anchor": "end" }, name));
    if (whole > part) chart.append(svg("rect", { x: 34, y, width: Math.max(1, 190 * whole), height: 15, class: "rest" }));
    if (part > 0) chart.append(svg("rect", { x: 34, y, width: Math.max(1, 190 * part), height: 15, class: "bar" }));
    chart.append(svg("text", { x: 40 + 190 * whole, y: y + 12, class: "soft" }, said));
  });
  place.append(chart);
}

const { histogram, positions, phases, forwards, tokens: all, nfe, origins } = trace.summary;
const counts = Object.entries(histogram);
const most = Math.max(1, ...counts.map(([, steps]) => steps));
bars(at("histogram"), "How many steps came to how many tokens",
  counts.map(([name, steps]) => ({ name, whole: steps / most, part: steps / most, said: String(steps) })));
at("positions").hidden = !positions.length;
const reached = Math.max(1, ...positions.map((each) => each.reached));
bars(at("places"), "How many drafts were accepted at each place", positions.map((each) => ({
  name: each.place, whole: each.reached / reached, part: each.accepted / reached,
  said: `${each.accepted} of ${each.reached}`,
})));
at("time").append(row(["", "times", "in all", "each"], "th"));
for (const [name, time] of [...Object.entries(phases), ...Object.entries(forwards)])
  at("time").append(row([name, time.count, ms(time.seconds), ms(time.seconds / time.count)]));
const names = Object.entries(trace.what.strategies).map(([name, promise]) => `${name} (${promise})`);
at("what").textContent = `${names.join(", ")} on ${trace.what.model.filter(Boolean).join(", ")} · ${all} tokens in ${nfe} forwards, ${trace.what.tpf.toFixed(2)} a forward`;
const kinds = Object.keys(HOW).filter((kind) => kind in origins || (kind === "refused" && positions.length));
at("legend").append(...kinds.map((kind) => {
  const made = make("span", `t ${kind}`, kind);
  made.title = HOW[kind];
  return made;
}));
trace.sequences.forEach((_, number) => {
  const made = make("option", "", String(number));
  made.value = number;
  at("sequence").append(made);
});
at("pick").hidden = trace.sequences.length < 2;
at("sequence").addEventListener("change", () => { stop(); show(Number(at("sequence").value)); });
show(0);
