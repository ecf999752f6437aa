"use strict";
// An extra: everything on the page can be opened and read without it.
(() => {
  for (const pane of document.querySelectorAll(".drawn-graph .scroll")) {
    const first = pane.querySelector(".box.first");
    if (!first) continue;
    const [box, view] = [first.getBoundingClientRect(), pane.getBoundingClientRect()];
    pane.scrollLeft += box.left + box.width / 2 - view.left - view.width / 2;
    pane.scrollTop += box.top - view.top - view.height / 3;
  }
  const button = document.getElementById("open-all");
  const folds = [...document.querySelectorAll("details")];
  if (!button || folds.length === 0) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = folds.some((fold) => !fold.open);
    for (const fold of folds) fold.open = open;
    button.textContent = open ? "Close all details" : "Open all details";
  });
})();
