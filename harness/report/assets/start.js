function showTask() {
  Plotly.restyle("by-n", { y: data.byTask[by("task").value] });
}

if (by("slider")) {
  startBudget();
  if (by("d-table")) startDifferences();
  chooseUnit();
}
by("task")?.addEventListener("change", showTask);
