const forwards = dataOf("forwards");
const texts = dataOf("texts");
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function made(tag, attributes = {}, text = "") {
  const element = ["svg", "g", "rect", "text"].includes(tag)
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function within(number, count) { return Math.max(0, Math.min(count - 1, number)); }

function moved(event, at, count) {
  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };
  if (event.key === "Home") return 0;
  if (event.key === "End") return count - 1;
  return event.key in steps ? within(at + steps[event.key], count) : null;
}

function intoView(pane, top, bottom) {
  if (top < pane.scrollTop) pane.scrollTop = top - 20;
  else if (bottom > pane.scrollTop + pane.clientHeight) pane.scrollTop = bottom - pane.clientHeight + 20;
}

/* File and code, side by side. */

const sides = {};

function show(side, number) {
  const { pane, select } = sides[side];
  if (sides[side].number === number) return;
  Object.assign(sides[side], { number, at: -1 });
  select.value = String(number);
  const held = made("div");
  texts[number].lines.forEach(([text, places], at) => {
    const linked = side === "right" ? places.length > 0 : true;
    const line = made("div", { class: linked ? "code linked" : "code", role: "option", id: `${side}-${at}` });
    line.append(made("span", { "aria-hidden": "true" }, String(at + 1)), text || " ");
    held.append(line);
  });
  pane.replaceChildren(held);
  pane.scrollTop = 0;
  pane.removeAttribute("aria-activedescendant");
}

function lit(side, numbers, scroll) {
  const { pane } = sides[side];
  for (const line of pane.querySelectorAll(".lit, .on")) {
    line.classList.remove("lit", "on");
    line.removeAttribute("aria-selected");
  }
  const found = numbers.map((at) => byId(`${side}-${at}`)).filter(Boolean);
  for (const line of found) line.classList.add("lit");
  if (scroll && found.length) {
    const last = found.at(-1);
    intoView(pane, found[0].offsetTop, Math.min(last.offsetTop + last.offsetHeight, found[0].offsetTop + pane.clientHeight));
  }
}

function covers([file, first, last], of, line) { return file === of && first <= line && line <= last; }

function choose(side, at) {
  const other = side === "left" ? "right" : "left";
  const own = sides[side];
  let mine = [at];
  let theirs = [];
  if (side === "left") {
    const lines = texts[sides.right.number].lines;
    lines.forEach(([, places], number) => {
      if (places.some((place) => covers(place, own.number, at + 1))) theirs.push(number);
    });
  } else {
    const places = texts[own.number].lines[at][1];
    if (places.length) {
      show("left", places[0][0]);
      for (const [file, first, last] of places) {
        if (file === places[0][0]) for (let n = first; n <= last; n += 1) theirs.push(n - 1);
      }
    }
  }
  lit(side, mine, false);
  lit(other, theirs, true);
  const line = byId(`${side}-${at}`);
  line.classList.add("on");
  line.setAttribute("aria-selected", "true");
  own.pane.setAttribute("aria-activedescendant", line.id);
  own.at = at;
  intoView(own.pane, line.offsetTop, line.offsetTop + line.offsetHeight);
}

function showPlace([file, first, last]) {
  show("left", file);
  choose("left", first - 1);
  const numbers = [];
  texts[sides.right.number].lines.forEach(([, places], number) => {
    if (places.some((p) => p[0] === file && p[1] <= last && first <= p[2])) numbers.push(number);
  });
  lit("right", numbers, true);
  for (let n = first; n <= last; n += 1) byId(`left-${n - 1}`)?.classList.add("lit");
}

for (const side of ["left", "right"]) {
  const select = byId(side);
  const pane = byId(`${side}-lines`);
  sides[side] = { select, pane, number: -1, at: -1 };
  select.addEventListener("change", () => {
    show(side, Number(select.value));
    lit("left", [], false);
    lit("right", [], false);
  });
  pane.addEventListener("click", (event) => {
    const line = event.target.closest(".code");
    if (line) choose(side, Number(line.id.slice(side.length + 1)));
  });
  pane.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") return;
    const at = moved(event, sides[side].at, texts[sides[side].number].lines.length);
    if (at === null) return;
    event.preventDefault();
    choose(side, at);
  });
}
show("left", Number(byId("left").value));
show("right", Number(byId("right").value));

/* The graph. */

const boxes = [...document.querySelectorAll("#graph .box")];

function chooseBox(box, focus) {
  for (const each of boxes) {
    each.classList.toggle("on", each === box);
    each.setAttribute("tabindex", each === box ? "0" : "-1");
  }
  byId("said").textContent = box.getAttribute("aria-label");
  if (box.dataset.place) showPlace(box.dataset.place.split(",").map(Number));
  if (focus) box.focus();
}

if (boxes.length) boxes[0].setAttribute("tabindex", "0");
for (const box of boxes) {
  box.addEventListener("click", () => chooseBox(box, true));
  box.addEventListener("focus", () => { if (!box.classList.contains("on")) chooseBox(box, false); });
  box.addEventListener("mouseenter", () => { byId("said").textContent = box.getAttribute("aria-label"); });
  box.addEventListener("keydown", (event) => {
    const at = moved(event, boxes.indexOf(box), boxes.length);
    if (at === null) return;
    event.preventDefault();
    chooseBox(boxes[at], true);
  });
}

/* Who sees whom. */

const grid = byId("grid");
let shown = null;
let active = -1;

function rowsOf(line) { return line.first === line.last ? `row ${line.first}` : `rows ${line.first} to ${line.last}`; }

function placeOf(line) {
  const last = line.position + line.last - line.first;
  return line.first === line.last ? `+${line.position}` : `+${line.position} to +${last}`;
}

