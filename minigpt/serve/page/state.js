// What all views share: the models, the one that is chosen, the view that is open, and trouble.

import { byId, make } from "/page/element.js";
import { get } from "/page/server.js";

export const VIEWS = ["write", "chat", "portal", "runs", "look"];
const listeners = [];
let models = [];

export const chosen = () => models.find(model => model.id === byId("model").value) ?? null;
export const brought = () => models.filter(model => model.uploaded);

// Calls a function with the chosen model, now and whenever another one is chosen.
export function whenChosen(listener) {
  listeners.push(listener);
  listener(chosen());
}

function changed() {
  for (const listener of listeners) listener(chosen());
}

export async function loadModels(wanted = byId("model").value) {
  models = (await get("/api/models")).models;
  const select = byId("model");
  select.replaceChildren(...models.map(model => make("option", { value: model.id }, model.label)));
  if (models.some(model => model.id === wanted)) select.value = wanted;
  select.disabled = !models.length;
  select.onchange = changed;
  changed();
  return models;
}

export function tell(error) {
  if (error?.name === "AbortError") return;
  byId("trouble").textContent = error.message ?? String(error);
  byId("trouble").hidden = false;
  byId("trouble").scrollIntoView({ block: "nearest" });
}

export function openView(name) {
  location.hash = `/${name}`;
}
