// The numbers under the pointer, or the finger, in the caption of each figure below an element; without this the browser
// shows them as a tooltip.
"use strict";

function tellNumbers(root) {
  for (const figure of root.querySelectorAll("figure")) {
    const words = figure.querySelector("figcaption span");
    if (!words) continue;
    const before = words.textContent, caption = words.parentNode;
    for (const hit of figure.querySelectorAll(".hit")) {
      const title = hit.querySelector("title");
      const numbers = title.textContent;
      title.remove();
      hit.addEventListener("pointerenter", () => {
        if (!caption.style.minHeight) caption.style.minHeight = caption.getBoundingClientRect().height + "px";
        words.textContent = numbers;
      });
    }
    figure.addEventListener("pointerleave", () => { words.textContent = before; });
  }
}
