// Requests to the server that sent this page. The key lives in this tab only.

const KEY = "bilstm-key";

export class Problem extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

// Ask for JSON (or text); errors of every kind become a Problem with a line that a person can read.
export async function ask(path, body, { asText = false } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" };
  if (body !== undefined) {
    options.method = "POST";
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem(0, "unreachable", "The server does not answer.", 2);
  }
  if (response.ok) return asText ? response.text() : response.json();
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    error = {};
  }
  const message = [error.message ?? `The server answered ${response.status}.`, error.hint].filter(Boolean).join(" ");
  throw new Problem(response.status, error.code ?? "unknown", message, Number(response.headers.get("Retry-After")) || 0);
}
