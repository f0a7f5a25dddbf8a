"""Costs of a run that is opened again: of one timing and one device, and none is lost."""

from __future__ import annotations

import pytest

import vhsbench.harness.sweep.run
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.costs import measure_again
from vhsbench.harness.sweep.run import run

MEASURE = vhsbench.harness.sweep.run.measure_costs  # which the fixture `faults` takes away


def measured(device="cpu", keep=None):
    """Stands for the measuring of pipelines: one row a stage that T(N) is of."""
    from vhsbench.harness.cost.rounds import Measured, row
    from vhsbench.harness.inference.route import ROUTES

    def measure(cell):
        assert cell.metadata["prompt"] == cell.prompt
        if keep is not None:
            keep.append((cell.verifier or "none", cell.timing.repeats))
        needs = "latents" if cell.verifier else None
        stages = [*ROUTES[needs].fixed, *ROUTES[needs].per_candidate]
        keys = [(stage, 1, 1) for stage in stages] + [("end_to_end", n, 1) for n in (1, 2)]
        rows = [row(cell, cell.generator, 1, key, wall_ms=1.0, device=device) for key in keys]
        return Measured(rows, {"needs": needs})

    return lambda cells, *_: [measure(cell) for cell in cells]


@pytest.fixture
def costs(monkeypatch):
    """Lets runs measure, but nothing real; returns what was measured."""
    kept = []
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", MEASURE)
    monkeypatch.setattr(vhsbench.harness.sweep.costs, "measure_in_turns", measured(keep=kept))
    return kept


def test_costs_are_of_one_timing_and_measured_again_alone(runs, faults, tmp_path, costs):
    out = tmp_path / "r"
    run(faults.config(), out)
    assert costs == [("none", 15), ("fake-verifier", 15)]
    more = faults.config(timing={"repeats": 20})
    assert "differs in 'timing.repeats'" in runs.refused(more, out)
    run(more, out, redo=True, engine=lambda *_: pytest.fail("a shard was made again") if _[2] else iter(()))
    assert costs[2:] == [("none", 20), ("fake-verifier", 20)]
    logged = [line.split(" ", 2)[2] for line in (out / "run.log").read_text().splitlines()]
    assert [said for said in logged if said.startswith("costs of fake_steps=1_none: ")] == [
        "costs of fake_steps=1_none: 6 rows"
    ] * 2
    assert load_run(out).info["cells"]["fake_steps=1_none"]["environment"] == 1


def test_pipelines_are_measured_together_or_not_at_all(faults, tmp_path, costs, monkeypatch):
    out, both = tmp_path / "r", ["none", "fake-verifier"]
    monkeypatch.setattr(identity, "device_name", lambda _: "A100")
    run(faults.config(), out)
    monkeypatch.setattr(identity, "device_name", lambda _: "H100")
    run(faults.config(), out)  # whole: nothing is measured
    assert [name for name, _ in costs] == both
    (out / "costs.parquet").unlink()
    (out / "shards/costs/fake_none.parquet").unlink()
    run(faults.config(), out)  # one is lost: both are measured, side by side
    assert [name for name, _ in costs] == [*both, *both]


def test_a_finished_runs_costs_are_measured_again_and_its_candidates_stay(faults, tmp_path, costs):
    out = tmp_path / "r"
    run(faults.config(), out)
    kept = {name: (out / f"{name}.parquet").read_bytes() for name in ("candidates", "scores")}
    before = load_run(out)
    measure_again(out)
    after = load_run(out)
    assert costs == [("none", 15), ("fake-verifier", 15)] * 2
    assert {name: (out / f"{name}.parquet").read_bytes() for name in kept} == kept
    assert len(after.info["environments"]) == len(before.info["environments"]) + 1
    assert {cell["environment"] for cell in after.info["cells"].values()} == {1}
    assert after.info["timing"] == "unreliable"  # stages of 1 ms, and whole runs of 1 ms
    assert after.info["timing_reasons"][0].startswith("T(N) of fake with no verifier is +")
    run(faults.config(), out, engine=lambda *_: pytest.fail("an engine was asked"))  # still whole
    with pytest.raises(StoreError, match="run"):
        measure_again(tmp_path / "none")


def test_costs_that_are_lost_keep_a_run_from_being_complete(faults, tmp_path, costs, monkeypatch):
    out = tmp_path / "r"
    honest = vhsbench.harness.sweep.run.measure_costs

    def losing(expected, store, found, journal):
        keys = honest(expected, store, found, journal)
        (out / "shards/costs/fake_none.parquet").unlink()
        return keys

    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", losing)
    with pytest.raises(StoreError, match=r"lacks 1 of its 2 shards of costs, first fake_none"):
        run(faults.config(), out)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", honest)
    run(faults.config(), out)
    assert set(load_run(out).costs["verifier"]) == {"", "fake-verifier"}
