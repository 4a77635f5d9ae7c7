// One text from the server, streamed into its element; it can be stopped, and tells how it went.

import { Pieces } from "/page/pieces.js";
import { events } from "/page/server.js";

const HOW = { chat: "/v1/chat/completions", write: "/v1/completions" };

// What a chunk holds, in either of OpenAI's two shapes; null where it has no text.
function partOf(chunk) {
  const choice = chunk.choices[0];
  if (!choice) return null;
  const chances = choice.logprobs?.token_logprobs ?? choice.logprobs?.content?.map(one => one.logprob) ?? [];
  return {
    text: choice.text ?? choice.delta?.content ?? "",
    tokens: choice.logprobs?.tokens ?? choice.logprobs?.content?.map(nameOf) ?? [],
    chances: chances.map(Math.exp),
    ids: choice.token_ids ?? [],
    promptIds: choice.prompt_token_ids ?? null,
    finish: choice.finish_reason,
  };
}

function nameOf(token) {
  return `bytes:${token.bytes.map(byte => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
}

export class Drawing {
  constructor(element, kind, model, settings) {
    this.kind = kind;
    this.body = { model, ...settings, logprobs: kind === "chat" ? true : 0, return_token_ids: true };
    this.pieces = new Pieces(element, { model, settings });
    this.aborting = new AbortController();
    this.finish = null;
  }

  // Writes it to its end; returns a sentence on how it went.
  async run(asked) {
    const began = performance.now();
    this.pieces.element.setAttribute("aria-busy", "true");
    try {
      for await (const chunk of events(HOW[this.kind], { ...this.body, ...asked }, this.aborting.signal)) {
        const part = partOf(chunk);
        if (!part) continue;
        this.pieces.push(part);
        this.finish = part.finish ?? this.finish;
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      this.finish = "stopped";
    } finally {
      this.pieces.end();
      this.pieces.element.removeAttribute("aria-busy");
    }
    const count = this.pieces.ids.length, seconds = (performance.now() - began) / 1000;
    const speed = count ? `, ${Math.round(count / seconds).toLocaleString("en")} a second` : "";
    const why = { stop: "ended by itself", length: "", stopped: "stopped" }[this.finish] ?? "";
    return `${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}${speed}${why && `, ${why}`}; seed ${this.body.seed}`;
  }

  stop() {
    this.aborting.abort();
  }
}
