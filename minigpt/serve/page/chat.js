// Chat: turns of a person and answers of the model; each can be changed or asked for again.

import { Drawing } from "/page/drawing.js";
import { announce, byId, copy, make } from "/page/element.js";
import { hidePanel } from "/page/pieces.js";
import { settingsNow } from "/page/settings.js";
import { chosen, tell } from "/page/state.js";

const button = name => byId("chat").querySelector(`[data-does=${name}]`);
let turns = [], drawing = null;  // { role, content, element }

export function buildChat() {
  byId("chat-form").addEventListener("submit", event => { event.preventDefault(); send(); });
  byId("message").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  button("stop").addEventListener("click", () => drawing?.stop());
  button("new").addEventListener("click", () => { cutTo(0); byId("message").focus(); });
}

export function suit(model) {
  byId("no-chat").hidden = !model || model.chat;
  byId("can-chat").hidden = !model?.chat;
}

function send() {
  const content = byId("message").value;
  if (!content.trim() || drawing) return;
  const settings = settingsNow();
  if (!settings) return;
  byId("message").value = "";
  addTurn("user", content);
  answer(settings);
}

function addTurn(role, content) {
  const text = make("div", { className: role === "assistant" ? "pieces" : "said" });
  if (role === "assistant") {
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", "The answer; with the arrow keys from token to token");
  }
  text.textContent = content;
  const turn = { role, content, text };
  const tools = make("div", { className: "tools" }, make("button", { type: "button", onclick: event => copy(turn.content, event.target) }, "Copy"));
  if (role === "user") tools.append(make("button", { type: "button", onclick: () => edit(turn) }, "Edit"));
  else tools.append(make("button", { type: "button", onclick: () => again(turn) }, "Regenerate"), make("span", { className: "facts soft" }));
  turn.element = make("li", { className: `turn ${role}` }, make("b", {}, role === "user" ? "You" : chosen().id), text, tools);
  turns.push(turn);
  byId("turns").append(turn.element);
  return turn;
}

// Forgets all turns from a place on.
function cutTo(place) {
  drawing?.stop();
  for (const turn of turns.splice(place)) turn.element.remove();
  hidePanel();
}

function edit(turn) {
  byId("message").value = turn.content;
  cutTo(turns.indexOf(turn));
  byId("message").focus();
}

function again(turn) {
  const settings = settingsNow();
  if (!settings || drawing) return;
  cutTo(turns.indexOf(turn));
  answer(settings);
}

async function answer(settings) {
  const system = byId("system").value.trim();
  const messages = turns.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  const turn = addTurn("assistant", "");
  const mine = drawing = new Drawing(turn.text, "chat", chosen().id, settings);
  hidePanel();
  byId("colours").hidden = false;
  busy(true);
  announce("The model answers");
  try {
    const facts = await mine.run({ messages });
    turn.content = mine.pieces.text;
    turn.element.querySelector(".facts").textContent = facts;
    announce(turn.content || "The answer is empty");
  } catch (error) {
    cutTo(turns.indexOf(turn));
    const asked = turns.pop();
    asked.element.remove();
    byId("message").value = asked.content;
    tell(error);
  } finally {
    drawing = null;
    busy(false);
  }
}

function busy(is) {
  const held = document.activeElement;
  button("stop").hidden = !is;
  button("go").hidden = is;
  if (is) turns.at(-1).element.scrollIntoView({ block: "nearest" });
  if (is && held === button("go")) button("stop").focus();
  if (!is && held === button("stop")) byId("message").focus();
}
