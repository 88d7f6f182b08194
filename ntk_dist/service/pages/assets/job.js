// One job, while it runs and after.

import { $, element, say, tellFacts, whenColoursChange } from "./dom.js";
import { ask, askJson, bytesOf, events, Problem, refuse, repeat, root } from "./api.js";
import { drawGram, drawResiduals, gramWords } from "./charts.js";
import { tellReport } from "./report.js";
import { ago, bytes, moment, number, plural, score, seconds, small } from "./words.js";

const EVERY_MS = 2000;
const SOON_MS = 250; // events come in heaps: one question for all of a moment
const SILENT_S = 30; // a driver at work is heard of every ten
const MOST_TROUBLES = 50;
const LOG_CHARACTERS = 200000; // of its end

const id = location.pathname.split("/").pop();
const path = `/v1/jobs/${id}`;
const isOver = (job) => !["queued", "running"].includes(job.state);

let job = null;
let blocks = null;
let steps = []; // of the solver: {step, worst, best, isAhead}; the last ones may be ahead of the events
let tol = null;
let reported = null; // the attempt whose report is shown
let log = null; // {attempt, start, decoder}: how much of which log is shown
let reading = null; // of the log, by one at a time

// What is asked for.

async function refresh() {
  const isSettled = job !== null && isOver(job) && blocks !== null;
  show(await askJson(path));
  if (!isSettled) blocks = await askJson(`${path}/blocks`);
  showBlocks();
  await refreshLog();
}

async function refreshLog() {
  if (!$("log-panel").open || job === null) return;
  reading ??= readLog().finally(() => (reading = null));
  await reading;
}

/** All of the log that is there by now: it comes 4 MiB at a time, and its end is what counts. */
async function readLog() {
  for (let piece = null; piece === null || piece.byteLength > 0; ) {
    if (log?.attempt !== job.attempt) {
      log = { attempt: job.attempt, start: 0, decoder: new TextDecoder() };
      $("log").textContent = "";
    }
    const asked = log;
    const response = await ask(`${path}/logs?start=${asked.start}`);
    piece = await bytesOf(response);
    if (asked.attempt !== job.attempt) continue; // another log meanwhile
    asked.start = Number(response.headers.get("X-Next-Start"));
    showLog(asked.decoder.decode(piece, { stream: true })); // a character may be cut in two
  }
}

function showLog(text) {
  const shown = $("log");
  const isAtEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 4;
  if (text || !shown.textContent)
    shown.textContent = (shown.textContent + text).slice(-LOG_CHARACTERS) || (isOver(job) ? "It printed nothing." : "");
  if (isAtEnd) shown.scrollTop = shown.scrollHeight;
}

let isFollowed = false;

/** Look until the job is over; what happens in between is heard as it happens. */
async function follow() {
  if (isFollowed) return;
  isFollowed = true;
  await repeat(EVERY_MS, async () => {
    await refresh();
    hear().catch(refuse);
    return isOver(job);
  });
  isFollowed = false;
}

let heard = null; // the attempt whose events come, or have come

async function hear() {
  const { attempt } = job;
  if (job.state === "queued" || heard === attempt) return;
  heard = attempt;
  for await (const event of events(`${path}/events`)) {
    if (heard !== attempt) return; // the next attempt is heard by another stream
    take(event);
  }
}

let isDue = false;

function soon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => {
    isDue = false;
    if (steps.length) showResiduals();
  }, SOON_MS);
}

// What events say. How far the job is comes with the job itself; here is the way that it came.

