// Elements made in one line. Text goes in as text alone: nothing that a model or a file says becomes markup.

export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

export const byId = name => document.getElementById(name);

// Charts that the server has drawn, with the numbers under the pointer in their captions.
export function showCharts(target, markup) {
  target.replaceChildren(...new DOMParser().parseFromString(markup, "text/html").body.childNodes);
  globalThis.tellNumbers(target);
}

// Says something to those who hear the page; a stream is not read out piece by piece.
export function announce(text) {
  byId("status").textContent = text;
}

export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2)} %`;
}

export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  announce(button.textContent);
  setTimeout(() => { button.textContent = before; }, 1500);
}
