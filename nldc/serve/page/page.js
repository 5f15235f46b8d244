// The page talks to the server that it came from as any client does, and asks it to say of every
// piece of text how it came to be (`nldc.steps`).

import { readEvents } from "./events.js";
import { Figures } from "./figures.js";
import { Answer } from "./answer.js";
import { brought, offer } from "./params.js";

const at = (id) => document.getElementById(id);
const turns = at("turns");
const prompt = at("prompt");
const send = at("send");
const state = { messages: [], running: null, model: null, strategies: [] };

// Settings

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const KEPT = [...NUMBERS, "strategy", "stop", "system", "thinking"];

function mode() {
  return document.querySelector("input[name=mode]:checked").value;
}

function asked() {
  const body = { model: state.model, stream: true, nldc: { steps: true, metrics: true } };
  for (const name of NUMBERS) {
    const field = at(name);
    if (!field.checkValidity()) {
      throw new Error(`${name}: ${field.validationMessage}`);
    }
    if (field.value !== "") {
      body[name] = Number(field.value);
    }
  }
  const stop = at("stop").value.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
  if (stop) {
    body.stop = [stop];
  }
  if (at("strategy").value) {
    body.strategy = at("strategy").value;
  }
  const params = brought(at("params"));
  if (Object.keys(params).length) {
    body.strategy_params = params;
  }
  return body;
}

function keep() {
  const held = Object.fromEntries(KEPT.map((name) => [name, at(name).value]));
  store("settings", JSON.stringify(held));
}

function recall() {
  try {
    const held = JSON.parse(stored("settings") ?? "{}");
    for (const name of KEPT) {
      if (typeof held[name] === "string") {
        at(name).value = held[name];
      }
    }
  } catch {
    // what an older page kept is worth nothing
  }
}

function store(name, value) {
  try {
    localStorage.setItem(`nldc.${name}`, value);
  } catch {
    // a browser that keeps nothing
  }
}

function stored(name) {
  try {
    return localStorage.getItem(`nldc.${name}`);
  } catch {
    return null;
  }
}

// The server

function headers() {
  const held = { "content-type": "application/json" };
  if (at("key").value) {
    held.authorization = `Bearer ${at("key").value}`;
  }
  return held;
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) {
      at("model").textContent = await problemOf(response);
      return;
    }
    const [model] = (await response.json()).data;
    state.model = model.id;
    const held = Object.entries(model.nldc.strategies);
    state.strategies = held.map(([name, told]) => ({ name, ...told }));
    at("model").textContent = model.id;
    strategies(model.nldc.route);
  } catch {
    at("model").textContent = "the server does not answer";
  }
}

function strategies(route) {
  const select = at("strategy");
  const chosen = select.value || JSON.parse(stored("settings") ?? "{}").strategy;
  const options = state.strategies.map((each) => new Option(each.name, each.name));
  if (state.strategies.length > 1) {
    options.unshift(new Option(route ? `by load: ${route}` : "the server's choice", ""));
  }
  select.replaceChildren(...options);
  if (chosen && state.strategies.some((each) => each.name === chosen)) {
    select.value = chosen;
  }
  promise();
}

function promise() {
  const found = state.strategies.find((each) => each.name === at("strategy").value);
  const exact = found?.guarantee === "exact" ? "Exact, proved: these are the tokens of AR." : "";
  const claim = found && !exact ? `Promises: ${found.guarantee}.` : exact;
  at("promise").textContent = found ? [claim, found.summary].filter(Boolean).join(" ") : "";
  offer(at("params"), found ? [found] : state.strategies);
}

// Turns

function turn(kind, who) {
  at("empty").hidden = true;
  const box = document.createElement("article");
  box.className = `turn ${kind}`;
  const name = document.createElement("p");
  name.className = "who";
  name.textContent = who;
  box.append(name);
  turns.append(box);
  return box;
}

function said(text) {
  const box = turn("user", mode() === "chat" ? "you" : "prompt");
  const body = document.createElement("div");
  body.className = "said";
  body.textContent = text;
  box.append(body);
}

function closing(box, text, isError = false) {
  const line = document.createElement("p");
  line.className = isError ? "end error" : "end";
  line.textContent = text;
  box.append(line);
}

const isAtEnd = () => turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;

