// The page: a text, the answer as it is typed, and what the words did.

import { ask, keepKey, Problem } from "./api.js";
import { drawCard } from "./card.js";
import { colourOf, drawBars, drawFacts, drawStrongest, drawTags, drawWords, element, percent } from "./drawing.js";

const TYPING_PAUSE = 60; // milliseconds between the last letter and a request
const LONGEST_PAUSE = 180; // while typing goes on, the answer is at most this old
const EXPLANATION_PAUSE = 300;

const $ = (id) => document.getElementById(id);
const state = { models: [], limits: {}, model: null, label: null, sent: 0, shown: 0, answer: null };

// ---- models ----------------------------------------------------------------------------------------------------

async function readModels() {
  try {
    const found = await ask("/v1/models");
    state.models = found.models;
    state.limits = found.limits;
  } catch (problem) {
    if (problem.status === 401) askForKey();
    else {
      say(problem);
      setTimeout(readModels, 1000 * (problem.retryAfter || 2));
    }
    return;
  }
  say(null);
  const wanted = state.model?.name ?? decodeURIComponent(location.hash.slice(1));
  $("model").replaceChildren(...state.models.map((model) => new Option(model.name, model.name)));
  $("model").disabled = state.models.length < 2;
  chooseModel(state.models.find((model) => model.name === wanted) ?? state.models[0]);
}

function chooseModel(model) {
  const isOther = state.model?.name !== model.name;
  state.model = model;
  $("model").value = model.name;
  document.title = `${model.name} \u2013 bilstm`;
  $("show-card").hidden = model.card === null;
  $("show-report").hidden = model.report === null;
  drawFacts($("facts"), model);
  if (isOther) {
    state.label = null;
    clearAnswer();
  }
  typed();
}

