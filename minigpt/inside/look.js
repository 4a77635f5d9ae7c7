// What `Look.packed` holds in, its views out: renderLook(element, data). The package's docstring says what the data is.
// No library and no request; text of the model goes in as text alone.
"use strict";

function renderLook(element, data) {
  const { layers: L, heads: H } = data.model, T = data.tokens.length;
  const attention = data.attention, last = data.lens[data.lens.length - 1];
  const maps = { heads: bytesOf(attention.weights), mean: bytesOf(attention.mean) };
  const points = { query: bytesOf(data.vectors.query), key: bytesOf(data.vectors.key), value: bytesOf(data.vectors.value) };
  const [layer, head] = firstNamed();
  const state = { layer, head, token: T - 1, lens: L };
  const views = [];

  // -------------------------------------------------------------------------------------------------- what is chosen

  // Layer, head (-1: the average), token, row of the lens: one choice for all views.
  function choose(change) {
    const changed = Object.keys(change).filter(name => state[name] !== change[name]);
    Object.assign(state, change);
    for (const { names, update } of views) if (names.some(name => changed.includes(name))) update();
  }

  // What is drawn anew when one of these is chosen.
  function shows(names, update) {
    views.push({ names, update });
  }

  function firstNamed() {
    for (let l = 0; l < L; l++) for (let h = 0; h < H; h++) if (attention.names[l][h].length) return [l, h];
    return [0, 0];
  }

  // --------------------------------------------------------------------------------------------------------- numbers

  function bytesOf(text) {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    return bytes;
  }

  // The bytes of one map: the rows of its lower triangle, each weight as 255 times its root.
  function mapOf(layer, head) {
    const size = T * (T + 1) / 2, number = head < 0 ? layer : layer * H + head;
    return (head < 0 ? maps.mean : maps.heads).subarray(number * size, (number + 1) * size);
  }

  function rowOf(layer, head, row) {
    const start = row * (row + 1) / 2;
    return Array.from(mapOf(layer, head).subarray(start, start + row + 1), byte => (byte / 255) ** 2);
  }

  function percent(share) {
    const value = 100 * share;
    return (value >= 9.95 ? value.toFixed(0) : value >= 0.05 ? value.toFixed(1) : value > 0 ? "<0.1" : "0") + "\u00a0%";
  }

  function short(value) {
    return value >= 1e4 ? value.toExponential(1) : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2);
  }

  const bits = nats => (nats / Math.LN2).toFixed(1) + "\u00a0bits";
  const named = piece => piece.replaceAll(" ", "·");
  const pieceAt = token => named(data.tokens[token].piece);
  const quoted = token => `“${pieceAt(token)}”`;
  const placed = token => `${quoted(token)} (${token + 1})`;
  const nameOf = head => head < 0 ? "the average of its heads" : `head ${head + 1}`;
  const rowName = row => row ? `block ${row}` : "embedding";

  // ----------------------------------------------------------------------------------------------------------- parts

  function make(tag, options = {}, ...children) {
    const { text, share, ...attributes } = options, made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    if (share !== undefined) made.style.setProperty("--w", share);
    made.append(...children);
    return made;
  }

  function section(title, words, ...children) {
    const heading = make("h2", { text: title });
    element.append(make("section", { "aria-label": title }, heading, make("p", { class: "soft", text: words }), ...children));
  }

  // One stop of the Tab key for many items: arrows move among them; where the pointer or the focus comes, `enter` is called.
  function rove(container, items, columns, enter) {
    let current = 0;
    const places = new Map(items.map((item, place) => [item, place]));
    const placeOf = target => places.get(target.closest("[data-item]"));
    items.forEach((item, place) => { item.tabIndex = place ? -1 : 0; item.dataset.item = ""; });

    function settle(place) {
      items[current].tabIndex = -1;
      items[current = place].tabIndex = 0;
    }

    for (const kind of ["pointerover", "focusin"]) {
      container.addEventListener(kind, event => {
        const place = placeOf(event.target);
        if (place === undefined) return;
        settle(place);
        enter(place);
      });
    }
    container.addEventListener("keydown", event => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -current, End: items.length - 1 - current };
      const place = current + steps[event.key];
      if (!items[place] || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      items[place].focus();
    });
    return settle;
  }

  // The text as tokens; `colours` gives each its share of the colour, and words to be heard, anew when one of `names` is chosen.
  function strip(label, kind, names, colours) {
    const tokens = data.tokens.map(token => make("span", { class: "token", role: "option", text: token.piece }));
    const made = make("div", { class: `strip ${kind}`, role: "listbox", "aria-label": label, "aria-orientation": "horizontal" });
    for (const token of tokens) made.append(token, ...(token.textContent.endsWith("⏎") ? [make("br")] : []));
    const settle = rove(made, tokens, 1, token => choose({ token }));
    let chosen = tokens[0];
    shows(names, () => colours().forEach(([share, words], place) => {
      tokens[place].style.setProperty("--w", share);
      tokens[place].setAttribute("aria-label", `${pieceAt(place)}: ${words}`);
    }));
    shows(["token"], () => {
      for (const [token, is] of [[chosen, false], [chosen = tokens[state.token], true]]) {
        token.setAttribute("aria-selected", is);
        token.classList.toggle("chosen", is);
      }
      settle(state.token);
    });
    return made;
  }

  function bars(kind, rows) {
    return make("ol", { class: `bars ${kind}` }, ...rows.map(({ piece, share, actual }) => make(
      "li", { class: actual ? "actual" : "" },
      make("span", { class: "piece", text: piece, title: piece }),
      make("span", { class: "share", text: percent(share) }),
      make("span", { class: "bar", share }),
    )));
  }

  // What the stream after some block foretells at a token, the token that follows marked.
  function foretold(reading, token, kind) {
    const next = token + 1 < T ? data.tokens[token + 1].id : null;
    return bars(kind, reading.top[token].map((id, place) => (
      { piece: named(data.pieces[id]), share: reading.probabilities[token][place], actual: id === next }
    )));
  }

  function legend(kind, ...steps) {
    return make("div", { class: `legend ${kind}`, "aria-hidden": "true" }, ...steps.map(([share, words]) => make(
      "span", {}, make("span", { class: "swatch", share }), words,
    )));
  }

  // Layers by tokens, a cell for each; `describe` gives each its text, its share of the colour, and whether it is marked.
  function grid(label, kind, names, describe, enter) {
    const head = make("tr", {}, make("th", { text: "" }), ...data.tokens.map((_, place) => make("th", { scope: "col", text: pieceAt(place) })));
    const rows = names.map((name, row) => make("tr", {}, make("th", { scope: "row", text: name }), ...data.tokens.map((_, token) => {
      const { text, share, marked } = describe(row, token);
      return make("td", { class: `cell${marked ? " hit-it" : ""}`, text, share });
    })));
    const cells = rows.flatMap(row => [...row.querySelectorAll("td")]);
    const table = make("table", { class: `grid ${kind}`, role: "grid", "aria-label": label }, make("thead", {}, head), make("tbody", {}, ...rows));
    rove(table, cells, T, place => enter(Math.floor(place / T), place % T));
    const columns = token => [head.children[token + 1], ...names.map((_, row) => cells[row * T + token])];
    let marked = [], soon = 0;
    return {
      table,
      mark(token, row = null) {
        for (const cell of marked) cell.classList.remove("column", "chosen");
        marked = columns(token);
        for (const cell of marked) cell.classList.add("column");
        if (row !== null) cells[row * T + token].classList.add("chosen");
        cancelAnimationFrame(soon);
        soon = requestAnimationFrame(() => reveal(marked[0]));
      },
    };
  }

  function scrolled(label, ...children) {
    return make("div", { class: "scroll", role: "region", "aria-label": label }, ...children);
  }

  // Scrolls a table sideways, and nothing else, until a column can be seen.
  function reveal(cell) {
    const frame = cell.closest(".scroll");
    if (!frame) return;
    const [outer, inner] = [frame.getBoundingClientRect(), cell.getBoundingClientRect()];
    const left = outer.left + cell.parentNode.firstChild.getBoundingClientRect().width;
    if (inner.right > outer.right) frame.scrollLeft += inner.right - outer.right;
    else if (inner.left < left) frame.scrollLeft += inner.left - left;
  }

  // Two fields that choose layer and head.
  function headChooser() {
    const layers = make("select", {}, ...Array.from({ length: L }, (_, l) => make("option", { value: l, text: l + 1 })));
    const heads = make("select", {}, make("option", { value: -1, text: "average" }),
      ...Array.from({ length: H }, (_, h) => make("option", { value: h, text: h + 1 })));
    layers.addEventListener("change", () => choose({ layer: Number(layers.value) }));
    heads.addEventListener("change", () => choose({ head: Number(heads.value) }));
    shows(["layer", "head"], () => { layers.value = state.layer; heads.value = state.head; });
    return make("div", { class: "choice" }, make("label", {}, "Layer", layers), make("label", {}, "Head", heads));
  }

  // ---------------------------------------------------------------------------------------------------- loss by token

  function drawLoss() {
    const most = 12 * Math.LN2;
    const said = make("p", { class: "said" }), before = make("div"), after = make("div");
    shows(["token"], () => {
      const token = data.tokens[state.token], place = state.token;
      said.textContent = `${quoted(place)}, token ${place + 1} of ${T}, id ${token.id}: ` + (token.loss === null
        ? "the first, which nothing foretold."
        : `${percent(token.probability)}, ${bits(token.loss)}, rank ${token.rank.toLocaleString("en")} of the model's guesses.`);
      before.replaceChildren(make("h3", { text: "Foretold in its place" }), place ? foretold(last, place - 1, "loss") : bars("loss", []));
      after.replaceChildren(make("h3", { text: "Foretold after it" }), foretold(last, place, "loss"));
    });
    const summary = data.loss ? `The model lost ${data.loss.nats_per_token.toFixed(3)} nats per token, ${data.loss.bits_per_byte.toFixed(3)} bits `
      + `per byte, over ${data.loss.tokens.toLocaleString("en")} token${data.loss.tokens === 1 ? "" : "s"}. ` : "";
    section("Loss by token", summary + "A token is coloured by its surprisal, the bits that it cost: −log₂ of the probability that the model gave it. "
      + "Point at one, or move with the arrow keys; the token that came is underlined.",
    strip("Tokens by surprisal", "loss", [], () => data.tokens.map(({ loss, probability }) => (
      loss === null ? [0, "not foretold"] : [Math.min(1, loss / most), `${percent(probability)}, ${bits(loss)}`]
    ))),
    legend("loss", ...[0, 3, 6, 9, 12].map(value => [value / 12, `${value}${value === 12 ? " bits and more" : ""}`])),
    said, make("div", { class: "pair", "aria-live": "polite" }, before, after));
  }

  // -------------------------------------------------------------------------------------------------------- attention

  function canvasOf(layer, head) {
    const canvas = make("canvas", { class: "map", width: T, height: T, "aria-hidden": "true" });
    canvas.draw = ([red, green, blue], of = layer, which = head) => {
      const context = canvas.getContext("2d"), image = context.createImageData(T, T);
      const pixels = image.data, bytes = mapOf(of, which);
      for (let row = 0, from = 0; row < T; row++) {
        for (let column = 0; column <= row; column++, from++) {
          const pixel = 4 * (row * T + column);
          pixels[pixel] = red;
          pixels[pixel + 1] = green;
          pixels[pixel + 2] = blue;
          pixels[pixel + 3] = bytes[from];
        }
      }
      context.putImageData(image, 0, 0);
    };
    return canvas;
  }

  function colourOf(canvas) {
    return getComputedStyle(canvas).color.match(/[\d.]+/g).map(Number);
  }

  function drawMaps(canvases) {
    const colour = colourOf(canvases[0]);
    for (const canvas of canvases) canvas.draw(colour);
  }

  // All heads at once: a row for each layer, its average first.
  function overview(canvases) {
    const made = make("div", { class: "overview", role: "group", "aria-label": "Attention maps of all heads" });
    made.style.setProperty("--columns", H + 1);
    const buttons = [];
    for (let l = 0; l < L; l++) {
      made.append(make("span", { class: "side", text: `Layer ${l + 1}` }));
      for (let h = -1; h < H; h++) {
        const canvas = canvasOf(l, h), names = h < 0 ? [] : attention.names[l][h].map(name => attention.patterns[name]);
        const words = h < 0 ? "average" : names.join(", ") || `${attention.entropy[l][h].toFixed(1)} bits`;
        const button = make("button", { class: "thumb", type: "button", "aria-label": `Layer ${l + 1}, ${nameOf(h)}: ${words}`, title: words },
          canvas, make("span", { class: names.length ? "named" : "", text: words }));
        button.addEventListener("click", () => choose({ layer: l, head: h }));
        canvases.push(canvas);
        buttons.push(button);
        made.append(button);
      }
    }
    const settle = rove(made, buttons, H + 1, () => {});
    shows(["layer", "head"], () => {
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", place === state.layer * (H + 1) + state.head + 1));
      settle(state.layer * (H + 1) + state.head + 1);
    });
    return made;
  }

  // What a head does, in numbers.
  function scoresOf(layer, head) {
    if (head < 0) return [make("p", { text: "The average over the heads of this layer; patterns are those of single heads." })];
    const names = attention.names[layer][head];
    const name = names.map(one => attention.patterns[one]).join(", ");
    const header = make("tr", {}, ...["attention to", "on random tokens", "here", "if uniform"].map((text, place) => make("th", { text, class: place ? "number" : "" })));
    const cell = value => make("td", { class: "number", text: value === undefined ? "–" : percent(value) });
    const rows = Object.entries(attention.patterns).map(([key, text]) => make(
      "tr", { class: names.includes(key) ? "named" : "" }, make("td", { text }),
      cell(attention.probe?.[key][layer][head]), cell(attention.here[key]?.[layer][head]), cell(attention.uniform[key]),
    ));
    const bitsHere = `${attention.entropy[layer][head].toFixed(1)} bits of entropy, of ${attention.most_entropy.toFixed(1)} if it looked everywhere alike.`;
    return [
      make("p", {}, make("b", { text: name ? name[0].toUpperCase() + name.slice(1) : "No standard pattern" }), `; ${bitsHere}`),
      make("table", { class: "scores" }, header, ...rows),
    ];
  }

  // One map, large; the row of the token that is chosen is framed, and the pointer chooses.
  function largeMap(canvases) {
    const canvas = canvasOf(0, 0), row = make("div", { class: "row" }), under = make("p", { class: "soft said" });
    const frame = make("div", { class: "frame" }, canvas, row);
    const names = T <= 36 ? data.tokens.map((_, place) => make("span", { text: pieceAt(place) })) : [];
    canvas.removeAttribute("aria-hidden");
    canvas.setAttribute("role", "img");
    const draw = canvas.draw;
    canvas.draw = colour => draw(colour, state.layer, state.head);
    canvases.push(canvas);
    row.style.setProperty("--height", 1 / T);
    frame.addEventListener("pointermove", event => {
      const box = canvas.getBoundingClientRect();
      const at = (value, size) => Math.max(0, Math.min(T - 1, Math.floor(value / size * T)));
      const token = at(event.clientY - box.top, box.height), column = at(event.clientX - box.left, box.width);
      choose({ token });
      under.textContent = column > token ? `${placed(token)} does not see ${placed(column)}, which comes later.`
        : `${placed(token)} looks at ${placed(column)}: ${percent(rowOf(state.layer, state.head, token)[column])}`;
    });
    shows(["layer", "head"], () => {
      canvas.draw(colourOf(canvas));
      canvas.setAttribute("aria-label", `Attention map of layer ${state.layer + 1}, ${nameOf(state.head)}`);
    });
    shows(["layer", "head", "token"], () => {
      row.style.setProperty("--row", state.token / T);
      names.forEach((name, place) => name.classList.toggle("chosen", place === state.token));
      under.textContent = "Each row is a token, each column a token that it looks at: the stronger the colour, the more (it goes by the root of the weight).";
    });
    return make("div", {}, make("div", { class: "framed" }, make("div", { class: "rows", "aria-hidden": "true" }, ...names), frame), under);
  }

  function drawAttention(canvases) {
    const scores = make("div"), looks = make("div");
    shows(["layer", "head"], () => scores.replaceChildren(...scoresOf(state.layer, state.head)));
    shows(["layer", "head", "token"], () => {
      const strongest = rowOf(state.layer, state.head, state.token)
        .map((share, column) => ({ piece: `${pieceAt(column)} (${column + 1})`, share }))
        .sort((one, other) => other.share - one.share).slice(0, 5);
      looks.replaceChildren(make("h3", { text: `${placed(state.token)} looks at` }), bars("attention", strongest));
    });
    const naming = attention.probe
      ? "A head is named where more than half of what uniform attention would spend elsewhere goes to one pattern, on random tokens, twice over"
      : "No head is named: there is no room for the random tokens that this is measured on";
    section("Attention", `All heads, a row for each layer; choose one to enlarge it. ${naming}; under the others stands the entropy of their rows.`,
      scrolled("All heads", overview(canvases)), headChooser(),
      make("div", { class: "large" }, largeMap(canvases), make("div", {}, scores)),
      make("h3", { class: "said", text: "What a token looks at: choose one" }),
      strip("Tokens by what the chosen one looks at", "attention", ["layer", "head", "token"], () => {
        const row = rowOf(state.layer, state.head, state.token);
        return data.tokens.map((_, place) => place > state.token ? [0, "comes later"] : [Math.sqrt(row[place]), percent(row[place])]);
      }),
      make("div", { class: "pair" }, looks));
  }

  // ------------------------------------------------------------------------------------------------------------- lens

  function drawLens() {
    const names = data.lens.map((_, row) => rowName(row));
    const said = make("p", { class: "said" }), shares = make("div");
    const { table, mark } = grid("Logit lens: layers by tokens", "attention", names, (row, token) => {
      const best = data.lens[row].top[token][0];
      return {
        text: named(data.pieces[best]), share: data.lens[row].probabilities[token][0],
        marked: token + 1 < T && best === data.tokens[token + 1].id,
      };
    }, (lens, token) => choose({ lens, token }));
    table.append(make("tfoot", {}, make("tr", {}, make("th", { text: "came next" }), ...data.tokens.map((_, place) => make(
      "td", { text: place + 1 < T ? pieceAt(place + 1) : "" },
    )))));
    shows(["lens", "token"], () => {
      const reading = data.lens[state.lens], token = state.token;
      const where = `${state.lens ? `After block ${state.lens}` : "Before the first block"}, at ${placed(token)}`;
      said.textContent = token + 1 < T
        ? `${where}: what came, ${quoted(token + 1)}, has ${percent(Math.exp(-reading.loss[token]))} and rank ${reading.rank[token].toLocaleString("en")}.`
        : `${where}: what comes is not known.`;
      shares.replaceChildren(foretold(reading, token, "attention"));
      mark(token, state.lens);
    });
    section("Logit lens", "What the model would foretell if it ended after each block: its last norm and head on the stream there. The last row is the "
      + "model itself. The stronger the colour, the likelier; underlined where it is the token that came.",
    scrolled("Logit lens", table), said, make("div", { class: "pair" }, shares));
  }

  // ------------------------------------------------------------------------------------------------------------ norms

  function drawNorms() {
    const kinds = { stream: "the stream", attention: "what attention adds", mlp: "what the MLP adds" };
    const place = scrolled("Norms"), said = make("p", { class: "said" });
    let chosen = "stream", mark = () => {};
    function draw() {
      const values = data.norms[chosen], names = values.map((_, row) => chosen === "stream" ? rowName(row) : rowName(row + 1));
      const logs = values.flat().filter(value => value > 0).map(Math.log);
      const low = Math.min(...logs), high = Math.max(...logs);
      const made = grid(`Norms of ${kinds[chosen]}: layers by tokens`, "loss", names, (row, token) => ({
        text: short(values[row][token]), share: values[row][token] > 0 ? 0.06 + 0.94 * (Math.log(values[row][token]) - low) / (high - low || 1) : 0,
      }), (_, token) => choose({ token }));
      mark = made.mark;
      place.replaceChildren(made.table);
    }
    const options = Object.entries(kinds).map(([kind, words]) => {
      const input = make("input", { type: "radio", name: "norms" });
      input.checked = kind === chosen;
      input.addEventListener("change", () => { chosen = kind; draw(); mark(state.token); });
      return make("label", {}, input, words);
    });
    draw();
    shows(["token"], () => {
      const stream = data.norms.stream.map(row => row[state.token]);
      said.textContent = `${placed(state.token)}: the stream goes from ${short(stream[0])} to ${short(stream[L])}.`;
      mark(state.token);
    });
    section("Norms of the residual stream", "How long the stream is at each token, before the first block and after each, and what attention and MLP add to it. "
      + "The stronger the colour, the longer, on a log scale.",
    make("fieldset", { class: "choice", "aria-label": "Norms of" }, ...options), place, said);
  }

  // ---------------------------------------------------------------------------------------------------------- vectors

  const SIZE = 320, MARGIN = 16, LOOKED_AT = 0.05;

  function shape(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function placeOf(cloud, token) {
    const from = ((state.layer * H + state.head) * T + token) * 2;
    return [0, 1].map(axis => MARGIN + (points[cloud][from + axis] - 1) / 254 * (SIZE - 2 * MARGIN));
  }

  function dot(cloud, token, size, name) {
    const [x, y] = placeOf(cloud, token), style = { class: name, "data-token": token };
    const made = cloud === "query" ? shape("circle", { ...style, cx: x, cy: y, r: size })
      : shape("rect", { ...style, x: x - size, y: y - size, width: 2 * size, height: 2 * size });
    made.append(shape("title", {}, placed(token)));
    return made;
  }

  function label(cloud, token) {
    const [x, y] = placeOf(cloud, token), right = x > SIZE * 0.7;
    return shape("text", { x: right ? x - 8 : x + 8, y: y + 4, "text-anchor": right ? "end" : "start" }, pieceAt(token));
  }

  // The chosen token in a plane, and the keys that its query looks at.
  function chosenIn(clouds) {
    const token = state.token, lines = [], labels = new Map([[`${clouds[0]} ${token}`, label(clouds[0], token)]]);
    if (clouds.includes("key")) {
      rowOf(state.layer, state.head, token).forEach((share, column) => {
        if (share < LOOKED_AT) return;
        const [[x1, y1], [x2, y2]] = [placeOf("query", token), placeOf("key", column)];
        lines.push(shape("line", { x1, y1, x2, y2, "stroke-width": 0.5 + 3 * share, "stroke-opacity": 0.2 + 0.6 * share }));
        labels.set(`key ${column}`, label("key", column));
      });
    }
    return [...lines, ...clouds.map(cloud => dot(cloud, token, 5, "chosen")), ...labels.values()];
  }

  function drawPlane(title, clouds, explained) {
    const svg = shape("svg", { class: "plane", viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img" }), words = make("small", { class: "soft" });
    const all = shape("g", {}), chosen = shape("g", {});
    svg.append(all, chosen);
    svg.addEventListener("pointerover", event => {
      const found = event.target.closest("[data-token]");
      if (found) choose({ token: Number(found.dataset.token) });
    });
    shows(["layer", "head"], () => {
      const average = state.head < 0;
      words.textContent = average ? "The average has no vectors; choose a head."
        : `${percent(data.vectors[explained][state.layer][state.head])} of the variance lies in this plane.`;
      svg.setAttribute("aria-label", `${title} of layer ${state.layer + 1}, ${nameOf(state.head)}, in two dimensions`);
      all.replaceChildren(...average ? [] : clouds.flatMap(cloud => data.tokens.map((_, token) => dot(cloud, token, 3.5, ""))));
    });
    shows(["layer", "head", "token"], () => chosen.replaceChildren(...state.head < 0 ? [] : chosenIn(clouds)));
    return make("figure", {}, make("figcaption", {}, make("b", { text: title }), make("br"), words), svg);
  }

  function drawVectors() {
    section("Queries, keys and values", "The vectors of a head, a point for each token, in the plane in which they differ most (principal components). Lines go "
      + "from the query of the chosen token to the keys that it looks at. Keys are moved as a whole onto the queries, which changes no attention.",
    headChooser(), strip("Tokens: choose one", "attention", [], () => data.tokens.map((_, place) => [0, `token ${place + 1}`])),
    make("div", { class: "planes" },
      drawPlane("Queries (circles) and keys (squares)", ["query", "key"], "explained"), drawPlane("Values", ["value"], "value_explained")));
  }

  // -------------------------------------------------------------------------------------------------------- together

  const canvases = [], { parameters, channels, context } = data.model;
  element.replaceChildren();
  element.classList.add("look");
  element.append(make("p", { class: "soft", text: `${parameters.toLocaleString("en")} parameters: ${L} layer${L === 1 ? "" : "s"}, ${H} `
    + `head${H === 1 ? "" : "s"}, ${channels} channels, context ${context.toLocaleString("en")}. In tokens · is a space, ⏎ a new line.` }));
  if (data.note) element.append(make("p", { class: "note", text: `${data.note}.` }));
  drawLoss();
  drawAttention(canvases);
  drawLens();
  drawNorms();
  drawVectors();
  for (const { update } of views) update();
  drawMaps(canvases);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", function redraw() {
    if (!element.contains(canvases[0])) scheme.removeEventListener("change", redraw);
    else drawMaps(canvases);
  });
}
