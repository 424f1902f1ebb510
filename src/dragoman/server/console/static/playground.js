// The page of the playground: settings, conversation, figures. chat.js knows the API, markdown.js the rendering.

import { Answer, asCode, buildRequest, messagesOf } from "./chat.js";
import { copyText } from "./console.js";
import { renderMarkdown } from "./markdown.js";

const config = JSON.parse(document.getElementById("play-config").textContent);
const form = document.getElementById("settings");
const list = document.getElementById("conversation");
const composer = document.getElementById("composer");
const prompt = document.getElementById("prompt");
const stopButton = document.getElementById("stop");
const sendButton = document.getElementById("send");
const emptyState = list.firstElementChild;

const turns = [];
let running = null;
let language = "curl";

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Read a field with JSON; its problem is shown below it. Throws if there is one. */
function readJson(name, kind) {
  const text = form.elements[name].value.trim();
  const note = form.querySelector(`[data-problem="${name}"]`);
  note.textContent = "";
  if (!text) return null;
  try {
    const value = JSON.parse(text);
    if (kind === "list" ? !Array.isArray(value) : value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new Error(`this must be a JSON ${kind}`);
    }
    return value;
  } catch (error) {
    note.textContent = error.message;
    note.closest("details").open = true;
    throw error;
  }
}

/** Read a field with a number; its problem is shown below the numbers. Throws if there is one. */
function readNumber(input, note) {
  const value = Number(input.value.trim().replace(",", "."));
  if (Number.isFinite(value)) return value;
  note.textContent = `${input.parentElement.firstElementChild.textContent} must be a number`;
  note.closest("details").open = true;
  throw new Error(note.textContent);
}

function readSettings() {
  const sampling = {};
  const note = form.querySelector('[data-problem="sampling"]');
  note.textContent = "";
  for (const input of form.querySelectorAll("[data-number]")) {
    if (input.value.trim()) sampling[input.name] = readNumber(input, note);
  }
  const stop = form.elements.stop.value.split(",").map((each) => each.trim()).filter(Boolean);
  if (stop.length) sampling.stop = stop;
  if (form.elements.reasoning_effort.value) sampling.reasoning_effort = form.elements.reasoning_effort.value;
  return {
    models: [form.elements.model.value, form.elements.second.value].filter(Boolean),
    dialect: form.elements.dialect.value,
    system: form.elements.system.value.trim(),
    sampling,
    tools: readJson("tools", "list"),
    schema: readJson("schema", "object"),
    logprobs: form.elements.logprobs.checked,
    more: readJson("more", "object") ?? {},
  };
}

/** Return the settings, or null if a field is wrong: its problem is shown. */
function readValidSettings() {
  try {
    return readSettings();
  } catch {
    return null;
  }
}

async function send(sent, settings) {
  const turn = { sent, answers: settings.models.map((model) => new Answer(model)), node: null };
  turns.push(turn);
  drawTurn(turn);
  await generate(turn, settings);
}

async function generate(turn, settings) {
  running = new AbortController();
  setBusy(true);
  const before = turns.slice(0, turns.indexOf(turn));
  const requests = turn.answers.map((answer, column) => {
    const messages = [...messagesOf(before, column, settings.system), ...turn.sent];
    turn.request = buildRequest(config, settings, answer.model, messages);
    return answer.run(config, turn.request, running.signal, () => drawAnswerSoon(turn, answer));
  });
  showCode();
  await Promise.all(requests);
  setBusy(false);
  running = null;
  for (const answer of turn.answers) readCharge(answer);
  prompt.focus();
}

function setBusy(isBusy) {
  stopButton.hidden = !isBusy;
  sendButton.disabled = isBusy;
  holdChanges(isBusy);
}

/** Let nobody change a conversation whose answer is still coming. */
function holdChanges(isHeld) {
  for (const button of list.querySelectorAll("[data-changes]")) button.disabled = isHeld;
}

