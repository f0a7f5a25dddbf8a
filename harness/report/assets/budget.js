// The budget: a slider and a number in step, of every kind that the run has numbers for; and what it affords.
const budget = { unit: data.units?.[0], value: data.units?.[0]?.start };
const atBudget = []; // what to do when it moves

// N = the largest with fixed + N x each within (1 + tolerance) x budget, as harness/cost/cost_model.py; a cost that does
// not grow affords any N
function afford(pipeline) {
  const cost = pipeline.costs[budget.unit.id];
  const limit = budget.value * (1 + pipeline.tolerance);
  if (cost.each > 0) return Math.floor((limit - cost.fixed) / cost.each + 1e-9);
  return cost.fixed <= limit * (1 + 1e-12) ? Infinity : 0;
}

function row(pipeline) {
  const cost = pipeline.costs[budget.unit.id];
  if (!cost) return { pipeline, n: 0, why: "not measured" };
  const { overall, geneval_overall: geneval } = pipeline.tasks;
  const affordable = afford(pipeline);
  const n = Math.min(affordable, overall.accuracy.length);
  if (n < 1) return { pipeline, n: 0, why: "not even one" };
  return {
    pipeline, n, more: affordable > n, cost: cost.fixed + n * cost.each,
    accuracy: overall.accuracy[n - 1], low: overall.low[n - 1], high: overall.high[n - 1],
    geneval: geneval.accuracy[n - 1],
  };
}

function line(found, best) {
  const { pipeline, n } = found;
  if (!n) return make("tr", {}, ...[pipeline.name, found.why, "", "", ""].map((cell) => make("td", {}, cell)));
  const interval = found.low === null ? "" : ` [${text(found.low, 1)}, ${text(found.high, 1)}]`;
  const cost = budget.unit.id === "ms" ? text(found.cost, 1) : short(found.cost);
  const open = (words) => button(words, `Candidates of ${pipeline.name}, best of ${n}`, () => explore({ pool: pipeline.pool, verifier: pipeline.verifier, n }));
  const cells = [pipeline.name, open(`${n}${found.more ? "+" : ""}`), cost, open(text(found.accuracy, 1) + interval), text(found.geneval, 1)];
  const made = make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
  if (Number(found.accuracy.toFixed(1)) === best) made.cells[3].style.fontWeight = "700";
  return made;
}

function showBudget() {
  const rows = data.pipelines.map(row);
  const words = `${short(budget.value)} ${budget.unit.name}`;
  by("budget-value").textContent = words;
  by("slider").setAttribute("aria-valuetext", words);
  const best = Math.max(...rows.filter((r) => r.n).map((r) => Number(r.accuracy.toFixed(1))));
  fill(by("budget-table"), rows.map((found) => line(found, best)));
  const shown = rows.filter((r) => r.n);
  Plotly.update(by("over-time"),
    { x: [shown.map((r) => r.cost)], y: [shown.map((r) => r.accuracy)] },
    { shapes: [{ type: "line", x0: budget.value, x1: budget.value, yref: "paper", y0: 0, y1: 1, line: { dash: "dash", width: 1, color: "#57606a" } }] },
    [data.pipelines.length]);
  for (const act of atBudget) act(rows, words);
}

function chooseUnit() {
  budget.unit = data.units.find(({ id }) => id === by("budget-unit").value);
  const { low, high, step, start, name, what, title, id } = budget.unit;
  Object.assign(by("slider"), { min: low, max: high, step });
  by("budget-what").textContent = `${what[0].toUpperCase()}${what.slice(1)} budget: `;
  by("budget-times").hidden = id === "TFLOP"; // counted, on whatever device
  by("over-what").textContent = title;
  setHead(by("budget-table"), 2, `${what[0].toUpperCase()}${what.slice(1)} (${name})`);
  const at = data.pipelines.map(({ costs, tasks }) => tasks.overall.accuracy.map((_, i) => (costs[id] ? costs[id].fixed + (i + 1) * costs[id].each : null)));
  const hover = `N = %{customdata[0]}: %{y:.1f}%%{customdata[1]} in %{x:.4~g} ${name}<extra>%{fullData.name}</extra>`;
  Plotly.restyle("over-time", { x: at, hovertemplate: hover }, data.pipelines.map((_, i) => i));
  Plotly.relayout("over-time", { "xaxis.title.text": title });
  setBudget(start, by("slider"), by("budget-number"));
}

// a budget is valid if it is above zero; another is said to be wrong, and the last valid one stays
function setBudget(value, ...followers) {
  const valid = Number.isFinite(value) && value > 0;
  by("budget-number").setAttribute("aria-invalid", String(!valid));
  by("budget-error").textContent = valid ? "" : `Write a number of ${budget.unit.name} above zero.`;
  if (!valid) return;
  budget.value = value;
  for (const field of followers) field.value = short(value);
  showBudget();
}

function startBudget() {
  const [slider, number] = [by("slider"), by("budget-number")];
  slider.addEventListener("input", () => setBudget(Number(slider.value), number));
  number.addEventListener("input", () => setBudget(number.value.trim() === "" ? NaN : Number(number.value), slider));
  by("budget-unit").addEventListener("change", chooseUnit);
  by("over-time").on("plotly_click", ({ points: [point] }) => {
    const pipeline = data.pipelines[point.curveNumber];
    if (pipeline) explore({ pool: pipeline.pool, verifier: pipeline.verifier, n: point.customdata[0] });
  });
}
