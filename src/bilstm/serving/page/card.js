// A model card (Markdown) as elements: headings, lists, tables, code, paragraphs; anything else stays as it is written.

import { element } from "./drawing.js";

export function drawCard(markdown) {
  const place = element("div", { className: "prose" });
  const lines = markdown.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n");
  let at = 0;
  const while_ = (test) => {
    const start = at;
    while (at < lines.length && test(lines[at])) at += 1;
    return lines.slice(start, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    const heading = /^(#{1,4}) (.*)$/.exec(line);
    if (heading) {
      place.append(element(`h${Math.min(heading[1].length + 1, 4)}`, {}, ...inline(heading[2])));
      at += 1;
    } else if (line.startsWith("|")) {
      place.append(table(while_((each) => each.startsWith("|"))));
    } else if (/^[-*] /.test(line)) {
      const items = while_((each) => /^[-*] /.test(each));
      place.append(element("ul", {}, ...items.map((item) => element("li", {}, ...inline(item.slice(2))))));
    } else if (line.startsWith("    ")) {
      place.append(element("pre", { text: while_((each) => each.startsWith("    ")).map((e) => e.slice(4)).join("\n") }));
    } else if (line.startsWith("```")) {
      at += 1;
      place.append(element("pre", { text: while_((each) => !each.startsWith("```")).join("\n") }));
      at += 1;
    } else if (line.trim() === "") {
      at += 1;
    } else {
      const words = while_((each) => each.trim() !== "" && !/^(#{1,4} |\||[-*] |```)/.test(each));
      if (words.length === 0) words.push(lines[at++]);
      place.append(element("p", {}, ...inline(words.join(" "))));
    }
  }
  return place;
}

function table(lines) {
  const cells = (line) => line.replace(/^\||\|\s*$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const [head, , ...rows] = lines;
  const row = (line, name) => element("tr", {}, ...cells(line).map((cell) => element(name, {}, ...inline(cell))));
  return element(
    "table",
    {},
    element("thead", {}, row(head, "th")),
    element("tbody", {}, ...rows.map((line) => row(line, "td"))),
  );
}

function inline(text) {
  return text
    .split(/(`[^`]+`|\*\*[^*]+\*\*)/)
    .filter(Boolean)
    .map((part) => {
      if (/^`[^`]+`$/.test(part)) return element("code", { text: part.slice(1, -1) });
      if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", { text: part.slice(2, -2) });
      return part;
    });
}