function askForKey(isWrong = false) {
  $("key-problem").hidden = !isWrong;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

// ---- answers ---------------------------------------------------------------------------------------------------

let typingTimer = 0;
let firstUnsent = 0;
let explanationTimer = 0;

function typed() {
  const letters = Array.from($("text").value).length;
  const most = state.limits.max_text_chars;
  $("count").textContent = letters ? `${letters.toLocaleString("en")}${letters > most / 2 ? ` of ${most.toLocaleString("en")}` : ""} characters` : "";
  clearTimeout(typingTimer);
  clearTimeout(explanationTimer);
  if (!state.model) return;
  if ($("text").value.trim() === "") {
    state.shown = ++state.sent; // what is still on its way is too late
    firstUnsent = 0;
    clearAnswer();
    return;
  }
  $("words").classList.add("old");
  firstUnsent ||= performance.now();
  const wait = Math.max(0, Math.min(TYPING_PAUSE, firstUnsent + LONGEST_PAUSE - performance.now()));
  typingTimer = setTimeout(predict, wait);
}

async function predict() {
  firstUnsent = 0;
  const number = ++state.sent;
  const text = $("text").value;
  const model = state.model;
  const start = performance.now();
  let found;
  try {
    found = await ask("/v1/predict", { model: model.name, texts: [text] });
  } catch (problem) {
    if (number === state.sent) failed(problem);
    return;
  }
  if (number <= state.shown || model.name !== state.model.name) return; // a later one was faster
  state.shown = number;
  say(null);
  $("status").textContent = `${Math.max(1, Math.round(performance.now() - start))} ms`;
  if (found.version !== model.version) readModels(); // the model was exchanged
  showAnswer(text, found.predictions[0]);
  if (number === state.sent && model.can_explain && model.kind !== "tagging") {
    clearTimeout(explanationTimer);
    explanationTimer = setTimeout(() => explain(number, text), EXPLANATION_PAUSE);
  }
}

function failed(problem) {
  if (problem.status === 401) {
    askForKey();
    return;
  }
  say(problem);
  if (problem.status === 503 || problem.status === 0) {
    typingTimer = setTimeout(predict, 1000 * (problem.retryAfter || 1));
  }
}

function say(problem) {
  $("problem").hidden = problem === null;
  $("problem").textContent = problem === null ? "" : problem.message;
  if (problem !== null) $("status").textContent = "";
}

function clearAnswer() {
  say(null);
  state.answer = null;
  $("status").textContent = "";
  $("headline").textContent = "The answer stands here.";
  $("headline").className = "headline empty";
  for (const id of ["bars", "words", "legend", "strongest"]) $(id).replaceChildren();
  $("words-part").hidden = true;
  $("strongest-part").hidden = true;
}

function headline(text) {
  $("headline").className = "headline";
  if ($("headline").textContent !== text) $("headline").textContent = text; // said aloud only when it changes
}

function showAnswer(text, answer) {
  state.answer = { text, answer };
  if (state.model.kind === "tagging") {
    showTags(text, answer);
    return;
  }
  if (state.model.kind === "regression") {
    headline(answer.prediction.toLocaleString("en", { maximumSignificantDigits: 5 }));
    return;
  }
  const isList = Array.isArray(answer.prediction);
  headline(isList ? answer.prediction.join(", ") || "none of the labels" : answer.prediction);
  drawBars($("bars"), answer, state.model.labels, state.label ?? (isList ? null : answer.prediction), chooseLabel);
}

function showTags(text, answer) {
  const labels = state.model.labels;
  const count = answer.spans.length;
  const found = count === 1 ? "1 span" : `${count || "No"} spans`;
  headline(answer.intent === null ? found : `${answer.intent} (${percent(answer.intent_score)})`);
  $("words-title").textContent = "What was found";
  $("words-note").textContent = answer.intent === null ? "" : found;
  drawTags($("words"), text, answer, labels, (span) => explainSpan(state.shown, text, span));
  $("strongest-part").hidden = true;
  $("legend").replaceChildren();
  if (count) $("legend").append(element("li", { text: "Choose a span to see which words made it." }));
  $("words").classList.remove("old");
  $("words-part").hidden = false;
  $("bars").replaceChildren(
    ...answer.spans.map((span) =>
      element(
        "div",
        { className: "bar" },
        element("span", { className: "name" }, element("span", { className: colourOf(span.label, labels), text: span.label }), ` ${span.text}`),
        element("span", { className: "share", text: percent(span.score) }),
      ),
    ),
  );
}

// ---- explanations ----------------------------------------------------------------------------------------------

function chooseLabel(name) {
  state.label = state.label === name ? null : name;
  if (!state.answer) return;
  showAnswer(state.answer.text, state.answer.answer);
  explain(state.shown, state.answer.text);
}

async function explain(number, text) {
  const model = state.model;
  const label = state.label;
  if (Array.from(text).length > state.limits.max_explained_chars) {
    hideWords(`Texts of more than ${state.limits.max_explained_chars.toLocaleString("en")} characters are not explained.`);
    return;
  }
  const question = { model: model.name, text };
  if (label !== null) question.label = label;
  let found;
  try {
    found = await ask("/v1/explain", question);
  } catch (problem) {
    if (number === state.sent) hideWords(problem instanceof Problem ? problem.message : String(problem));
    return;
  }
  if (number !== state.sent || model.name !== state.model.name || label !== state.label) return;
  drawWords($("words"), text, found.tokens);
  $("words").classList.remove("old");
  $("words-title").textContent = "What the words did";
  $("words-note").textContent = found.method;
  const sample = (side, says) =>
    element("li", {}, element("span", { className: `sample ${side}`, text: side }), ` ${says}`);
  const what = found.label ?? "a higher number";
  $("legend").replaceChildren(sample("for", what), sample("against", what));
  for (const note of found.notes) $("legend").append(element("li", { text: note }));
  $("words-part").hidden = false;
  $("strongest-title").textContent = "Strongest words";
  drawStrongest($("strongest"), found.tokens);
  $("strongest-part").hidden = found.tokens.length === 0;
}

async function explainSpan(number, text, span) {
  try {
    const found = await ask("/v1/explain", { model: state.model.name, text, span: span.text });
    if (number !== state.sent) return;
    $("strongest-title").textContent = `Strongest words for ${found.label}`;
    drawStrongest($("strongest"), found.tokens);
    $("strongest-part").hidden = false;
  } catch (problem) {
    if (number === state.sent) failed(problem);
  }
}

function hideWords(why) {
  $("words").replaceChildren();
  $("legend").replaceChildren();
  $("words-note").textContent = why;
  $("words-part").hidden = false;
  $("strongest-part").hidden = true;
}

// ---- card and report -------------------------------------------------------------------------------------------

function openPaper(title, content, address) {
  $("paper-title").textContent = title;
  $("paper-link").hidden = !address;
  if (address) $("paper-link").href = address;
  $("paper-content").replaceChildren(content);
  $("paper").showModal();
}

async function showCard() {
  try {
    const model = await ask(`/v1/models/${encodeURIComponent(state.model.name)}`);
    openPaper(`Card of ${model.name}`, drawCard(await ask(model.card, undefined, { asText: true })), null);
  } catch (problem) {
    failed(problem);
  }
}

async function showReport() {
  try {
    const model = await ask(`/v1/models/${encodeURIComponent(state.model.name)}`); // a fresh address
    const frame = element("iframe", { title: `Report of ${model.name}` });
    frame.setAttribute("sandbox", "");
    frame.src = model.report;
    openPaper(`Report of ${model.name}`, frame, model.report);
  } catch (problem) {
    failed(problem);
  }
}

// ---- events ----------------------------------------------------------------------------------------------------

$("text").addEventListener("input", typed);
$("model").addEventListener("change", () => {
  const model = state.models.find((each) => each.name === $("model").value);
  history.replaceState(null, "", `#${encodeURIComponent(model.name)}`);
  chooseModel(model);
});
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  keepKey($("key").value);
  try {
    await ask("/v1/models");
  } catch (problem) {
    if (problem.status === 401) {
      keepKey("");
      askForKey(true);
      return;
    }
  }
  $("key").value = "";
  $("key-dialog").close();
  readModels();
});
$("show-card").addEventListener("click", showCard);
$("show-report").addEventListener("click", showReport);
$("paper-close").addEventListener("click", () => $("paper").close());
$("paper").addEventListener("close", () => $("paper-content").replaceChildren());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (state.answer && state.model.can_explain && state.model.kind !== "tagging") explain(state.shown, state.answer.text);
});

clearAnswer();
readModels();
if (matchMedia("(pointer: fine)").matches) $("text").focus(); // on a phone this would open the keyboard