function kindsOf(forward) { return [...new Set(forward.lines.map((line) => line.kind))]; }

function drawGrid(forward) {
  shown = forward;
  active = -1;
  const kinds = kindsOf(forward);
  const lines = forward.lines;
  const size = lines.length > 64 ? 10 : lines.length > 32 ? 13 : 16;
  const labels = lines.map((line) => `${line.wrong ? "! " : line.needed ? "✓ " : "  "}${rowsOf(line).replace(/rows? /, "").replace(" to ", "-")} ${line.kind.slice(0, 12)}`);
  const wide = Math.max(...labels.map((text) => text.length), 0) * 7.3 + 10;
  const before = forward.columns.length * 22 + (forward.columns.length ? 12 : 0);
  const top = forward.columns.length ? 20 : 4;
  const width = wide + before + lines.length * size + 8;
  const svg = made("svg", { width, height: top + lines.length * size + 4, "aria-hidden": "true" });
  forward.columns.forEach((name, at) => svg.append(made("text", { x: wide + at * 22 - (at ? 0 : 4), y: 13 }, at ? "…" : name)));
  if (forward.columns.length > 1) svg.querySelectorAll("text")[0].textContent = forward.columns.map((c) => c.slice(0, 1)).join(" ");
  if (forward.columns.length > 1) svg.querySelectorAll("text")[1].textContent = "";
  lines.forEach((line, at) => {
    const y = top + at * size;
    const group = made("g", { class: "line", "data-at": at });
    group.append(made("rect", { class: "bar", x: 0, y, width, height: size }));
    const label = made("text", { x: 4, y: y + size * 0.78, "xml:space": "preserve" }, labels[at]);
    label.style.fontSize = `${Math.min(12, size)}px`;
    group.append(label);
    line.cached.forEach((sight, column) => {
      const kind = line.wrong?.cached ? "wrong" : sight === "none" ? "not" : sight === "part" ? "cache part" : "cache";
      group.append(made("rect", { class: kind, x: wide + column * 22, y: y + 1, width: 18, height: size - 2, rx: 2 }));
    });
    const seen = new Set(line.sees.flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, n) => a + n)));
    const left = wide + before;
    for (let key = 0; key < lines.length;) {
      let end = key + 1;
      const isWrong = (number) => line.wrong?.lines.includes(number);
      const name = isWrong(key) ? "wrong" : seen.has(key) ? `k${kinds.indexOf(lines[key].kind) % 5}` : "not";
      if (name === "not") while (end < lines.length && !seen.has(end) && !isWrong(end)) end += 1;
      const run = name === "not" ? { x: left + key * size, y: y + 1, width: (end - key) * size - 1, height: size - 2 }
        : { x: left + key * size, y: y + 1, width: size - 1, height: size - 2, rx: 2 };
      group.append(made("rect", { class: name, ...run }));
      key = end;
    }
    svg.append(group);
  });
  grid.replaceChildren(svg);
  byId("asks").textContent = `attention: ${forward.attention}${forward.note ? ` (${forward.note})` : ""}`;
  const legend = kinds.map((kind, at) => [`k${at % 5}`, kind]);
  if (forward.columns.length) legend.push(["cache", forward.columns.join(", then ")]);
  if (lines.some((line) => line.wrong)) legend.push(["wrong", "! a mistake names this row, and what it sees there"]);
  byId("legend").replaceChildren(...legend.map(([name, said]) => {
    const entry = made("span");
    entry.append(made("i", { class: name }), said);
    return entry;
  }));
  if (lines.some((line) => line.needed)) byId("legend").append(made("span", {}, "✓ the proof rests on it"));
  if (lines.length) chooseRow(0, false);
}

function chooseRow(at, scroll) {
  if (at === active) return;
  active = at;
  const line = shown.lines[at];
  const seen = (key) => line.sees.some(([a, b]) => a <= key && key <= b);
  const groups = [...grid.querySelectorAll(".line")];
  groups.forEach((group, number) => {
    group.classList.toggle("on", number === at);
    group.classList.toggle("seen", seen(number));
  });
  const facts = [line.kind, placeOf(line)];
  if (line.stays) facts.push("may stay in the cache");
  const panel = [made("h3", {}, rowsOf(line)), made("p", { class: "soft" }, facts.join(", "))];
  for (const why of line.why) panel.push(made("p", {}, why));
  byId("row").replaceChildren(...panel);
  grid.setAttribute("aria-label", `${rowsOf(line)}, ${facts.join(", ")}`);
  if (scroll) {
    const bar = groups[at].querySelector(".bar");
    const top = Number(bar.getAttribute("y"));
    intoView(grid, top, top + Number(bar.getAttribute("height")));
  }
}

function rowAt(event) {
  const group = event.target.closest?.(".line");
  if (group) chooseRow(Number(group.dataset.at), false);
}

if (forwards.length) {
  grid.addEventListener("mouseover", rowAt);
  grid.addEventListener("click", rowAt);
  grid.addEventListener("keydown", (event) => {
    const at = moved(event, active, shown.lines.length);
    if (at === null) return;
    event.preventDefault();
    chooseRow(at, true);
  });
  byId("forward").addEventListener("change", (event) => {
    const forward = forwards[Number(event.target.value)];
    drawGrid(forward);
    if (forward.place) showPlace(forward.place);
  });
  const wrong = forwards.findIndex((forward) => forward.lines.some((line) => line.wrong));
  const first = wrong < 0 ? forwards.length - 1 : wrong;
  byId("forward").value = String(first);
  drawGrid(forwards[first]);
}
