// Answers as elements. Whatever comes from a text, a model or a file goes in as text, never as markup.

export function element(name, { text, className, title } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (title) made.title = title;
  made.append(...children);
  return made;
}

export const percent = (share) => {
  const value = 100 * share;
  if (value > 99.95 && value < 100) return "> 99.9 %";
  if (value < 0.05 && value > 0) return "< 0.1 %";
  return `${value.toFixed(1)} %`;
};

const MOST_BARS = 8;

// Bars keep their places while they are few, so that they move and do not jump; of many the highest are shown.
export function drawBars(place, answer, labels, explained, choose) {
  const top = Array.isArray(answer.prediction) ? answer.prediction : [answer.prediction];
  let names = labels.filter((name) => Object.hasOwn(answer.probabilities, name));
  if (names.length > MOST_BARS) {
    names = [...names].sort((a, b) => answer.probabilities[b] - answer.probabilities[a]).slice(0, MOST_BARS);
  }
  const bars = [...place.children];
  const isSame = bars.length === names.length && bars.every((bar, at) => bar.dataset.name === names[at]);
  if (!isSame) {
    place.replaceChildren(...names.map((name) => makeBar(name, choose)));
  }
  [...place.children].forEach((bar, at) => {
    const share = answer.probabilities[names[at]];
    bar.classList.toggle("top-answer", top.includes(names[at]));
    bar.querySelector(".share").textContent = percent(share);
    bar.querySelector(".fill").style.width = `${100 * share}%`;
    if (choose) bar.setAttribute("aria-pressed", String(names[at] === explained));
  });
}

function makeBar(name, choose) {
  const fill = element("span", { className: "fill" });
  const bar = element(
    choose ? "button" : "div",
    { className: "bar", title: name },
    element("span", { className: "name", text: name }),
    element("span", { className: "share" }),
    element("span", { className: "track" }, fill),
  );
  bar.dataset.name = name;
  if (choose) {
    bar.type = "button";
    bar.addEventListener("click", () => choose(name));
  }
  return bar;
}

const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;

// Places count code points, JavaScript counts units of 16 bits: cut a list of letters.
export function drawWords(place, text, tokens) {
  const letters = Array.from(text);
  const largest = Math.max(...tokens.map((token) => Math.abs(token.score)), 1e-9);
  const style = getComputedStyle(document.documentElement);
  const colours = { for: style.getPropertyValue("--for"), against: style.getPropertyValue("--against") };
  const pieces = [];
  let at = 0;
  for (const token of tokens) {
    if (token.start < at) continue;
    pieces.push(letters.slice(at, token.start).join(""));
    const strength = Math.abs(token.score) / largest;
    const side = token.score < 0 ? "against" : "for";
    const word = element("span", { text: letters.slice(token.start, token.end).join(""), title: signed(token.score) });
    word.className = strength > 0.15 ? `word ${side}` : "word";
    if (strength > 0.03) word.style.backgroundColor = `rgba(${colours[side]}, ${(0.42 * strength).toFixed(3)})`;
    pieces.push(word);
    at = token.end;
  }
  pieces.push(letters.slice(at).join(""));
  place.replaceChildren(...pieces);
}

export function drawStrongest(place, tokens, count = 6) {
  const ordered = [...tokens].sort((a, b) => Math.abs(b.score) - Math.abs(a.score)).slice(0, count);
  place.replaceChildren(
    ...ordered.map((token) =>
      element(
        "li",
        {},
        element("span", { className: "name", text: token.text }),
        element("span", { className: `value ${token.score < 0 ? "against" : "for"}`, text: signed(token.score) }),
      ),
    ),
  );
}

export const colourOf = (label, labels) => `c${(Math.max(labels.indexOf(label), 0) % 6) + 1}`;

// Spans in the text; where the tags write none, every word with its tag.
export function drawTags(place, text, answer, labels, choose) {
  const letters = Array.from(text);
  const pieces = [];
  if (answer.tags.length > 0 && answer.tags.every((tag) => labels.includes(tag))) {
    answer.tokens.forEach((token, at) => {
      const tag = element("span", { className: `label ${colourOf(answer.tags[at], labels)}`, text: answer.tags[at] });
      pieces.push(element("span", { className: "tagged" }, token, tag));
    });
    place.replaceChildren(...pieces);
    return;
  }
  let at = 0;
  for (const span of answer.spans) {
    pieces.push(letters.slice(at, span.start).join(""));
    const found = element(
      "button",
      { className: `span ${colourOf(span.label, labels)}`, title: percent(span.score) },
      element("span", { className: "inside", text: letters.slice(span.start, span.end).join("") }),
      element("span", { className: "label", text: span.label }),
    );
    found.type = "button";
    found.addEventListener("click", () => choose(span));
    pieces.push(found);
    at = span.end;
  }
  pieces.push(letters.slice(at).join(""));
  place.replaceChildren(...pieces);
}

export function drawFacts(place, model) {
  const rows = [
    ["Task", model.task.replace("-", " ")],
    ["Labels", model.labels.length > 12 ? `${model.labels.length}` : model.labels.join(", ")],
    ["Weights", model.parameters.toLocaleString("en")],
    ["Version", model.version],
  ];
  place.replaceChildren(
    ...rows.filter(([, value]) => value).flatMap(([name, value]) => [
      element("dt", { text: name }),
      element("dd", { text: value }),
    ]),
  );
}