function take(event) {
  if (event.kind === "job" && event.state === "started") {
    steps = [];
    $("trouble-list").replaceChildren();
  } else if (event.kind === "phase" && event.state === "started" && ["ridge", "solve"].includes(event.phase)) {
    steps = [];
  } else if (event.kind === "step") {
    const known = event.residuals.filter(Number.isFinite);
    while (steps.at(-1)?.isAhead) steps.pop(); // events tell the whole way since the last of them
    addStep({ step: event.step, worst: Math.max(...known), best: Math.min(...known) }, event.tol);
  } else if (event.kind === "repair") {
    trouble(event.time, `${event.item} was computed again: ${event.reason}`);
  } else if (event.kind === "task" && ["retried", "failed"].includes(event.state)) {
    const what = event.state === "retried" ? "was tried again" : "failed";
    const why = event.worker_lost ? "its worker was lost" : event.error;
    trouble(event.time, `${event.item} ${what}${why ? `: ${why}` : ""}`);
  }
}

function addStep(one, asked) {
  if (!Number.isFinite(one.worst)) return;
  if (steps.length && one.step < steps.at(-1).step) steps = []; // another system
  if (one.step === steps.at(-1)?.step) steps.pop(); // the same, measured again
  steps.push(one);
  tol = asked;
  soon();
}

/** The step that the job is at, should no event come through: some of its way is better than none. */
function addStepAhead({ step, residual, tol: asked }) {
  const last = steps.at(-1);
  if (step === null || step === last?.step) return;
  // Behind an event it is old news; behind another of its kind it belongs to another system.
  if (!last || last.isAhead || step > last.step) addStep({ step, worst: residual, best: residual, isAhead: true }, asked);
}

function trouble(time, text) {
  const list = $("trouble-list");
  list.prepend(element("li", {}, element("time", { datetime: time }, moment(time)), ` ${text}`));
  if (list.children.length > MOST_TROUBLES) list.lastElementChild.remove();
}

// What is shown.

function show(found) {
  job = found;
  document.title = `${job.name}: ${job.state} · ntk_dist`;
  say($("name"), job.name);
  $("state").className = `state ${job.state}`;
  say($("state"), job.is_cancelling ? "cancelling" : job.state);
  say($("facts"), facts().filter(Boolean).join(" · "));
  say($("warnings"), job.warnings.join(" "));
  $("cancel").hidden = isOver(job) || job.is_cancelling;
  $("resume").hidden = !job.is_resumable;
  say($("action-hint"), hint());
  $("failure").hidden = job.failure === null;
  if (job.failure) say($("failure-text"), `${job.failure.message} (${job.failure.code})`);
  showProgress();
  showTroubles();
  $("report").hidden = job.report === null;
  if (job.report && reported !== job.attempt) {
    tellReport($("report-body"), job.report);
    if (job.model_version !== null) $("report-body").prepend(outcome());
    reported = job.attempt;
  }
  say($("spec"), JSON.stringify(job.spec, null, 2));
  $("job").removeAttribute("aria-busy");
}

function facts() {
  return [
    `Submitted ${ago(job.created)}`,
    job.attempt > 1 ? `attempt ${number(job.attempt)}` : null,
    job.finished ? `ended ${ago(job.finished)}` : null,
    job.started && job.finished ? `took ${seconds((Date.parse(job.finished) - Date.parse(job.started)) / 1000)}` : null,
    `tasks on ${job.executor}`,
    `driver: ${job.launcher}`,
  ];
}

function hint() {
  if (job.is_cancelling) return "It ends as soon as its driver has noticed. What it has computed is kept.";
  if (!isOver(job)) return "Cancelling keeps what is computed; the job can be resumed then.";
  return job.is_resumable ? "Resuming goes on with what is in the workspace already." : "";
}

function outcome() {
  const link = element("a", { href: `${root}/models/${job.name}` }, `model ${job.name}, version ${job.model_version}`);
  const words = score(job);
  return element("p", { class: "lead" }, "It left behind ", link, words ? `: ${words} on held-out data.` : ".");
}

