// Which prompts decide the difference of two pipelines at the budget, those that favour the better one first.
const PICKED = 300; // rows; the rest are said to be left out

const known = new Map();
let drawn = "";

// the expected accuracy of each prompt, its seeds averaged
function byPrompt({ pool: place, verifier }, n) {
  const key = JSON.stringify([place, verifier, n]);
  if (!known.has(key)) known.set(key, averaged(data.pools[place], verifier, n));
  return known.get(key);
}

function averaged(pool, verifier, n) {
  const found = new Map();
  pool.rows.forEach(([prompt], row) => {
    const entry = found.get(prompt) ?? { sum: 0, seeds: 0, row };
    entry.sum += expectedOf(pool, verifier, row, n);
    entry.seeds += 1;
    if (!hasPicture(pool, entry.row) && hasPicture(pool, row)) entry.row = row;
    found.set(prompt, entry);
  });
  return found;
}

function pairs(a, b) {
  const [first, second] = [byPrompt(a.pipeline, a.n), byPrompt(b.pipeline, b.n)];
  const common = [...first.keys()].filter((prompt) => second.has(prompt));
  return common.map((prompt) => {
    const [one, other] = [first.get(prompt), second.get(prompt)];
    const [x, y] = [one.sum / one.seeds, other.sum / other.seeds];
    return { prompt, x, y, points: (100 * (x - y)) / common.length, rows: [one.row, other.row] };
  });
}

function pickCell({ pipeline, n }, row, prompt) {
  const pool = data.pools[pipeline.pool];
  const cell = pickOf(pool, pipeline.verifier, row, n);
  const right = isRight(pool, cell);
  const shown = picture(pool, cell, `${pipeline.name}: ${prompt}`);
  return make("td", { class: right ? "right" : "wrong" }, shown ?? "", " ", mark(right));
}

function pairLine(found, sides, total) {
  const { prompt, tag } = data.prompts[found.prompt];
  const open = (value, { pipeline, n }) => button(text(100 * value, 1), `Candidates of ${pipeline.name} for this prompt`,
    () => explore({ pool: pipeline.pool, verifier: pipeline.verifier, n, words: prompt }));
  const share = Math.abs(total) < 0.05 ? "" : text((100 * found.points) / total, 1);
  const cells = [prompt, taskName(tag), open(found.x, sides[0]), open(found.y, sides[1]), (found.points < 0 ? "" : "+") + text(found.points, 2), share];
  return make("tr", {}, ...cells.map((cell, i) => make("td", i ? {} : { class: "words" }, cell)),
    ...sides.map((side, i) => pickCell(side, found.rows[i], prompt)));
}

function summary(found, shown, total, [a, b]) {
  const size = (sign) => found.filter(({ points }) => Math.sign(points) === sign && Math.abs(points) > 1e-9).length;
  const [up, down] = [size(1), size(-1)];
  const words = [
    `${a.pipeline.name} (best of ${a.n}) less ${b.pipeline.name} (best of ${b.n}): ${(total < 0 ? "" : "+") + text(total, 1)} points over ${found.length} prompts.`,
    `${up} favour the first, ${down} the second, ${found.length - up - down} neither.`,
  ];
  const winning = shown.filter(({ points }) => Math.sign(points) === Math.sign(total));
  let sum = 0;
  const half = winning.findIndex(({ points }) => (sum += points, Math.abs(sum) >= Math.abs(total) / 2));
  if (half >= 0 && Math.abs(total) >= 0.05) words.push(`The ${half + 1} at the top make half of the difference.`);
  if (shown.length > PICKED) words.push(`The table has the ${PICKED} that differ most.`);
  return words.join(" ");
}

function showDifferences(rows, words) {
  const sides = [rows[Number(by("d-first").value)], rows[Number(by("d-second").value)]];
  by("d-budget").textContent = words;
  const key = JSON.stringify(sides.map(({ pipeline, n }) => [pipeline.name, n]));
  if (key === drawn) return; // the slider moved, but no N
  drawn = key;
  const none = sides.find(({ n }) => !n);
  const same = sides[0] === sides[1];
  if (none || same) {
    by("d-said").textContent = same ? "Choose two pipelines." : `${none.pipeline.name}: ${none.why} at this budget.`;
    fill(by("d-table"), []);
    return;
  }
  const found = pairs(...sides);
  const total = found.reduce((sum, { points }) => sum + points, 0);
  const sign = total < 0 ? -1 : 1;
  const shown = found.filter(({ points }) => Math.abs(points) > 1e-9).sort((a, b) => sign * (b.points - a.points));
  const most = shown.length > PICKED
    ? new Set([...shown].sort((a, b) => Math.abs(b.points) - Math.abs(a.points)).slice(0, PICKED)) : null;
  by("d-said").textContent = found.length ? summary(found, shown, total, sides) : "They have no prompt in common.";
  const table = by("d-table");
  sides.forEach(({ pipeline }, i) => {
    setHead(table, 2 + i, `${pipeline.name} %`);
    setHead(table, 6 + i, `${pipeline.name} picks`);
  });
  fill(table, shown.filter((entry) => !most || most.has(entry)).map((entry) => pairLine(entry, sides, total)));
}

function startDifferences() {
  const [first, second] = [by("d-first"), by("d-second")];
  for (const select of [first, second]) {
    data.pipelines.forEach(({ name }, i) => select.append(make("option", { value: i }, name)));
  }
  // the best at the budget and the next
  const rows = data.pipelines.map(row);
  const order = rows.map((_, i) => i).sort((a, b) => (rows[b].accuracy ?? -1) - (rows[a].accuracy ?? -1));
  [first.value, second.value] = order;
  const again = () => showDifferences(data.pipelines.map(row), `${short(budget.value)} ${budget.unit.name}`);
  for (const select of [first, second]) select.addEventListener("change", again);
  atBudget.push(showDifferences);
}
