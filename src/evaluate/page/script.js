// Chooses what is shown: a cell type, and in it a perturbation. The choice is in the address, #type=B&perturbation=P003, so that
// a view can be kept, sent and returned to. What is shown is noted on <html> as data-type, data-perturbation, data-fits.
"use strict";
(() => {
  const root = document.documentElement;
  const boards = [...document.querySelectorAll("section.board")];
  const chooser = document.getElementById("type");

  // The options of a board's perturbations; none if no figures of genes were drawn.
  const options = (board) => [...(board.querySelector("select.perturbation")?.options ?? [])];

  const go = (type, perturbation) => {
    const parts = [];
    if (type !== undefined) parts.push("type=" + encodeURIComponent(type));
    if (perturbation !== undefined) parts.push("perturbation=" + encodeURIComponent(perturbation));
    location.hash = parts.join("&");
  };

  // If there is no name, there is one board, which needs none in the address.
  const typeOf = (board) => (chooser ? board.dataset.type : undefined);

  const pick = (board, name) => {
    const all = options(board);
    if (all.length === 0) return undefined;
    const select = board.querySelector("select.perturbation");
    const wanted = all.find((option) => option.dataset.name === name) ?? all.find((option) => option.defaultSelected) ?? all[0];
    wanted.selected = true;
    for (const genes of board.querySelectorAll(".genes")) genes.hidden = genes.dataset.p !== wanted.value;
    for (const link of board.querySelectorAll("a[data-p]")) link.classList.toggle("picked", link.dataset.p === wanted.value);
    for (const button of board.querySelectorAll("button[data-step]")) {
      button.disabled = all[select.selectedIndex + Number(button.dataset.step)] === undefined;
    }
    return wanted.dataset.name;
  };

  const show = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const type = asked.get("type");
    const board = boards.find((board) => type !== null && board.dataset.type === type) ?? boards[0];
    for (const other of boards) other.hidden = other !== board;
    if (chooser) chooser.value = String(boards.indexOf(board));
    const name = pick(board, asked.get("perturbation"));
    const say = (key, value) => (value === undefined ? delete root.dataset[key] : (root.dataset[key] = value));
    say("type", typeOf(board));
    say("perturbation", name);
    measure();
  };

  // The page itself must not scroll sideways, only the boxes of its tables may.
  const measure = () => {
    root.dataset.fits = String(root.scrollWidth <= window.innerWidth);
    root.dataset.width = String(window.innerWidth);
  };

  root.classList.add("live");
  chooser?.addEventListener("change", () => go(boards[Number(chooser.value)].dataset.type));
  for (const board of boards) {
    const select = board.querySelector("select.perturbation");
    select?.addEventListener("change", () => go(typeOf(board), select.selectedOptions[0].dataset.name));
    for (const button of board.querySelectorAll("button[data-step]")) {
      button.addEventListener("click", () => {
        const next = options(board)[select.selectedIndex + Number(button.dataset.step)];
        if (next) go(typeOf(board), next.dataset.name);
      });
    }
    board.addEventListener("click", (event) => {
      if (!event.target.closest?.("a[data-p]")) return;
      // To the genes of the perturbation that was clicked on, wherever they are.
      setTimeout(() => {
        const shown = document.querySelector("section.board:not([hidden]) .genes:not([hidden])");
        shown?.scrollIntoView({ behavior: "smooth", block: "nearest" });
      });
    });
  }
  window.addEventListener("hashchange", show);
  window.addEventListener("resize", measure);
  show();
})();