/** Read what the request cost, once it is settled: a moment after its end. */
async function readCharge(answer) {
  if (answer.requestId === null || answer.error) return;
  for (const delay of [80, 300, 1000, 2500, 5000, 10000]) {
    await new Promise((resolve) => setTimeout(resolve, delay));
    const response = await fetch(`${config.requests}/${answer.requestId}/charge`).catch(() => null);
    if (response?.ok) {
      answer.charge = (await response.json()).charge;
      answer.node.querySelector(".figures")?.replaceWith(figuresOf(answer));
      return;
    }
    if (response?.status !== 404) return;
  }
}

// The conversation

function drawTurn(turn) {
  emptyState.remove();
  const sent = turn.sent.map((message) =>
    make("article", { class: `message ${message.role}` },
      make("div", { class: "message-head" }, message.role === "tool" ? "result of the tool" : "you",
        make("span", { class: "actions" }, make("button", { class: "quiet", type: "button", "data-changes": "", onclick: () => edit(turn) }, "Edit"))),
      make("div", { class: "bubble" }, message.role === "tool" ? make("pre", { class: "code", tabindex: "0" }, message.content) : renderMarkdown(message.content))));
  const answers = make("div", { class: "answers" });
  turn.node = make("section", { class: "stack" }, ...sent, answers);
  for (const answer of turn.answers) {
    answer.node = make("article", { class: "message assistant" });
    answers.append(answer.node);
    drawAnswer(turn, answer);
  }
  list.append(turn.node);
  turn.node.scrollIntoView({ block: "end" });
}

function drawAnswerSoon(turn, answer) {
  if (answer.isDone) {
    drawAnswer(turn, answer);
  } else if (!answer.isDrawing) {
    answer.isDrawing = true;
    setTimeout(() => {
      answer.isDrawing = false;
      // A finished answer was drawn, and may have a field with something in it.
      if (!answer.isDone) drawAnswer(turn, answer);
    }, 60);
  }
}

function drawAnswer(turn, answer) {
  const parts = [
    make("div", { class: "message-head" }, answer.model,
      answer.finish && answer.finish !== "stop" ? make("span", { class: "badge" }, answer.finish) : "",
      make("span", { class: "actions" },
        make("button", { class: "quiet", type: "button", "data-changes": "", onclick: () => retry(turn) }, "Retry"),
        make("button", { class: "quiet", type: "button", onclick: (event) => copyText(answer.text, event.currentTarget) }, "Copy"))),
  ];
  const bubble = make("div", { class: `bubble${answer.isDone ? "" : " pending"}` });
  if (answer.thoughts) {
    const isOpen = answer.node.querySelector(".thoughts")?.open ?? false;
    bubble.append(make("details", { class: "thoughts", open: isOpen }, make("summary", {}, answer.text ? "Thoughts" : "Thinking…"), renderMarkdown(answer.thoughts)));
  }
  if (answer.logprobs.length && answer.isDone) bubble.append(heat(answer.logprobs));
  else bubble.append(renderMarkdown(answer.text));
  if (answer.error) bubble.append(make("p", { class: "error-text", role: "alert" }, answer.error));
  for (const call of answer.calls.filter(Boolean)) bubble.append(drawCall(turn, answer, call));
  parts.push(bubble, figuresOf(answer));
  answer.node.replaceChildren(...parts);
  holdChanges(running !== null);
}