function showProgress() {
  const { progress } = job;
  const words = {
    queued: "Waits for its turn.",
    running: "Its driver is starting.",
    succeeded: "Done.",
    cancelled: "Cancelled.",
    failed: "Failed.",
    lost: "Its driver is gone.",
  };
  const isWorking = job.state === "running" && progress !== null;
  say($("phase"), isWorking ? progress.label : words[job.state]);
  say($("note"), isWorking ? progress.note : "");
  $("bar").hidden = job.state !== "running";
  if (Number.isFinite(progress?.fraction)) $("bar").value = progress.fraction;
  else $("bar").removeAttribute("value");
  const spent = job.report?.seconds ?? progress?.seconds ?? {};
  for (const item of $("phases").children) {
    const { phase } = item.dataset;
    const isNow = isWorking && progress.phase === phase && !(phase in spent);
    item.hidden = !(phase in spent || isNow);
    item.className = isNow ? "now" : "done";
    say(item.lastElementChild, phase in spent ? seconds(spent[phase]) : "");
  }
  tellFacts($("progress-facts"), [
    ["Left of this phase", isWorking && progress.eta_s >= 1 ? `about ${seconds(progress.eta_s)}` : null],
    ["Last heard of", isWorking && progress.updated ? ago(progress.updated) : null],
    ["Memory of the driver", isWorking && progress.driver_bytes ? bytes(progress.driver_bytes) : null],
    ["Blocks in memory", isWorking && progress.resident_bytes ? bytes(progress.resident_bytes) : null],
  ]);
  if (isWorking) addStepAhead(progress);
}

function showTroubles() {
  const { progress } = job;
  if (progress === null) return;
  const parts = [
    progress.retries ? `${plural(progress.retries, "task")} tried again` : null,
    progress.lost ? `${number(progress.lost)} of those lost with a worker` : null,
    progress.duplicates ? `${plural(progress.duplicates, "slow task")} started twice` : null,
    progress.failures ? `${plural(progress.failures, "task")} failed` : null,
    progress.repairs ? `${plural(progress.repairs, "stored block")} found damaged and computed again` : null,
  ].filter(Boolean);
  const silent = (Date.now() - Date.parse(progress.updated)) / 1000;
  const words = parts.length ? [`${parts.join(", ")}.`] : [];
  if (job.state === "running" && silent > SILENT_S)
    words.push(`Its driver has said nothing for ${seconds(silent)}. Where it is gone, the service notices and starts another.`);
  say($("troubles"), words.join(" ") || "None so far.");
}

function showBlocks() {
  if (blocks === null) return;
  drawGram($("gram"), blocks);
  say($("gram-words"), gramWords(blocks));
  $("gram-key").hidden = false;
}

function showResiduals() {
  $("residual").removeAttribute("hidden");
  drawResiduals($("residual"), steps, tol);
  const { step, worst } = steps.at(-1);
  say(
    $("residual-words"),
    `Step ${number(step)}: the worst target is at ${small(worst)}, asked for ${small(tol)}. The band spans all targets.`,
  );
}

// What a person asks for.

async function act(action) {
  say($("refused"), "");
  for (const button of [$("cancel"), $("resume")]) button.disabled = true;
  try {
    show(await askJson(`${path}:${action}`, { method: "POST" }));
    follow().catch(refuse);
  } catch (error) {
    say($("refused"), error.message);
    if (!(error instanceof Problem)) throw error;
  } finally {
    for (const button of [$("cancel"), $("resume")]) button.disabled = false;
  }
}

function refuseJob(error) {
  refuse(error);
  if (error.status !== 404) return;
  const link = element("a", { href: `${root}/` }, "all jobs");
  $("notice").replaceChildren("There is no job of this id here: see ", link, ".");
}

$("cancel").addEventListener("click", () => act("cancel"));
$("resume").addEventListener("click", () => act("resume"));
$("log-panel").addEventListener("toggle", () => refreshLog().catch(refuse));
whenColoursChange(showBlocks);
addEventListener("resize", () => steps.length && showResiduals());
follow().catch(refuseJob);
