// The settings of drawing, as the server lists them: a field and a sentence each.

import { byId, make } from "/page/element.js";
import { keep, kept } from "/page/server.js";

const FIRST = ["temperature", "top_k", "top_p", "max_tokens", "seed"];
let listed = [];

export function buildSettings(fields) {
  listed = fields;
  const remembered = JSON.parse(kept("settings") ?? "{}");
  const rows = new Map(fields.map(field => [field.name, rowOf(field, remembered[field.name])]));
  const more = make("details", {}, make("summary", {}, "More settings"), ...fields.filter(one => !FIRST.includes(one.name)).map(one => rows.get(one.name)));
  const reset = make("button", { type: "button", onclick: resetAll }, "Back to the defaults");
  byId("settings-form").append(...FIRST.filter(name => rows.has(name)).map(name => rows.get(name)), more, reset);
  byId("settings-form").addEventListener("submit", event => event.preventDefault());
  byId("settings-form").addEventListener("change", remember);
  byId("settings").open = matchMedia("(min-width: 60rem)").matches;
}

const idOf = name => `setting-${name}`;

function rowOf(field, value) {
  const says = `${idOf(field.name)}-says`;
  const input = inputOf(field);
  input.id = idOf(field.name);
  input.setAttribute("aria-describedby", says);
  write(field, input, value ?? field.default);
  return make("div", { className: "setting" },
    make("label", { htmlFor: input.id }, field.name.replaceAll("_", " ")), input,
    make("p", { className: "says", id: says }, field.doc[0].toUpperCase() + field.doc.slice(1) + extra(field)));
}

function extra(field) {
  if (field.name === "seed") return "; empty: another each time.";
  if (field.kind === "texts") return "; one a line, \\n for the end of a line.";
  return ".";
}

function inputOf(field) {
  if (field.kind === "choice") return make("select", {}, ...field.choices.map(one => make("option", {}, one)));
  if (field.kind === "texts") return make("textarea", { rows: 2 });
  const made = make("input", { type: "number", inputMode: "decimal", step: field.kind === "integer" ? "1" : "any" });
  if (field.minimum !== null) made.min = field.minimum;
  if (field.maximum !== null) made.max = field.maximum;
  made.required = field.name !== "seed";
  return made;
}

function write(field, input, value) {
  if (field.kind === "texts") input.value = value.join("\n");
  else input.value = field.name === "seed" && value === field.default ? "" : value;
}

function read(field) {
  const input = byId(idOf(field.name));
  if (field.kind === "choice") return input.value;
  if (field.kind === "texts") return input.value.split("\n").filter(Boolean).map(text => text.replaceAll("\\n", "\n"));
  return input.value === "" ? null : Number(input.value);
}

function resetAll() {
  for (const field of listed) write(field, byId(idOf(field.name)), field.default);
  remember();
}

function remember() {
  const values = Object.fromEntries(listed.map(field => [field.name, field.kind === "texts" ? byId(idOf(field.name)).value.split("\n").filter(Boolean) : read(field)]));
  keep("settings", JSON.stringify(Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null))));
}

// The settings of the next text, a seed among them; null where one is out of range, which the browser then says.
export function settingsNow() {
  const form = byId("settings-form");
  if (!form.checkValidity()) {
    byId("settings").open = true;
    form.querySelector(":invalid").closest("details").open = true;
    form.reportValidity();
    return null;
  }
  const values = Object.fromEntries(listed.map(field => [field.name, read(field)]));
  values.seed ??= Math.floor(Math.random() * 1e9);
  return values;
}
