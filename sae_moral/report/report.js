"use strict";
// Without this script the page is complete; it opens what a link leads to or a printer needs, sorts and filters tables,
// and saves the rows that are shown.
const unfold = () => document.getElementById(location.hash.slice(1))?.closest("details.part")?.setAttribute("open", "");
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => document.querySelectorAll("details.part, details.more").forEach((part) => { part.open = true; }));
unfold();
const number = (text) => text.replace(/^−/, "-").replace(/(?<=\d),(?=\d{3})/g, "");
const isNumber = (text) => /^-?\d+(\.\d+)?(e[-+]?\d+)?$/i.test(number(text));
const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const save = (text, name, type) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
for (const details of document.querySelectorAll("details.full:has(.filter)")) {
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
  // As text, rows in their order and without those that are filtered out; "–" stands for no value.
  const kept = () => Array.from(body.rows).filter((row) => !row.hidden)
    .map((row) => Array.from(row.cells, (cell) => cell.textContent.trim()))
    .map((row) => row.map((text) => (text === "–" ? "" : isNumber(text) ? number(text) : text)));
  const names = headers.map((header) => header.textContent.trim());
  const csv = () => [names, ...kept()].map((row) => row.map(quoted).join(",") + "\n").join("");
  const json = () => JSON.stringify(kept().map((row) => Object.fromEntries(
    row.map((text, i) => [names[i], text === "" ? null : isNumber(text) ? Number(text) : text]))), null, 1);
  const file = details.querySelector("summary").textContent.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const actions = {
    "Copy": () => navigator.clipboard.writeText(csv()).then(
      () => { shown.textContent = "copied as CSV"; }, () => { shown.textContent = "the browser refused to copy"; }),
    "CSV": () => save(csv(), `${file}.csv`, "text/csv"),
    "JSON": () => save(json(), `${file}.json`, "application/json"),
  };
  for (const [name, act] of Object.entries(actions)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "save";
    button.textContent = name;
    button.setAttribute("aria-label", name === "Copy" ? "Copy the rows shown" : `Save the rows shown as ${name}`);
    button.addEventListener("click", act);
    shown.before(button, " ");
  }
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
