"""The configurations of the paper's experiments, each with a made run: whether it gives its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhsbench.harness.config.run import load_config
from vhsbench.harness.report.derived import derive
from vhsbench.harness.store.tables import load_run

TABLES = {"table1": "budgets", "table5": "scoring", "table6": "generators", "table7": "drift", "fig5": "budgets",
          "fig6": "budgets"}  # fmt: skip


@pytest.mark.parametrize("size", ["", "nano-"])
@pytest.mark.parametrize("name", TABLES)
def test_an_experiment_gives_its_table(make_run, tmp_path, name, size):
    config = load_config(Path(size + name))
    entries = [e.model_dump() | {"pool": min(config.pool_of(e), 4)} for e in config.generators]
    run = make_run(
        tmp_path / "run", generators=entries, verifiers=[v.model_dump() for v in config.verifiers],
        budgets_ms=[200.0], gallery_prompts=0,
    )  # fmt: skip
    found = {table.name: table.rows for table in derive(load_run(run)).tables}
    rows = found[TABLES[name]]
    judged = {v.name for e in config.generators for v in config.verifiers_of(e)}
    assert judged <= set(rows["verifier"])
    assert rows.loc[rows["best_of_n"].notna(), "overall"].notna().all()
    if name == "table7":
        assert rows["drift"].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
        assert rows["delta"].notna().sum() == 3
    if name == "table6":
        assert rows[["generator", "steps"]].drop_duplicates().shape[0] == len(config.generators)
