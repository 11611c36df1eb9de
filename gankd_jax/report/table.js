// Every table sorts by a click on a heading and copies as CSV by its button.
"use strict";

// By number where the cells carry one, those without last.
function sort(th) {
  const body = th.closest("table").tBodies[0];
  const up = th.getAttribute("aria-sort") !== "ascending";
  for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = Array.from(body.rows), at = th.cellIndex, way = up ? 1 : -1;
  const numbers = rows.some(row => row.cells[at].dataset.v);
  const value = row => numbers ? parseFloat(row.cells[at].dataset.v) : row.cells[at].textContent;
  rows.sort((a, b) => {
    const x = value(a), y = value(b);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return x < y ? -way : x > y ? way : 0;
  });
  body.append(...rows);
}

// Numbers unrounded, but for those with a spread behind them, which stand as they are read.
function csv(table) {
  const text = cell =>
    cell.dataset.v && !cell.textContent.includes("±") ? cell.dataset.v : cell.textContent;
  const quoted = word => /[",\n]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word;
  const line = row => Array.from(row.cells, cell => quoted(text(cell))).join(",");
  return `${Array.from(table.rows, line).join("\n")}\n`;
}

// By a field that is selected: the clipboard's own interface is not there on plain http.
function copy(text) {
  const field = document.body.appendChild(document.createElement("textarea"));
  field.value = text;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

for (const button of document.querySelectorAll("th button"))
  button.onclick = () => sort(button.parentElement);

for (const button of document.querySelectorAll("button.copy"))
  button.onclick = () => {
    const done = copy(csv(button.previousElementSibling.querySelector("table")));
    button.textContent = done ? "Copied" : "Not copied: the browser forbids it";
    button.focus();
    setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
  };
