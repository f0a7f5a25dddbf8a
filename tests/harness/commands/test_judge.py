"""`vhsbench judge`: a judge by its name, or as an entry, for a finished run."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.run import ConfigError
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep.run import local, run
from vhsbench.harness.sweep.verdicts import with_judges

SMALL = {"limit": 16, "seeds": "[0]", "pool": 2, "gallery_prompts": 0}


def test_a_finished_run_gets_other_judges(faults, tmp_path):
    out = run(faults.config(**SMALL), tmp_path / "r")
    before = faults.tables(out)
    entry = "{name: fake-judge, label: red}"
    for _ in range(2):  # the second time all is there
        done = CliRunner().invoke(
            app, ["judge", str(out), "--judge", "fake-judge", "--judge", entry, "--json"]
        )
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)
        assert [(row["judge"], row["candidates"]) for row in rows] == [
            ("fake-judge", 32),
            ("geneval", 32),
            ("red", 32),
        ]
        assert [row["right"] for row in rows] == [None, load_run(out).candidates["correct"].mean(), None]
        values = load_run(out).verdicts.groupby("judge")["value"].mean()
        assert [row["value"] for row in rows] == pytest.approx(
            values[["fake-judge", "geneval", "red"]].tolist()
        )
    assert faults.tables(out) == before
    said = CliRunner().invoke(app, ["judge", str(out), "--judge", "red"])
    assert isinstance(said.exception, ConfigError)
    assert "--judge: unknown judge 'red'" in str(said.exception).replace(", line 1, key 'name'", "")


def test_a_run_that_is_not_finished_is_refused(faults, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere is not a run directory: it has no run\.json"):
        with_judges(tmp_path / "nowhere", ["fake-judge"])

    def half(config, prompts, todo):
        yield from local(config, prompts, todo[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(faults.config(**SMALL), tmp_path / "r", engine=half)
    with pytest.raises(StoreError, match="is not finished; `vhsbench run` with it as --out resumes it"):
        with_judges(tmp_path / "r", ["fake-judge"])


def test_a_killed_judging_is_resumed_by_the_same_command(faults, tmp_path):
    out = run(faults.config(**SMALL), tmp_path / "r")

    def half(config, prompts, todo):
        yield from local(config, prompts, todo[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(with_judges(out, ["fake-judge"]), out, engine=half)
    seen = []

    def counted(config, prompts, todo):
        seen.extend(todo)
        return local(config, prompts, todo)

    run(with_judges(out, ["fake-judge"]), out, engine=counted)
    assert len(seen) == 1
    assert len(load_run(out).verdicts) == 2 * 16 * 2
