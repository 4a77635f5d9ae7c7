// Runs: what is in the folder, one run as it trains, several in one chart.

import { byId, make, showCharts } from "/page/element.js";
import { get } from "/page/server.js";
import { tell } from "/page/state.js";

const EVERY = 2000;  // milliseconds between two looks at what is training
const picked = new Set();
let shown = null, drawn = "", listed = "", timer = null, isBusy = false, isAsked = false, most = 6;

export function buildRuns(mostCompared) {
  most = mostCompared;
  byId("over").addEventListener("change", refresh);
}

export function openRuns() {
  refresh();
  timer ??= setInterval(() => { if (!document.hidden) refresh(); }, EVERY);
}

export function closeRuns() {
  clearInterval(timer);
  timer = null;
}

async function refresh() {
  isAsked = isBusy;
  if (isBusy) return;
  isBusy = true;
  try {
    const { runs } = await get("/api/runs");
    byId("no-runs").hidden = runs.length > 0;
    byId("some-runs").hidden = !runs.length;
    showList(runs);
    if (!shown && !picked.size && runs.length) shown = runs.find(run => !run.error)?.name ?? null;
    await showChosen();
    byId("trouble").hidden = true;
  } catch (error) {
    closeRuns();
    tell(error);
  } finally {
    isBusy = false;
    if (isAsked) refresh();  // for what was chosen meanwhile
  }
}

function showList(runs) {
  for (const name of [...picked]) if (!runs.some(run => run.name === name)) picked.delete(name);
  const now = JSON.stringify([runs, [...picked], shown]);
  if (now === listed) return;
  listed = now;
  const body = byId("run-list").tBodies[0], held = document.activeElement?.dataset?.holds;
  body.replaceChildren(...runs.map(rowOf));
  if (held) [...body.querySelectorAll("[data-holds]")].find(one => one.dataset.holds === held)?.focus();
}

function rowOf(run) {
  const open = make("button", { type: "button", className: "plain", onclick: () => { shown = run.name; picked.clear(); refresh(); } }, run.name);
  open.dataset.holds = `open ${run.name}`;
  if (!picked.size && shown === run.name) open.setAttribute("aria-current", "true");
  if (run.error) return make("tr", {}, make("td"), make("td", {}, run.name), make("td", { className: "wide soft", colSpan: 3 }, run.error));
  const tick = make("input", { type: "checkbox", checked: picked.has(run.name), ariaLabel: `Compare ${run.name}`, disabled: !picked.has(run.name) && picked.size >= most });
  tick.dataset.holds = `pick ${run.name}`;
  tick.addEventListener("change", () => { if (tick.checked) picked.add(run.name); else picked.delete(run.name); refresh(); });
  const far = make("td", {}, run.training ? make("span", { className: "live" }, "training") : "", `${run.training ? " " : ""}${run.far}`);
  if (run.training) far.append(make("progress", { max: 1, value: run.share, ariaLabel: "Share of the steps" }));
  return make("tr", {}, make("td", {}, tick), make("td", {}, open, make("div", { className: "soft" }, run.shape)), far,
    make("td", { className: "number" }, run.best === null ? "" : run.best.toFixed(3)), make("td", { className: "number" }, run.time));
}

async function showChosen() {
  const place = byId("run"), names = [...picked];
  byId("comparing").hidden = !names.length;
  byId("compare-hint").hidden = names.length > 0;
  if (names.length) {
    const over = byId("over").value;
    const found = await get("/api/runs/compared", { name: names, over });
    if (isNew(over, found)) showComparison(place, found);
  } else if (shown) {
    const found = await get("/api/runs/shown", { name: shown });
    if (isNew("", found)) showRun(place, found);
  }
  place.hidden = !names.length && !shown;
}

// Whether what was found is not what is drawn already.
function isNew(over, { version, training }) {
  const before = drawn;
  drawn = JSON.stringify([over, version, training, picked.size]);
  return drawn !== before;
}

function table(head, rows) {
  return make("div", { className: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map(name => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map(cell => make("td", {}, make("code", {}, cell))))))));
}

function charts(markup) {
  const made = make("div");
  showCharts(made, markup);
  return made;
}

function showRun(place, run) {
  const isOpen = place.querySelector("details")?.open ?? false;
  const samples = run.samples.flatMap(([step, text]) => [make("span", {}, `step ${step.toLocaleString("en")}`), make("pre", {}, text)]);
  const others = make("details", { open: isOpen }, make("summary", {}, "the others, as by default"), table(["setting", "value"], run.others));
  place.replaceChildren(...[
    make("h2", { className: "run-name" }, run.name),
    make("p", { className: "soft" }, run.shape, make("br"), `trained on ${run.source}; `, run.training ? make("span", { className: "live" }, "training") : "", ` ${run.far}`),
    make("dl", { className: "figures" }, ...run.figures.map(([value, label]) => make("div", {}, make("dt", {}, label), make("dd", {}, value)))),
    run.judged ? make("p", { className: "verdict" }, run.judged) : "",
    charts(run.charts),
    samples.length ? make("h2", {}, "What it wrote") : "",
    make("div", { className: "samples" }, ...samples),
    make("h2", {}, "Settings"),
    run.changed.length ? table(["setting", "here", "default"], run.changed) : make("p", {}, "All as by default."),
    others,
  ].filter(Boolean));
}

function showComparison(place, found) {
  const caption = make("figcaption", {}, make("span", {}, `${found.unit}; less is better`));
  const figure = make("figure", {}, caption, ...charts(found.charts).childNodes);
  const names = found.runs.map(run => run.name);
  place.replaceChildren(...[
    make("h2", {}, `${names.length === 1 ? "1 run" : `${names.length} runs`} in one chart`),
    figure,
    found.without.length ? make("p", { className: "soft" }, `Not evaluated yet: ${found.without.join(", ")}.`) : "",
    make("h2", {}, "Settings in which they differ"),
    found.differ.length ? table(["setting", ...names], found.differ.map(([name, values]) => [name, ...values])) : make("p", {}, names.length > 1 ? "None." : "Choose another run to compare it with."),
  ].filter(Boolean));
  globalThis.tellNumbers(place);
}
