// Portal: a model of one's own, dropped in; each stage says what it has found.

import { announce, byId, make } from "/page/element.js";
import { remove, upload } from "/page/server.js";
import { brought, loadModels, openView, tell } from "/page/state.js";

const STAGES = ["upload", "blueprint", "mapping", "ready"];
let limits = null, aborting = null;

export function buildPortal(bounds) {
  limits = bounds;
  byId("drop-hint").textContent = `.safetensors, .pth, .pt or a zipped run directory, at most ${bounds.words}; a tokenizer.json or config.json may come with it`;
  byId("file").addEventListener("change", () => { bring([...byId("file").files]); byId("file").value = ""; });
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, event => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => { event.preventDefault(); bring([...event.dataTransfer.files]); });
  for (const kind of ["dragover", "drop"]) addEventListener(kind, event => event.preventDefault());  // a miss opens no file
  byId("portal-form").addEventListener("submit", event => event.preventDefault());
  byId("portal").querySelector("[data-does=cancel]").addEventListener("click", () => aborting?.abort());
}

const stage = name => byId("stages").querySelector(`[data-stage=${name}]`);

// Puts the stages before this one behind us.
function reach(name, sentences = []) {
  const place = STAGES.indexOf(name);
  STAGES.forEach((one, number) => {
    stage(one).dataset.state = number < place ? "done" : number === place ? "now" : "";
    if (number === place) stage(one).setAttribute("aria-current", "step"); else stage(one).removeAttribute("aria-current");
  });
  stage(name).querySelector(".said").replaceChildren(...sentences.map(text => make("p", {}, text)));
}

function complain(text) {
  byId("portal-trouble").textContent = text;
  byId("portal-trouble").hidden = !text;
}

async function bring(files) {
  if (!files.length || aborting) return;
  const named = name => files.find(file => file.name === name);
  const beside = { tokenizer: named("tokenizer.json"), settings: named("config.json") };
  const [weights, ...others] = files.filter(file => !Object.values(beside).includes(file));
  complain("");
  if (!weights || others.length) return complain("Choose one file of weights or one zipped run directory; only its tokenizer.json and config.json may come with it.");
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (size > limits.bytes) return complain(`${weights.name} is larger than ${limits.words}, the most that is taken here.`);
  const values = { name: weights.name };
  for (const [part, file] of Object.entries(beside)) if (file) values[part] = file.size;
  if (byId("heads").value) values.n_head = byId("heads").value;
  aborting = new AbortController();
  byId("stages").hidden = byId("portal-buttons").hidden = false;
  for (const one of STAGES) stage(one).querySelector(".said").replaceChildren();
  reach("upload", [weights.name]);
  const bar = stage("upload").querySelector("progress");
  bar.value = 0;
  announce(`Uploading ${weights.name}`);
  try {
    let ready = null;
    await upload("/api/upload", values, new Blob([beside.tokenizer, beside.settings, weights].filter(Boolean)), {
      signal: aborting.signal,
      onSent: share => { bar.value = share; },
      onLine: line => {
        if (line.error) return complain(line.error);
        if (line.stage === "ready") ready = line.model;
        if (line.stage === "unpack") reach("blueprint");
        if (STAGES.includes(line.stage)) {
          reach(line.stage, line.sentences);
          announce([line.stage, ...line.sentences].join(". "));
        }
      },
    });
    if (!ready) throw new Error(byId("portal-trouble").textContent || "The server broke off.");
    await loadModels(ready);
    stage("ready").dataset.state = "done";
    showBrought();
    stage("ready").querySelector(".said").append(make("button", { type: "button", className: "primary", onclick: () => openView("write") }, "Write with it"));
    stage("ready").querySelector("button").focus();
  } catch (error) {
    byId("stages").querySelector("[data-state=now]")?.setAttribute("data-state", "failed");
    complain(error.name === "AbortError" ? "Cancelled." : error.message);
    await loadModels().then(showBrought).catch(tell);  // one that was all but there may have arrived
  } finally {
    aborting = null;
    byId("portal-buttons").hidden = true;
  }
}

export function showBrought() {
  const models = brought();
  byId("brought-title").hidden = !models.length;
  byId("brought").replaceChildren(...models.map(model => make("li", {},
    make("span", {}, make("b", {}, model.label), make("span", { className: "soft" }, ` ${model.shape}`)),
    make("button", { type: "button", ariaLabel: `Remove ${model.label}`, onclick: () => take(model) }, "Remove"))));
}

async function take(model) {
  try {
    await remove("/api/upload", { model: model.id });
    announce(`${model.label} is removed`);
  } catch (error) {
    tell(error);
  }
  await loadModels().catch(tell);
  showBrought();
}
