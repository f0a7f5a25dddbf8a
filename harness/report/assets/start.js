function showTask() {
  Plotly.restyle("by-n", { y: data.byTask[by("task").value] });
}

for (const [id, figure] of Object.entries(data.figures)) {
  Plotly.newPlot(id, figure.data, figure.layout, { responsive: true, displaylogo: false });
}
if (by("slider")) {
  startBudget();
  if (by("d-table")) startDifferences();
  chooseUnit();
}
by("task")?.addEventListener("change", showTask);
