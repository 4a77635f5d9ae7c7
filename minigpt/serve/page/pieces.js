// A text as it is written: a span for each token, coloured by its probability; what else was likely, on request.

import { announce, byId, make, percent } from "/page/element.js";
import { post } from "/page/server.js";

// The least probability of each colour; the last one is for all below.
const COLOURS = [[0.5, "50 % and more"], [0.2, "20 % and more"], [0.05, "5 % and more"], [0, "less"]];
const NAMES = { top_k: "top-k", top_p: "top-p", min_p: "min-p", penalties: "penalties", greedy: "greedy" };

export function buildLegend() {
  byId("legend").append(...COLOURS.map(([, words], place) => make("li", {}, make("span", { className: `piece chance-${place}` }, "the"), ` ${words}`)));
  const show = () => document.body.classList.toggle("uncoloured", !byId("coloured").checked);
  byId("coloured").addEventListener("change", show);
  show();
}

// The bytes of a token as the server names it: text, or bytes:\xe2\x80 where it is no whole characters.
function bytesOf(name) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return new TextEncoder().encode(name);
  return Uint8Array.from(name.slice(6).split("\\x").slice(1), two => parseInt(two, 16));
}

export class Pieces {
  // How it was asked for: { model, settings }; the ids come with the stream.
  constructor(element, asked) {
    this.element = element;
    this.asked = asked;
    this.promptIds = [];
    this.ids = [];
    this.text = "";
    this.found = new Map();
    this.decoder = new TextDecoder();
    this.spans = [];
    element.replaceChildren();
    element.pieces?.listening.abort();  // a text that stood here before
    element.pieces = this;
    this.listening = new AbortController();
    const until = { signal: this.listening.signal };
    for (const kind of ["pointerover", "focusin", "click"]) element.addEventListener(kind, event => this.point(event.target), until);
    element.addEventListener("keydown", event => this.move(event), until);
  }

  begin(text) {
    this.element.append(make("span", { className: "before" }, text));
  }

  // One piece of a stream, with the tokens that it is made of.
  push({ text, tokens, chances, ids, promptIds }) {
    if (promptIds) this.promptIds = promptIds;
    this.text += text;
    const added = tokens.map((token, place) => {
      const span = make("span", { className: `piece ${colourOf(chances[place])}`, tabIndex: -1 });
      span.textContent = this.decoder.decode(bytesOf(token), { stream: true });
      span.dataset.place = this.spans.length;
      this.spans.push(span);
      return span;
    });
    this.ids.push(...ids);
    if (!this.element.querySelector("[tabindex='0']") && added.length) added[0].tabIndex = 0;
    this.element.append(...added);
  }

  // Tokens may tell more than the text has: the beginning of what it was stopped at.
  end() {
    const shown = this.spans.map(span => span.textContent).join("");
    let over = shown.length - this.text.length;
    for (const span of [...this.spans].reverse()) {
      if (over <= 0) break;
      const cut = Math.min(over, span.textContent.length);
      span.textContent = span.textContent.slice(0, span.textContent.length - cut);
      over -= cut;
    }
    if (over < 0) this.element.append(this.text.slice(shown.length));
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    const place = Number(event.target.dataset?.place);
    if (event.key === "Escape") hidePanel();
    if (!step || Number.isNaN(place)) return;
    event.preventDefault();
    const next = this.spans[Math.min(this.spans.length - 1, Math.max(0, place + step))];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  point(span) {
    if (span.dataset?.place === undefined || this.pointed === span) return;
    this.pointed?.classList.remove("chosen");
    this.pointed = span;
    span.classList.add("chosen");
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.show(Number(span.dataset.place)), this.found.has(Number(span.dataset.place)) ? 0 : 90);
  }

  async show(place) {
    const { model, settings } = this.asked;
    if (!this.promptIds.length) return;
    try {
      if (!this.found.has(place)) {
        const ids = [...this.promptIds, ...this.ids.slice(0, place + 1)];
        this.found.set(place, post("/api/alternatives", { model, ids, begin: this.promptIds.length, settings }));
      }
      const found = await this.found.get(place);
      if (Number(this.pointed?.dataset.place) === place) showPanel(found, this.pointed);
    } catch (error) {
      this.found.delete(place);
      byId("token").replaceChildren(make("p", { className: "soft" }, error.message));
      byId("token").hidden = false;
    }
  }
}

function colourOf(chance) {
  return `chance-${COLOURS.findIndex(([least]) => chance >= least)}`;
}

export function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
}

export function hidePanel() {
  byId("token").hidden = true;
}

function showPanel(found, span) {
  const panel = byId("token"), most = Math.max(...found.candidates.flatMap(one => [one.model, one.drawn]));
  const rows = found.candidates.map(one => {
    const bar = (share, kind) => {
      const made = make("span", { className: `share ${kind}` });
      made.style.width = `${100 * share / most}%`;
      return made;
    };
    return make("tr", { className: `${one.id === found.token ? "taken" : ""} ${one.cut ? "cut" : ""}` },
      make("th", { scope: "row" }, visible(one.text), one.id === found.token ? make("span", { className: "unseen" }, " (drawn)") : ""),
      make("td", { className: "number" }, percent(one.model)),
      make("td", { className: "number" }, one.cut ? `cut: ${NAMES[one.cut]}` : percent(one.drawn)),
      make("td", { className: "shares" }, bar(one.model, "model"), bar(one.drawn, "drawn")));
  });
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...["token", "model", "drawn"].map((name, place) => make("th", { scope: "col", className: place ? "number" : "" }, name)), make("td"))), make("tbody", {}, ...rows));
  const steps = make("ul", {}, ...(found.steps.length ? found.steps.map(step => make("li", {}, sentenceOf(step))) : [make("li", {}, "Nothing was cut away.")]));
  const close = make("button", { type: "button", className: "close", ariaLabel: "Close", onclick: hidePanel }, "×");
  panel.replaceChildren(make("h2", {}, "Instead of ", make("code", {}, visible(span.textContent))), close, table, steps);
  panel.hidden = false;
  const covered = span.getBoundingClientRect().bottom + 24 - panel.getBoundingClientRect().top;
  if (getComputedStyle(panel).position === "fixed" && covered > 0) scrollBy(0, covered);  // on a phone the panel lies below
  if (document.activeElement === span) announce(summaryOf(found));
}

function summaryOf(found) {
  const taken = found.candidates.find(one => one.id === found.token);
  const others = found.candidates.filter(one => one !== taken).slice(0, 3);
  return `${visible(taken.text)}: ${percent(taken.model)}. Others: ${others.map(one => `${visible(one.text)} ${percent(one.model)}${one.cut ? ", cut" : ""}`).join("; ")}`;
}

function sentenceOf(step) {
  const count = n => `${n.toLocaleString("en")} ${n === 1 ? "token" : "tokens"}`;
  if (step.name === "temperature")
    return `Temperature ${step.value} took the likeliest from ${percent(step.before)} to ${percent(step.after)}.`;
  if (step.name === "greedy") return "Greedy: only the likeliest could be drawn.";
  if (step.name === "penalties")
    return step.cut ? `Penalties ruled out ${count(step.cut)}, ${percent(step.share)} of the probability.` : "Penalties changed the probabilities.";
  const name = { top_k: "Top-k", top_p: "Top-p", min_p: "Min-p" }[step.name];
  return `${name} ${step.value} cut away ${count(step.cut)}, ${percent(step.share)} of the probability.`;
}
