"""The baseline that ships: the bundled VHS, accepted on a small frozen pool of nano."""

from __future__ import annotations

from pathlib import Path

import torch

from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.regress import baselines
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.run import regress
from vhsbench.harness.regress.sources import resolve

FOLDER = Path(__file__).parents[2] / "results" / "baselines"


def test_it_is_whole_small_and_logged():
    (entry,) = baselines.listing(FOLDER)
    assert (entry["name"], entry["verifier"]) == ("nano", "vhs")
    assert baselines.history(FOLDER)[-1]["sha256"] == entry["sha256"]
    files = [f for folder in (FOLDER, FOLDER.parent / "pools") for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 6e6


def test_its_pool_is_of_the_bundled_generator(nano):
    pool = baselines.pool_of("nano", FOLDER)
    texts, hidden = next(pool.batches("hidden", 6))
    noise = nano.noise([candidate_seed(0, int(r["prompt_id"]), int(r["index"])) for _, r in
                        pool.candidates.head(8).iterrows()])  # fmt: skip
    again = nano.head(nano.encode(texts[:8]), noise, 6).features
    torch.testing.assert_close(again, hidden[:8], atol=0.02, rtol=0.01)


def test_the_bundled_vhs_is_exactly_as_good_as_accepted():
    gate = GateConfig(bootstrap=200, permutations=999, auc_permutations=199, timing_repeats=0)
    pool = baselines.pool_of("nano", FOLDER)
    found = regress(resolve("nano", FOLDER), resolve("vhs"), pool, gate)
    assert found.verdict.outcome == "pass"
    assert found.comparison.identical
    assert {(d.difference, d.low, d.high) for d in found.comparison.differences} == {(0.0, 0.0, 0.0)}
    assert found.comparison.changed == []
