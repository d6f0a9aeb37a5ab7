"use strict";
// Without this script the tables are complete; it only sorts and filters them.
for (const details of document.querySelectorAll("details.full")) {
  const table = details.querySelector("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const shown = details.querySelector(".shown");
  const key = (row, i) => {
    const text = row.cells[i].textContent;
    const value = parseFloat(text.replace("−", "-").replace("∞", "Infinity").replace(/[<,\s]/g, ""));
    return { text, value, missing: text === "–", numeric: value === value };
  };
  headers.forEach((header, i) => {
    header.querySelector("button").addEventListener("click", () => {
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const keyed = rows.map((row) => [key(row, i), row]);
      keyed.sort(([a], [b]) => {
        if (a.missing || b.missing) return a.missing - b.missing;
        return sign * (a.numeric && b.numeric ? a.value - b.value : a.text.localeCompare(b.text));
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
  details.querySelector(".filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const cells = Array.from(row.cells, (cell) => cell.textContent.toLowerCase());
      // A number must match a whole cell: "1" is layer 1, not every row with a 1 in some decimal.
      const keep = words.every((word) => cells.some((cell) => (/^\d+$/.test(word) ? cell === word : cell.includes(word))));
      row.hidden = !keep;
      count += keep;
    }
    shown.textContent = words.length ? `${count} of ${rows.length} rows` : "";
  });
}
