"""Costs of a run that is opened again: of one timing and one device, and none is lost."""

from __future__ import annotations

import pytest

import vhsbench.harness.sweep.run
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.run import run

MEASURE = vhsbench.harness.sweep.run._costs  # which the fixture `faults` takes away


def measured(device="cpu", keep=None):
    """Stands for the measuring of a pipeline: one row a stage that T(N) is of."""
    from vhsbench.harness.cost.measure import Measured, _row
    from vhsbench.harness.inference.route import ROUTES

    def measure(cell, *_):
        if keep is not None:
            keep.append((cell.verifier or "none", cell.timing.repeats))
        needs = "latents" if cell.verifier else None
        stages = [*ROUTES[needs].fixed, *ROUTES[needs].per_candidate]
        keys = [(stage, 1, 1) for stage in stages] + [("end_to_end", n, 1) for n in (1, 2)]
        rows = [_row(cell, cell.generator, 1, key, wall_ms=1.0, device=device) for key in keys]
        return Measured(rows, {"needs": needs})

    return measure


@pytest.fixture
def costs(monkeypatch):
    """Lets runs measure, but nothing real; returns what was measured."""
    kept = []
    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", MEASURE)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", measured(keep=kept))
    return kept


def test_costs_are_of_one_timing_and_measured_again_alone(runs, faults, tmp_path, costs):
    out = tmp_path / "r"
    run(faults.config(), out)
    assert costs == [("none", 15), ("fake-verifier", 15)]
    more = faults.config(timing={"repeats": 20})
    assert "differs in 'timing.repeats'" in runs.refused(more, out)
    run(more, out, redo=True, engine=lambda *_: pytest.fail("a shard was made again") if _[2] else iter(()))
    assert costs[2:] == [("none", 20), ("fake-verifier", 20)]
    assert load_run(out).info["cells"]["fake_steps=1_none"]["environment"] == 1


def test_costs_of_two_devices_never_stand_in_one_run(runs, faults, tmp_path, costs, monkeypatch):
    out = tmp_path / "r"
    first = measured(keep=costs)

    def killed(cell, *_):
        if cell.verifier:
            raise KeyboardInterrupt
        return first(cell)

    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", killed)
    monkeypatch.setattr(identity, "device_name", lambda _: "A100")
    with pytest.raises(KeyboardInterrupt):
        run(faults.config(), out)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", first)
    monkeypatch.setattr(identity, "device_name", lambda _: "H100")
    assert "1 of its 2 measured pipelines, first fake_none, were not made with" in runs.refused(
        faults.config(), out
    )
    assert "the device (A100 then, H100 now)" in runs.refused(faults.config(), out)
    run(faults.config(), out, redo=True)
    assert [name for name, _ in costs] == ["none", "none", "fake-verifier"]


def test_costs_that_are_lost_keep_a_run_from_being_complete(faults, tmp_path, costs, monkeypatch):
    out = tmp_path / "r"
    honest = vhsbench.harness.sweep.run._costs

    def losing(expected, store, found, journal):
        keys = honest(expected, store, found, journal)
        (out / "shards/costs/fake_none.parquet").unlink()
        return keys

    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", losing)
    with pytest.raises(StoreError, match=r"lacks 1 of its 2 shards of costs, first fake_none"):
        run(faults.config(), out)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", honest)
    run(faults.config(), out)
    assert set(load_run(out).costs["verifier"]) == {"", "fake-verifier"}
