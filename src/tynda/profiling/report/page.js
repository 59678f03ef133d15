"use strict";
// Shows one model at a time, sorts tables by a column, highlights one engine in all figures.
const choice = document.querySelector("#model");
function show() {
  for (const part of document.querySelectorAll("[data-model]"))
    part.classList.toggle("away", choice.value !== "" && part.dataset.model !== choice.value);
  for (const none of document.querySelectorAll(".nothing")) {
    const there = none.parentNode.querySelectorAll("[data-model]");
    const shown = none.parentNode.querySelector("[data-model]:not(.away)");
    none.classList.toggle("away", there.length === 0 || shown !== null);
  }
}
if (choice) { choice.addEventListener("change", show); show(); }

function key(row, column) {
  const cell = row.cells[column], text = cell.dataset.key ?? cell.textContent;
  return text !== "" && !isNaN(text) ? Number(text) : text;
}
function order(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}
for (const head of document.querySelectorAll(".sortable th")) {
  head.tabIndex = 0;
  const sort = () => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => down * order(key(a, column), key(b, column))));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}

const lit = new Set();
for (const button of document.querySelectorAll(".legend button"))
  button.addEventListener("click", () => {
    const name = button.dataset.engine;
    if (!lit.delete(name)) lit.add(name);
    for (const other of document.querySelectorAll(".legend button"))
      other.setAttribute("aria-pressed", lit.has(other.dataset.engine));
    document.body.classList.toggle("dim", lit.size > 0);
    for (const mark of document.querySelectorAll(".mark")) {
      const engine = mark.dataset.series.slice(0, mark.dataset.series.lastIndexOf("|"));
      mark.classList.toggle("lit", engine === "" || lit.has(engine));
    }
  });
