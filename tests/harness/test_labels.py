"""Verifiers under labels, from a run's configuration to its tables: nano with three, one of them twice."""

from __future__ import annotations

import pandas as pd
import pytest

from vhsbench.harness.config.run import parse
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.run import run

CONFIG = """
name: labels
generators: [{name: nano}]
verifiers: [{name: vhs}, {name: mllm-ae, label: latents}, {name: vhs, label: vhs@again}]
prompts: {source: nano, split: validation, limit: 4}
pool: 3
gallery_prompts: 2
threads: 1
timing: {preset: smoke, best_of_n: [1, 2]}
"""
LABELS = ["latents", "vhs", "vhs@again"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(parse(CONFIG, "labels.yaml"), tmp_path_factory.mktemp("labels") / "run")


def test_two_copies_of_a_verifier_score_alike_and_are_measured_apart(finished):
    found = load_run(finished)
    scores = {label: rows.drop(columns="verifier") for label, rows in found.scores.groupby("verifier")}
    assert sorted(scores) == LABELS
    pd.testing.assert_frame_equal(
        scores["vhs"].reset_index(drop=True), scores["vhs@again"].reset_index(drop=True)
    )
    costs = dict(list(found.costs.groupby("verifier")))
    assert sorted(costs) == ["", *LABELS]
    one, two = costs["vhs"], costs["vhs@again"]
    assert set(one["stage"]) == set(two["stage"]) >= {"head", "tail", "score", "end_to_end"}
    assert set(costs["latents"]["stage"]) >= {"score", "end_to_end"}
    assert one["wall_ms"].tolist() != two["wall_ms"].tolist()
    assert one["tflop"].max() == two["tflop"].max()
    info = found.info
    assert info["needs"] == {"vhs": "hidden", "latents": "latents", "vhs@again": "hidden"}
    assert info["checkpoints"]["vhs"] == info["checkpoints"]["vhs@again"] != info["checkpoints"]["latents"]
    assert set(info["cells"]) == {f"nano_steps=1_{label}" for label in ("none", *LABELS)}
    assert sorted(f.stem for f in (finished / "shards/costs").glob("[!.]*.parquet")) == sorted(
        f"nano_{label}" for label in ("none", *LABELS)
    )
