// Requests to the service: with a token where it asks for one, and again where that helps.

import { $, say } from "./dom.js";

export const root = document.documentElement.dataset.root;
const KEPT = "ntk_dist.token";

/** What the service said of a request that came to nothing. */
export class Problem extends Error {
  constructor(status, told) {
    super(told.message ?? `the service answered ${status}`);
    this.status = status;
    this.code = told.code ?? "";
    this.requestId = told.request_id;
  }
}

/** Nothing answered, or an answer broke off. */
class Unreachable extends Error {}

const unreachable = (error) => {
  throw new Unreachable("nothing answers", { cause: error });
};
const PASSING = [429, 502, 503, 504]; // as for other clients: busy, or away for a moment
const mayPass = (error) => error instanceof Unreachable || PASSING.includes(error.status);

/** The answer to a request; asks for a token until the service takes one. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEPT);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const response = await fetch(root + path, { ...options, headers }).catch(unreachable);
    if (response.ok) {
      $("forget").hidden = token === null;
      return response;
    }
    const problem = new Problem(response.status, (await told(response)) ?? {});
    const isRead = (options.method ?? "GET") === "GET";
    if (response.status !== 401 && !(response.status === 403 && token && isRead)) throw problem;
    if (token === sessionStorage.getItem(KEPT)) await newToken(token && problem.message);
  }
}

export const askJson = async (path, options) => JSON.parse(await textOf(await ask(path, options)));

const textOf = (response) => response.text().catch(unreachable);

export const bytesOf = (response) => response.arrayBuffer().catch(unreachable);

async function told(response) {
  const text = await textOf(response);
  try {
    return JSON.parse(text).error;
  } catch (error) {
    return { message: `the service answered ${response.status}: ${text.slice(0, 200)}` };
  }
}

let waiting = null; // for a token that several requests need

function newToken(refusal) {
  waiting ??= new Promise((resolve) => {
    sessionStorage.removeItem(KEPT);
    $("main").hidden = true;
    $("forget").hidden = true;
    $("sign-in").hidden = false;
    say($("token-refused"), refusal ? `This token was refused: ${refusal}` : "");
    $("token").value = "";
    $("token").focus();
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, $("token").value.trim());
      $("token").value = "";
      $("sign-in").hidden = true;
      $("main").hidden = false;
      waiting = null;
      resolve();
    };
  });
  return waiting;
}

$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEPT);
  location.reload();
});

for (const place of document.querySelectorAll("[data-origin]")) place.textContent = location.origin + root;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Until the page is looked at: nobody needs what is asked for behind other windows. */
const seen = () =>
  new Promise((resolve) => {
    if (!document.hidden) resolve();
    else document.addEventListener("visibilitychange", resolve, { once: true });
  });

/** Do something again and again, until it says that it is done; says so while nothing answers. */
export async function repeat(everyMs, act) {
  for (let failures = 0; ; ) {
    await seen();
    try {
      const isDone = await act();
      failures = 0;
      say($("notice"), "");
      if (isDone) return;
    } catch (error) {
      if (!mayPass(error)) throw error;
      failures += 1;
      say($("notice"), `The service cannot be asked right now (${error.message}). Trying again.`);
    }
    await pause(Math.min(everyMs * 2 ** Math.min(failures, 4), 30000));
  }
}

/** Server-sent events of a job, from its beginning to its end; a broken stream goes on where it was. */
export async function* events(path) {
  let last = null;
  for (;;) {
    await seen();
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const response = await ask(path, { headers });
      for await (const message of messages(response.body)) {
        last = message.id ?? last;
        if (message.data === undefined) continue;
        const event = JSON.parse(message.data);
        yield event;
        if (event.kind === "end") return;
      }
    } catch (error) {
      if (!mayPass(error)) throw error;
    }
    await pause(2000);
  }
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read().catch(unreachable);
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) yield fields(part);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have broken off already
  }
}

function fields(message) {
  const found = {};
  for (const line of message.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) found[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  return found;
}

/** What is shown in place of a page that cannot be: which job there is not, and the like. */
export function refuse(error) {
  const id = error.requestId ? ` (request ${error.requestId})` : "";
  say($("notice"), `${error.message}${id}`);
  for (const busy of document.querySelectorAll("[aria-busy]")) {
    busy.hidden = true;
    busy.removeAttribute("aria-busy");
  }
  if (!(error instanceof Problem)) throw error;
}
