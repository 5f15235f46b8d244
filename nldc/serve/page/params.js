// The params that the chosen strategy leaves to requests, a slider each. What was moved is asked for.

function slider(name, told) {
  const label = document.createElement("label");
  const text = document.createElement("span");
  const input = document.createElement("input");
  const step = told.type === "int" ? 1 : Math.min(0.01, (told.max - told.min) / 100) || "any";
  Object.assign(input, { type: "range", min: told.min, max: told.max, step, name });
  input.value = told.default;
  const show = () => { text.textContent = `${name} ${input.dataset.moved ? input.value : told.default}`; };
  input.addEventListener("input", () => {
    input.dataset.moved = "yes";
    show();
  });
  label.title = told.help;
  label.append(text, input);
  show();
  return label;
}

export function offer(box, strategies) {
  const held = new Map(strategies.flatMap((each) => Object.entries(each.params)));
  const [legend] = box.children;
  box.replaceChildren(legend, ...[...held].map(([name, told]) => slider(name, told)));
  box.hidden = held.size === 0;
}

export function brought(box) {
  const moved = [...box.querySelectorAll("input")].filter((each) => each.dataset.moved);
  return Object.fromEntries(moved.map((each) => [each.name, Number(each.value)]));
}