function drawCall(turn, answer, call) {
  const content = make("pre", { class: "code", tabindex: "0" }, pretty(call.arguments));
  const node = make("details", { class: "call", open: true }, make("summary", {}, `calls ${call.name}`), content);
  if (answer.isDone && turn === turns.at(-1) && turn.answers.length === 1) {
    const input = make("input", { "aria-label": `Result of ${call.name}`, placeholder: "What the tool returned" });
    const give = () => {
      call.result = input.value;
      const calls = answer.calls.filter(Boolean);
      if (calls.every((each) => each.result !== undefined)) {
        const settings = readValidSettings();
        const results = calls.map((each) => ({ role: "tool", tool_call_id: each.id, content: each.result }));
        if (settings !== null) send(results, settings);
      }
    };
    node.append(make("div", { class: "row" }, input, make("button", { type: "button", onclick: give }, "Return it")));
  }
  return node;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Show each token with the colour of its probability; the title names it and its alternatives. */
function heat(logprobs) {
  const node = make("p", { class: "heat" });
  for (const item of logprobs) {
    const probability = Math.exp(item.logprob);
    const kind = probability > 0.9 ? "p4" : probability > 0.5 ? "p3" : probability > 0.15 ? "p2" : "p1";
    const others = (item.top_logprobs ?? []).map((each) => `${JSON.stringify(each.token)} ${percent(each.logprob)}`);
    node.append(make("span", { class: kind, title: [`${JSON.stringify(item.token)} ${percent(item.logprob)}`, ...others].join("\n") }, item.token));
  }
  return node;
}

function percent(logprob) {
  return `${(100 * Math.exp(logprob)).toFixed(1)} %`;
}

function figuresOf(answer) {
  const { firstMs, speed } = answer.figures;
  const node = make("div", { class: "figures" });
  const add = (label, value) => node.append(make("span", {}, `${label} `, make("b", {}, value)));
  if (firstMs !== null) add("first token", firstMs < 1000 ? `${Math.round(firstMs)} ms` : `${(firstMs / 1000).toFixed(2)} s`);
  if (speed !== null) add("tokens/s", speed.toFixed(1));
  if (answer.usage) {
    add("prompt", `${answer.usage.prompt}${answer.usage.cached ? ` (${answer.usage.cached} shared)` : ""}`);
    add("answer", `${answer.usage.completion}${answer.usage.thoughts ? ` (${answer.usage.thoughts} thoughts)` : ""}`);
  }
  if (answer.charge !== null) {
    node.append(make("a", { href: `${config.requests}/${answer.requestId}` }, "price ", make("b", {}, answer.charge)));
  }
  return node;
}

function edit(turn) {
  if (running !== null) return;
  prompt.value = turn.sent[0].content;
  removeFrom(turn);
  prompt.focus();
}

async function retry(turn) {
  if (running !== null) return;
  const { sent } = turn;
  const settings = readValidSettings();
  if (settings === null) return;
  removeFrom(turn);
  await send(sent, settings);
}

function removeFrom(turn) {
  for (const removed of turns.splice(turns.indexOf(turn))) removed.node.remove();
  if (!turns.length) list.append(emptyState);
}

// Code

function currentRequest() {
  if (turns.length && !prompt.value.trim()) return turns.at(-1).request;
  const settings = readSettings();
  const next = { role: "user", content: prompt.value.trim() || "Hello" };
  return buildRequest(config, settings, settings.models[0], [...messagesOf(turns, 0, settings.system), next]);
}

function showCode() {
  try {
    document.getElementById("code").textContent = asCode(language, config, currentRequest());
  } catch {
    document.getElementById("code").textContent = "Correct the settings first.";
  }
}

for (const button of document.querySelectorAll("[data-code]")) {
  button.addEventListener("click", () => {
    language = button.dataset.code;
    for (const each of document.querySelectorAll("[data-code]")) each.setAttribute("aria-pressed", String(each === button));
    showCode();
  });
}

document.getElementById("code-details").addEventListener("toggle", showCode);
document.getElementById("copy-code").addEventListener("click", (event) => copyText(document.getElementById("code").textContent, event.currentTarget));
form.addEventListener("change", showCode);
form.addEventListener("submit", (event) => event.preventDefault());
stopButton.addEventListener("click", () => running?.abort());
document.getElementById("clear").addEventListener("click", () => {
  running?.abort();
  if (turns.length) removeFrom(turns[0]);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = prompt.value.trim();
  if (!content || running !== null) return;
  const settings = readValidSettings();
  if (settings === null) return; // the message stays
  prompt.value = "";
  send([{ role: "user", content }], settings);
});
