// The page: one view at a time, by the address behind #.

import { buildChat, suit } from "/page/chat.js";
import { byId } from "/page/element.js";
import { buildLook, openLook, suitLook } from "/page/inside.js";
import { buildLegend, hidePanel } from "/page/pieces.js";
import { buildPortal, showBrought } from "/page/portal.js";
import { buildRuns, closeRuns, openRuns } from "/page/runs.js";
import { get } from "/page/server.js";
import { buildSettings } from "/page/settings.js";
import { loadModels, openView, tell, VIEWS, whenChosen } from "/page/state.js";
import { buildWrite, suggest } from "/page/write.js";

function showView() {
  const name = location.hash.slice(2);
  const view = VIEWS.includes(name) ? name : "write";
  for (const one of VIEWS) byId(one).hidden = one !== view;
  byId("work").hidden = !["write", "chat"].includes(view);
  byId("trouble").hidden = true;
  hidePanel();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`${view}-title`).textContent} · minigpt`;
  if (view === "runs") openRuns(); else closeRuns();
  if (view === "look") openLook();
}

async function begin() {
  document.querySelector(".skip").addEventListener("click", event => { event.preventDefault(); byId("main").focus(); });
  const facts = await get("/api/page");
  buildSettings(facts.settings);
  buildLegend();
  buildWrite();
  buildChat();
  buildPortal(facts.upload);
  buildRuns(facts.most_compared);
  buildLook();
  const models = await loadModels();
  whenChosen(model => { suit(model); suitLook(model); if (model) suggest(model.prompt); });
  showBrought();
  addEventListener("hashchange", () => { showView(); byId("main").focus({ preventScroll: true }); scrollTo(0, 0); });
  if (!models.length && !location.hash) openView("portal");
  showView();
  document.body.dataset.ready = "true";
}

begin().catch(tell);
