// Write: the model goes on from a text.

import { Drawing } from "/page/drawing.js";
import { announce, byId, copy } from "/page/element.js";
import { hidePanel } from "/page/pieces.js";
import { settingsNow } from "/page/settings.js";
import { chosen, openView, tell } from "/page/state.js";

const button = name => byId("write").querySelector(`[data-does=${name}]`);
let drawing = null, prompt = "";

export function buildWrite() {
  byId("write-form").addEventListener("submit", event => { event.preventDefault(); generate(byId("prompt").value); });
  byId("prompt").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(byId("prompt").value); }
  });
  button("stop").addEventListener("click", () => drawing?.stop());
  button("again").addEventListener("click", () => generate(prompt));
  button("copy").addEventListener("click", () => copy(whole(), button("copy")));
  button("edit").addEventListener("click", () => {
    byId("prompt").value = whole();
    fit();
    byId("prompt").focus();
    byId("prompt").setSelectionRange(whole().length, whole().length);
    byId("prompt").scrollIntoView({ block: "center" });
  });
  button("look").addEventListener("click", () => {
    byId("look-text").value = whole();
    openView("look");
    byId("look-form").requestSubmit();
  });
  byId("prompt").addEventListener("input", fit);
}

const whole = () => prompt + (drawing?.pieces.text ?? "");

function fit() {
  const field = byId("prompt");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 0.5 * innerHeight)}px`;
}

export function suggest(text) {
  if (!byId("prompt").value) byId("prompt").value = text;
}

async function generate(text) {
  const model = chosen(), settings = settingsNow();
  if (!model || !settings) return;
  drawing?.stop();
  prompt = text;
  hidePanel();
  byId("written").hidden = false;
  byId("colours").hidden = false;
  const mine = drawing = new Drawing(byId("written-text"), "write", model.id, settings);
  mine.pieces.begin(text);
  busy(true);
  announce("Writing");
  try {
    const facts = await mine.run({ prompt: text });
    if (mine !== drawing) return;
    byId("written").querySelector(".facts").textContent = facts;
    announce(`Done: ${facts}`);
  } catch (error) {
    tell(error);
  } finally {
    if (mine === drawing) busy(false);
  }
}

function busy(is) {
  const held = document.activeElement;
  button("stop").hidden = !is;
  button("go").hidden = is;
  if (is) byId("written").querySelector(".facts").textContent = "";
  if (is && held === button("go")) button("stop").focus();
  if (!is && held === button("stop")) button("go").focus();
}