function follow(change) {
  const stays = isAtEnd();
  change();
  if (stays) {
    turns.scrollTop = turns.scrollHeight;
  }
}

async function ask(text) {
  const chat = mode() === "chat";
  const body = asked();
  if (chat) {
    const system = at("system").value.trim();
    const first = system ? [{ role: "system", content: system }] : [];
    body.messages = [...first, ...state.messages, { role: "user", content: text }];
    if (at("thinking").value) {
      body.chat_template_kwargs = { enable_thinking: at("thinking").value === "true" };
    }
  } else {
    body.prompt = text;
  }
  said(text);
  const box = turn("reply running", state.model);
  const answer = new Answer(box);
  const figures = new Figures(at);
  const stopping = new AbortController();
  busy(stopping);
  turns.scrollTop = turns.scrollHeight;
  let finish = null;
  try {
    const response = await fetch(chat ? "v1/chat/completions" : "v1/completions", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(body),
      signal: stopping.signal,
    });
    if (!response.ok) {
      throw new Error(await problemOf(response));
    }
    for await (const piece of readEvents(response.body)) {
      if (piece.error) {
        throw new Error(piece.error.message);
      }
      if (piece.metrics) {
        figures.whole(piece.metrics);
      }
      for (const choice of piece.choices) {
        finish = choice.finish_reason ?? finish;
        if (choice.nldc) {
          figures.add(choice.nldc);
          follow(() => answer.add(choice.nldc.spans, choice.nldc.steps));
        }
      }
    }
    closing(box, figures.sentence(finish));
  } catch (problem) {
    const isStopped = problem.name === "AbortError";
    follow(() => closing(box, isStopped ? `stopped; ${figures.sentence(null)}` : problem.message, !isStopped));
    if (!isStopped) {
      prompt.value ||= text;
    }
  } finally {
    box.classList.remove("running");
    if (chat && answer.text) {
      state.messages.push({ role: "user", content: text });
      state.messages.push({ role: "assistant", content: answer.text });
    }
    busy(null);
  }
}

function busy(stopping) {
  state.running = stopping;
  turns.setAttribute("aria-busy", String(stopping !== null));
  send.textContent = stopping ? "Stop" : "Send";
  send.classList.toggle("stop", stopping !== null);
  at("status").textContent = "";
}

function submit(event) {
  event?.preventDefault();
  if (state.running) {
    state.running.abort();
    return;
  }
  const text = prompt.value;
  if (!text.trim() && mode() === "chat") {
    return;
  }
  keep();
  prompt.value = "";
  ask(text).catch((problem) => {
    prompt.value = text;
    at("status").textContent = problem.message;
  });
}

function clear() {
  state.running?.abort();
  state.messages = [];
  for (const box of turns.querySelectorAll(".turn")) {
    box.remove();
  }
  at("empty").hidden = false;
  prompt.focus();
}

// Light and dark, keys, narrow screens

function paint(theme) {
  document.documentElement.dataset.theme = theme;
}

const dark = matchMedia("(prefers-color-scheme: dark)");
paint(stored("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => stored("theme") ?? paint(dark.matches ? "dark" : "light"));
at("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  paint(theme);
  store("theme", theme);
});

function settings(open) {
  at("settings").classList.toggle("open", open);
  at("more").setAttribute("aria-expanded", String(open));
  at("more").textContent = open ? "Close" : "Settings";
}

at("more").addEventListener("click", () => settings(!at("settings").classList.contains("open")));
at("form").addEventListener("submit", submit);
at("clear").addEventListener("click", clear);
at("strategy").addEventListener("change", promise);
at("key").addEventListener("change", connect);
at("access").addEventListener("submit", (event) => event.preventDefault());
for (const each of document.querySelectorAll("input[name=mode]")) {
  each.addEventListener("change", () => {
    const chat = mode() === "chat";
    document.querySelector(".of-chat").hidden = !chat;
    prompt.placeholder = chat ? "Say something" : "Text to go on from";
    clear();
  });
}
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    submit(event);
  }
});
document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    state.running?.abort();
    settings(false);
  } else if (event.key === "/" && !writes) {
    event.preventDefault();
    prompt.focus();
  } else if (event.key === "l" && event.ctrlKey) {
    event.preventDefault();
    clear();
  }
});

prompt.placeholder = "Say something";
recall();
connect();
