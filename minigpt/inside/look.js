"use strict";
function renderLook(element, data) { element.textContent = ""; }
