// The OpenAPI document of this server as a page.

import { ask } from "./api.js";
import { element } from "./drawing.js";

const EXAMPLES = {
  "/v1/predict": { texts: ["Not bad at all."] },
  "/v1/explain": { text: "Not bad at all." },
};

function typeOf(schema, document_) {
  if (schema.$ref) return typeOf(document_.components.schemas[schema.$ref.split("/").pop()], document_);
  if (schema.anyOf) return schema.anyOf.map((each) => typeOf(each, document_)).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? typeOf(schema.items, document_) : "values"}`;
  return schema.title && schema.type === "object" ? schema.title : schema.type ?? "value";
}

function limitsOf(schema) {
  const inner = schema.anyOf?.find((each) => each.type !== "null") ?? schema;
  const words = [];
  if (inner.maxItems) words.push(`At most ${inner.maxItems.toLocaleString("en")}`);
  const text = inner.items ?? inner;
  if (text.maxLength) words.push(`${words.length ? "" : "Up to "}${text.maxLength.toLocaleString("en")} characters${words.length ? " each" : ""}`);
  return words.length ? `${words.join(", ")}.` : "";
}

function fields(schema, document_) {
  const body = schema.$ref ? document_.components.schemas[schema.$ref.split("/").pop()] : schema;
  const rows = Object.entries(body.properties ?? {}).map(([name, property]) => {
    const inner = property.anyOf?.find((each) => each.description) ?? property;
    const about = [inner.description ?? property.description, limitsOf(property)].filter(Boolean).join(" ");
    return element(
      "tr",
      {},
      element("td", {}, element("code", { text: name })),
      element("td", { text: `${typeOf(property, document_)}${body.required?.includes(name) ? "" : ", optional"}` }),
      element("td", { text: about }),
    );
  });
  return element("table", {}, element("tbody", {}, ...rows));
}

// Names of the schemas that a schema is made of, itself left out.
function partsOf(schema, document_, found = new Set()) {
  for (const each of [schema, schema.items, ...(schema.anyOf ?? []), ...Object.values(schema.properties ?? {})]) {
    if (!each) continue;
    if (each.$ref) {
      const name = each.$ref.split("/").pop();
      if (!found.has(name)) {
        found.add(name);
        partsOf(document_.components.schemas[name], document_, found);
      }
    } else if (each !== schema) partsOf(each, document_, found);
  }
  return found;
}

function drawOperation(path, method, operation, document_) {
  const article = element(
    "article",
    {},
    element("h2", {}, element("span", { className: "method", text: method.toUpperCase() }), element("code", { text: path })),
    element("p", { text: operation.summary ?? "" }),
  );
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  if (body) {
    const example = JSON.stringify(EXAMPLES[path] ?? {});
    article.append(
      element("h3", { text: "Send" }),
      fields(body, document_),
      element("pre", { text: `curl ${location.origin}${path} \\\n  -H 'Content-Type: application/json' \\\n  -d '${example}'` }),
    );
  }
  const answer = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (answer) {
    article.append(element("h3", { text: "Get" }), fields(answer, document_));
    const itself = answer.$ref?.split("/").pop();
    for (const name of partsOf(answer, document_)) {
      if (name === itself) continue;
      const part = document_.components.schemas[name];
      article.append(element("h3", { text: name }), element("p", { className: "quiet", text: part.description ?? "" }), fields(part, document_));
    }
  }
  const refusals = Object.entries(operation.responses).filter(([status]) => status >= "400");
  if (refusals.length) {
    article.append(
      element("h3", { text: "Refused with" }),
      element("table", {}, element("tbody", {}, ...refusals.map(([status, each]) =>
        element("tr", {}, element("td", {}, element("code", { text: status })), element("td", { className: "wide", text: each.description })),
      ))),
    );
  }
  return article;
}

try {
  const document_ = await ask("/openapi.json");
  const drawn = Object.entries(document_.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => drawOperation(path, method, operation, document_)),
  );
  document.getElementById("operations").replaceChildren(...drawn);
} catch (problem) {
  const where = problem.status === 401 ? " Open the page / first and give it there." : "";
  document.getElementById("waiting").textContent = `${problem.message}${where}`;
}
