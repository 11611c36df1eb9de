// Tables sort by a click on a heading, and copy as CSV by a button.
"use strict";

// Sorts by number where cells carry one (data-v), cells without a number last; else by text.
function sortTable(heading) {
  const body = heading.closest("table").tBodies[0], column = heading.cellIndex;
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = Array.from(body.rows), sign = ascending ? 1 : -1;
  const numeric = rows.some(row => row.cells[column].dataset.v);
  const key = ({ cells }) => numeric ? parseFloat(cells[column].dataset.v) : cells[column].textContent;
  rows.sort((rowA, rowB) => {
    const a = key(rowA), b = key(rowB);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a < b ? -sign : a > b ? sign : 0;
  });
  body.append(...rows);
}

// Numbers are unrounded, except those with a standard deviation, which keep their text.
function toCsv(table) {
  const text = cell =>
    cell.dataset.v && !cell.textContent.includes("±") ? cell.dataset.v : cell.textContent;
  const quote = field => /[",\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
  const line = row => Array.from(row.cells, cell => quote(text(cell))).join(",");
  return `${Array.from(table.rows, line).join("\n")}\n`;
}

// navigator.clipboard does not exist on plain http, so a selected text field is copied.
function copyText(text) {
  const field = document.body.appendChild(document.createElement("textarea"));
  field.value = text;
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}

for (const button of document.querySelectorAll("th button"))
  button.onclick = () => sortTable(button.parentElement);

for (const button of document.querySelectorAll("button.copy"))
  button.onclick = () => {
    const copied = copyText(toCsv(button.previousElementSibling.querySelector("table")));
    button.textContent = copied ? "Copied" : "Not copied: the browser forbids it";
    button.focus();
    setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
  };
