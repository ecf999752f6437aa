"use strict";
// An extra: everything on the page can be opened and read without it.
(() => {
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
