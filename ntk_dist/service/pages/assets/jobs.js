// The list of jobs.

import { $, element, say } from "./dom.js";
import { askJson, refuse, repeat, root } from "./api.js";
import { ago, number, plural, score, small } from "./words.js";

// One question for all of them: a stream of events for each would take the six connections that a
// browser has for one host, and tell each job from its beginning.
const EVERY_MS = 2000;
const LIMIT = 50;

const cards = new Map();
const query = new URLSearchParams(location.search);

function newCard(job) {
  const parts = {
    state: element("span", { class: "state" }),
    line: element("p", { class: "line" }),
    bar: element("progress", { max: 1, value: 0, "aria-label": `Progress of ${job.name}` }),
    facts: element("p", { class: "hint" }),
  };
  const link = element("a", { href: `${root}/jobs/${job.id}` }, job.name);
  const head = element("div", { class: "card-head" }, element("h2", {}, link), parts.state);
  return { ...parts, item: element("li", { class: "card" }, head, parts.line, parts.bar, parts.facts) };
}

function fill(card, job) {
  card.state.className = `state ${job.state}`;
  say(card.state, job.is_cancelling ? "cancelling" : job.state);
  say(card.line, line(job));
  card.bar.hidden = job.state !== "running";
  if (Number.isFinite(job.progress?.fraction)) card.bar.value = job.progress.fraction;
  else card.bar.removeAttribute("value");
  say(card.facts, facts(job).filter(Boolean).join(" · "));
}

function line(job) {
  const { progress } = job;
  if (job.state === "queued") return job.attempt ? "Waits for its turn to go on." : "Waits for its turn.";
  if (job.state === "running") return progress ? `${progress.label}: ${progress.note || "just begun"}` : "Its driver is starting.";
  if (job.state === "succeeded") return [`Model version ${job.model_version}`, score(job)].filter(Boolean).join(", ");
  return job.failure ? job.failure.message : "";
}

function facts(job) {
  const { progress, report } = job;
  const residual = report ? Math.max(...report.solve.residuals) : progress?.residual;
  return [
    Number.isFinite(residual) ? `residual ${small(residual)}` : null,
    report ? plural(report.gram.n_blocks, "block") : null,
    report ? plural(report.n_rows, "row") : null,
    job.attempt > 1 ? `attempt ${number(job.attempt)}` : null,
    `submitted ${ago(job.created)}`,
    job.executor === "local" ? null : `tasks on ${job.executor.split(":")[0]}`,
  ];
}

async function refresh() {
  const wanted = new URLSearchParams({ limit: LIMIT });
  for (const key of ["state", "after"]) if (query.get(key)) wanted.set(key, query.get(key));
  const page = await askJson(`/v1/jobs?${wanted}`);
  const before = new Set(cards.keys());
  page.items.forEach((job, place) => {
    if (!cards.has(job.id)) cards.set(job.id, newCard(job));
    const card = cards.get(job.id);
    fill(card, job);
    before.delete(job.id);
    const list = $("jobs");
    if (list.children[place] !== card.item) list.insertBefore(card.item, list.children[place] ?? null);
  });
  for (const id of before) {
    cards.get(id).item.remove();
    cards.delete(id);
  }
  $("jobs").removeAttribute("aria-busy");
  $("empty").hidden = page.items.length > 0 || query.has("state") || query.has("after");
  $("none").hidden = page.items.length > 0 || !$("empty").hidden;
  $("newest").hidden = !query.has("after");
  $("older").hidden = page.next === null;
  if (page.next !== null) $("older").href = address({ after: page.next });
}

function address(changes) {
  const next = new URLSearchParams(query);
  for (const [key, value] of Object.entries(changes)) {
    if (value) next.set(key, value);
    else next.delete(key);
  }
  return `${root}/${next.size ? `?${next}` : ""}`;
}

$("state").value = query.get("state") ?? "";
$("state").addEventListener("change", () => location.assign(address({ state: $("state").value, after: null })));
$("newest").href = address({ after: null });
repeat(EVERY_MS, refresh).catch(refuse);
