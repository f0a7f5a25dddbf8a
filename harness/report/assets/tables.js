// Tables: sorted by a click on a heading, filtered by words where they are long, downloaded as they are shown.
const LONG = 8; // rows
const NUMBER = /^([+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)[+%]?(?:\s*[[±(].*)?$/i;
const INTERVAL = /^([+-]?[\d.]+)\+?\s*\[([+-]?[\d.]+), ([+-]?[\d.]+)\]$/;
const states = new WeakMap(); // by table: rows in their first order, the sorted column, its direction, words
const said = (cell) => cell.textContent.trim().replaceAll("\u2212", "-");

// the number that a cell begins with, as 84.4 of "84.4 [81.6, 86.5]" and 8 of "8+"; NaN where it has another text
function numberOf(cell) {
  const found = NUMBER.exec(said(cell));
  return found ? Number(found[1].replaceAll(",", "")) : NaN;
}

function compareCells(a, b) {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return said(a).localeCompare(said(b), undefined, { numeric: true, sensitivity: "base" });
}

// numbers before words before empty cells: only cells of the first kind are turned round
const kindOf = (cell) => (said(cell) === "" ? 2 : Number.isNaN(numberOf(cell)) ? 1 : 0);

function arrange(table) {
  const state = states.get(table);
  const body = table.tBodies[0];
  const rows = [...state.rows];
  if (state.column !== null) {
    const cells = rows.map((row) => row.cells[state.column]);
    const first = Math.min(...cells.map(kindOf));
    rows.sort((one, other) => {
      const [a, b] = [one.cells[state.column], other.cells[state.column]];
      const [kind, its] = [kindOf(a), kindOf(b)];
      if (kind !== its) return kind - its;
      return (kind === first ? state.direction : 1) * compareCells(a, b);
    });
  }
  body.replaceChildren(...rows);
  table.classList.toggle("sorted", state.column !== null);
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (!head.hasAttribute("data-plain")) {
      const order = i !== state.column ? "none" : state.direction > 0 ? "ascending" : "descending";
      head.setAttribute("aria-sort", order);
    }
  });
  const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const line = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => line.includes(word));
    shown += !row.hidden;
  }
  state.count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  state.filter.hidden = rows.length < LONG;
}

// a heading is clicked: ascending, then descending, then the first order again
function sortBy(table, column) {
  const state = states.get(table);
  if (state.column !== column) [state.column, state.direction] = [column, 1];
  else if (state.direction > 0) state.direction = -1;
  else state.column = null;
  arrange(table);
}

// what a spreadsheet would take for a formula is guarded, as in the files of tables/
function csvCell(cell) {
  const guarded = /^[=+\-@\t\r]/.test(cell) && Number.isNaN(Number(cell)) ? `'${cell}` : cell;
  return /[",\n\r]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}

// the rows as they are shown, an interval in columns of its own
function csv(table) {
  const heads = [...table.tHead.rows[0].cells].map(said);
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(said));
  const wide = heads.map((_, i) => rows.some((row) => INTERVAL.test(row[i])));
  const split = (cell) => {
    const found = INTERVAL.exec(cell);
    return found ? found.slice(1) : [cell, "", ""];
  };
  const lines = [heads.flatMap((head, i) => (wide[i] ? [head, `${head} low`, `${head} high`] : [head]))];
  for (const row of rows) lines.push(row.flatMap((cell, i) => (wide[i] ? split(cell) : [cell])));
  return lines.map((line) => line.map(csvCell).join(",") + "\n").join("");
}

function enhance(table, place) {
  const region = table.closest(".scroll");
  const title = region.getAttribute("aria-label");
  const words = make("input", { id: `words-${place}`, type: "search", placeholder: "words of a row", autocomplete: "off", "aria-label": `Filter: ${title}` });
  const count = make("output", { "aria-live": "polite" });
  const save = button("Download CSV", `Download as CSV: ${title}`, () =>
    download(`${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.csv`, csv(table), "text/csv"));
  const filter = make("label", {}, "Rows with ", words);
  region.before(make("p", { class: "tools" }, filter, " ", count, " ", save));
  states.set(table, { rows: [...table.tBodies[0].rows], column: null, direction: 1, words: "", count, filter });
  words.addEventListener("input", () => {
    states.get(table).words = words.value;
    arrange(table);
  });
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.hasAttribute("data-plain")) return;
    const press = make("button", { type: "button", class: "sort" }, ...head.childNodes);
    press.addEventListener("click", () => sortBy(table, column));
    head.replaceChildren(press);
  });
  arrange(table);
}

// put new rows into a table, in the order that its reader chose
function fill(table, rows) {
  states.get(table).rows = rows;
  arrange(table);
}

function setHead(table, column, words) {
  (table.tHead.rows[0].cells[column].querySelector("button") ?? table.tHead.rows[0].cells[column]).textContent = words;
}

document.querySelectorAll(".scroll > table").forEach(enhance);
