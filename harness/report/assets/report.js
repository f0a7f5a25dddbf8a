"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const text = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));

  for (const [id, figure] of Object.entries(data.figures)) {
    Plotly.newPlot(id, figure.data, figure.layout, { responsive: true, displaylogo: false });
  }

  // N = the largest with fixed + N x per candidate within (1 + tolerance) x budget, as harness/cost/cost_model.py
  const afford = (pipeline, budget) =>
    Math.floor((budget * (1 + data.tolerance) - pipeline.fixed_ms) / pipeline.per_candidate_ms + 1e-9);

  function row(pipeline, budget) {
    const overall = pipeline.tasks.overall;
    const geneval = pipeline.tasks.geneval_overall;
    const affordable = afford(pipeline, budget);
    const n = Math.min(affordable, overall.accuracy.length);
    if (n < 1) return { pipeline, n: 0 };
    return {
      pipeline, n, more: affordable > n, time: pipeline.fixed_ms + n * pipeline.per_candidate_ms,
      accuracy: overall.accuracy[n - 1], low: overall.low[n - 1], high: overall.high[n - 1],
      geneval: geneval.accuracy[n - 1],
    };
  }

  function showBudget() {
    const slider = by("slider");
    const budget = Number(slider.value);
    const said = `${Number(budget.toPrecision(4))} ms`;
    by("budget-value").textContent = said;
    slider.setAttribute("aria-valuetext", said);
    const rows = data.pipelines.map((pipeline) => row(pipeline, budget));
    const best = Math.max(...rows.filter((r) => r.n).map((r) => Number(r.accuracy.toFixed(1))));
    const body = by("budget-table").tBodies[0];
    body.replaceChildren(...rows.map((r) => {
      const line = document.createElement("tr");
      const interval = r.n && r.low !== null ? ` [${text(r.low, 1)}, ${text(r.high, 1)}]` : "";
      const cells = r.n
        ? [r.pipeline.name, `${r.n}${r.more ? "+" : ""}`, text(r.time, 1), text(r.accuracy, 1) + interval, text(r.geneval, 1)]
        : [r.pipeline.name, "not even one", "", "", ""];
      for (const cell of cells) line.appendChild(document.createElement("td")).textContent = cell;
      if (r.n && Number(r.accuracy.toFixed(1)) === best) line.children[3].style.fontWeight = "700";
      return line;
    }));
    const chart = by("over-time");
    const shown = rows.filter((r) => r.n);
    Plotly.update(chart,
      { x: [shown.map((r) => r.time)], y: [shown.map((r) => r.accuracy)] },
      { shapes: [{ type: "line", x0: budget, x1: budget, yref: "paper", y0: 0, y1: 1, line: { dash: "dash", width: 1, color: "#57606a" } }] },
      [data.figures["over-time"].data.length - 1]);
  }

  function showTask() {
    Plotly.restyle("by-n", { y: data.byTask[by("task").value] });
  }

  function filter() {
    const wanted = { task: by("f-task").value, verifier: by("f-verifier").value, verdict: by("f-verdict").value };
    const words = by("f-prompt").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    const cards = by("cards").children;
    for (const card of cards) {
      const fits = Object.entries(wanted).every(([key, value]) => !value || card.dataset[key] === value)
        && words.every((word) => card.dataset.prompt.includes(word));
      card.hidden = !fits;
      shown += fits;
    }
    by("f-count").textContent = `${shown} of ${cards.length} shown`;
  }

  if (by("slider")) {
    by("slider").addEventListener("input", showBudget);
    showBudget();
  }
  by("task").addEventListener("change", showTask);
  if (by("filters")) {
    by("filters").addEventListener("input", filter);
    by("filters").addEventListener("submit", (event) => event.preventDefault());
    filter();
  }
})();
