// Look inside: what goes on in the model for a text, drawn by look.js.

import { announce, byId, make } from "/page/element.js";
import { post } from "/page/server.js";
import { chosen, tell } from "/page/state.js";

let aborting = null;

export function buildLook() {
  byId("look-form").addEventListener("submit", event => { event.preventDefault(); look(); });
  byId("look-text").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); look(); }
  });
}

export function suitLook(model) {
  byId("look-hint").textContent = model ? `Attention, logit lens, loss, norms and vectors; the last tokens of at most ${model.looks} are shown.` : "";
  byId("views").replaceChildren();
}

export function openLook() {
  if (!byId("look-text").value) byId("look-text").value = byId("prompt").value;
}

async function look() {
  const model = chosen(), text = byId("look-text").value;
  if (!model) return;
  aborting?.abort();
  aborting = new AbortController();
  byId("views").replaceChildren(make("p", { className: "soft" }, "Looking …"));
  announce("Looking");
  try {
    const data = await post("/api/look", { model: model.id, text }, aborting.signal);
    byId("views").replaceChildren();
    globalThis.renderLook(byId("views"), data);
    announce("The views are there");
  } catch (error) {
    if (error.name !== "AbortError") byId("views").replaceChildren();
    tell(error);
  }
}
