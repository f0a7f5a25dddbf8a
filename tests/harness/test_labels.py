"""Verifiers under labels, from a run's configuration to its tables: nano with three, one of them twice."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from rich.console import Console

from vhsbench.harness.commands.listing import show_summary
from vhsbench.harness.config.run import parse
from vhsbench.harness.regress.accept import accept
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.points import PointError, points
from vhsbench.harness.regress.run import compare_named
from vhsbench.harness.regress.sources import resolve
from vhsbench.harness.report.build import build
from vhsbench.harness.report.derived import derive
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.run import run
from vhsbench.harness.sweep.status import status

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


def test_the_report_names_both_in_colours_of_their_own(finished, undrawn):
    with undrawn():
        summary = build(finished)
    looks = derive(load_run(finished)).looks
    assert (
        len({looks[label].color for label in LABELS}) == len({looks[label].marker for label in LABELS}) == 3
    )
    page = (finished / "report.html").read_text()
    assert "<dd>VHS, latents, vhs@again</dd>" in page
    auc = {row["verifier"]: row["auc"] for row in json.loads(json.dumps(summary))["auc"]}
    assert sorted(auc) == LABELS
    assert auc["vhs"] == auc["vhs@again"]
    said = Console(file=io.StringIO(), width=200)
    show_summary(summary, said)
    assert all(f"AUC of {label}: " in said.file.getvalue() for label in LABELS)
    going = status(finished)
    assert going["state"] == "complete"
    assert all(phase["done"] == phase["of"] for phase in going["phases"])


def test_the_gate_compares_two_labels_of_one_run(finished):
    """At a budget too, each with the costs of its own label."""
    tflop = derive(load_run(finished)).models["tflop"]["nano", 1, "vhs"].predict(2)
    gate = GateConfig(best_of_n=(3,), budgets=(f"{tflop:.9f}TFLOP",), costs=str(finished), timing_repeats=0)
    found = compare_named(f"{finished}:vhs", f"{finished}:vhs@again", gate=gate)
    assert found.comparison.identical
    assert [(p.n_baseline, p.n_candidate) for p in found.comparison.points] == [(3, 3), (2, 2)]
    with pytest.raises(
        PointError, match=r"have no 'mllm-clip' on 'nano' \(1 steps\); they have latents, none, vhs, vhs@"
    ):
        points(gate, ("vhs", "mllm-clip"), "nano", 1)
    (_, both) = points(
        gate, ("vhs", "mllm-ae"), "nano", 1
    )  # a checkpoint of the kind has the costs of its label
    assert both.n_candidate >= 1


def test_an_accepted_run_is_the_verifier_that_it_was_accepted_for(finished, tmp_path):
    entry = accept(f"{finished}:vhs@again", "main", tmp_path / "baselines")
    assert entry["verifier"] == "vhs@again"
    source = resolve("main", tmp_path / "baselines")
    assert (source.verifier, source.kind) == ("vhs@again", "vhs")
    assert source.run is not None
