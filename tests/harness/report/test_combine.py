from __future__ import annotations

import hashlib
import json

import pandas as pd
import pytest

from vhsbench.harness.report.build import build
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.page import write_page
from vhsbench.harness.store.tables import StoreError
from vhsbench.harness.sweep.protocol import of_run


def test_seeds_of_two_runs_are_one_run(make_run, tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    both = load_runs([a, b])
    assert sorted(both.candidates["seed"].unique()) == [0, 1]
    assert len(both.candidates) == 2 * len(load_runs([a]).candidates)
    assert both.info["config"]["seeds"] == [0, 1]
    # a pipeline's repeats are of one run
    assert len(both.costs) == len(load_runs([a]).costs)
    assert not derive(both).curves.empty


def test_generators_of_two_runs_are_one_run(make_run, tmp_path):
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", generators=[{"name": "nano", "label": "other"}])
    derived = derive(load_runs([a, b]))
    assert {g for g, _ in derived.pools} == {"nano", "other"}
    assert "generators" in {t.name for t in derived.tables}


def test_pictures_of_both_are_found(make_run, tmp_path, read_data):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    write_page(derive(load_runs([a, b])), tmp_path / "report.html")
    data = read_data(tmp_path / "report.html")
    (pool,) = data["pools"]
    pictured = [cell for cell, place in pool["pictures"].items() if place >= 0]
    assert len(pictured) == 2 * 6 * 8
    seeds = [pool["rows"][int(cell) // 8][1] for cell in pictured]
    assert (seeds.count(0), seeds.count(1)) == (6 * 8, 6 * 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [0]}, "both hold the candidates of 'nano' (1 steps) of seed 0"),
        ({"seeds": [1], "pool": 4}, "'pool' is 8 in one and 4 in the other"),
        ({"seeds": [1], "marked": "?"}, "their prompts differ"),
        ({"seeds": [1], "tolerance": 0.1}, "'tolerance' is 0.05 in one and 0.1 in the other"),
        ({"seeds": [1], "generators": [{"name": "nano", "pool": 3}]}, "'nano' has other settings"),
        ({"seeds": [1], "verifiers": [{"name": "vhs"}]}, "'mllm-ae' scored 192 of the 384 candidates"),
    ],
)
def test_what_may_not_be_combined_is_refused_in_one_sentence(make_run, tmp_path, made, changes, said):
    other = make_run(tmp_path / "other", **changes)
    with pytest.raises(StoreError) as error:
        load_runs([made, other])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_another_checkpoint_is_refused(make_run, tmp_path, made):
    other = make_run(tmp_path / "other", seeds=[1])
    text = (other / "run.json").read_text().replace("sha of vhs", "sha of another")
    (other / "run.json").write_text(text)
    with pytest.raises(StoreError, match="the verifier 'vhs' is another checkpoint"):
        load_runs([made, other])


@pytest.mark.parametrize(
    ("key", "mine", "its", "said"),
    [
        ("detector", {"name": "shapes"}, {"name": "mask2former"},
         "judged by different detectors ('name' is shapes in one and mask2former in the other)"),
        ("detector", {"name": "m", "checkpoint_sha256": "aa"}, {"name": "m", "checkpoint_sha256": "bb"},
         "judged by different detectors ('checkpoint_sha256' is aa in one and bb in the other)"),
        ("generators", {"nano": "o/n@1"}, {"nano": "o/n@2"},
         "the generator 'nano' is of another revision (o/n@1 in one and o/n@2 in the other)"),
    ],
)  # fmt: skip
def test_other_detectors_and_other_revisions_are_refused(make_run, tmp_path, key, mine, its, said):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    note(a, **{key: mine})
    note(b, **{key: its})
    with pytest.raises(StoreError) as error:
        load_runs([a, b])
    assert said in str(error.value)
    note(b, **{key: mine})
    assert len(load_runs([a, b]).info["combined"]) == 2


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        (
            "nano",
            {"generator": {"key": "nano", "weights": {"sha256": "b"}}},
            "the weights of generator 'nano'",
        ),
        ("nano", {"verifiers": {"vhs": {"checkpoint": "b"}}}, "the checkpoint of verifier 'vhs'"),
        (
            "other",
            {"detector": {"name": "m", "checkpoint": {"sha256": "b"}}},
            "the checkpoint of the detector",
        ),
        ("other", {"results": 2}, "the results of this package (1 then, 2 now)"),
    ],
)
def test_runs_of_other_identities_are_refused(make_run, tmp_path, key, change, said):
    made = {
        "results": 1,
        "generator": {"key": "nano", "weights": {"sha256": "a"}},
        "verifiers": {"vhs": {"checkpoint": "a"}},
        "detector": {"name": "m", "checkpoint": {"sha256": "a"}},
        "batch_size": 1,
    }
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    note(a, identity={"generators": {"nano": made}})
    note(b, identity={"generators": {key: made | change}})
    with pytest.raises(StoreError, match="they were made of other models") as error:
        load_runs([a, b])
    assert str(error.value).endswith(f"models: {said}.")
    clip = made["verifiers"] | {"clip": {"checkpoint": "b", "dtype": "bfloat16"}}
    note(b, identity={"generators": {key: made | {"batch_size": 2, "verifiers": clip}}})
    both = load_runs([a, b])
    assert len(both.info["combined"]) == 2
    found = of_run(both)
    assert found.seeds == [0, 1]
    assert found.precision == {"generators": [], "verifiers": ["bfloat16"]}  # of the verifiers of both
    note(b, identity={})
    assert of_run(load_runs([a, b])).unknown == ["detector", "precision", "versions"]


def note(run, **known):
    """Put something into a finished run's run.json."""
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | known))


def test_a_pipeline_that_ran_out_of_memory_does_not_keep_runs_apart(make_run, tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    whole = load_runs([a, b]).costs
    for run, lost in ((a, "mllm-clip"), (b, "mllm-clip"), (b, "vhs")):
        fail(run, lost)
    costs = load_runs([a, b]).costs
    kept = costs[costs["verifier"] != "mllm-clip"]
    pd.testing.assert_frame_equal(
        kept.reset_index(drop=True), whole[whole["verifier"] != "mllm-clip"].reset_index(drop=True)
    )
    assert costs.loc[costs["verifier"] == "mllm-clip", "status"].tolist() == ["oom"]
    fail(a, "vhs")
    assert set(load_runs([a, b]).costs.loc[lambda c: c["status"] == "oom", "verifier"]) == {
        "vhs",
        "mllm-clip",
    }
    assert not derive(load_runs([a, b])).curves.empty


def test_what_one_run_could_not_measure_counts_in_the_other(make_run, tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    fail(a, "vhs")
    costs = load_runs([a, b]).costs
    assert set(costs["status"]) == {"ok"}
    assert len(costs) == len(load_runs([b]).costs)


def fail(run, verifier):
    """Have one pipeline's process end for want of memory before it knew its device."""
    costs = pd.read_parquet(run / "costs.parquet")
    row = costs[costs["verifier"] == verifier].iloc[[0]]
    row = row.assign(wall_ms=None, tflop=None, device=None, stage="end_to_end", status="oom")
    rows = pd.concat([costs[costs["verifier"] != verifier], row]).astype(costs.dtypes)
    rows.to_parquet(run / "costs.parquet")
    digest = hashlib.sha256((run / "costs.parquet").read_bytes()).hexdigest()
    note(run, digests=json.loads((run / "run.json").read_text())["digests"] | {"costs.parquet": digest})


def test_times_of_two_machines_never_mix(make_run, tmp_path, made):
    other = make_run(tmp_path / "other", seeds=[1], device="faster")
    assert set(load_runs([made, other]).costs["device"]) == {"test"}
    apart = make_run(
        tmp_path / "apart", seeds=[1], device="faster", generators=[{"name": "nano", "label": "b"}]
    )
    with pytest.raises(StoreError, match="no single device measured the cost of every pipeline"):
        load_runs([made, apart])


def test_the_same_run_twice_and_none_at_all(made):
    with pytest.raises(StoreError, match="is named twice"):
        load_runs([made, made])
    with pytest.raises(StoreError, match="no run to report on"):
        load_runs([])


def test_several_runs_need_a_place(made, make_run, tmp_path):
    other = make_run(tmp_path / "other", seeds=[1])
    with pytest.raises(StoreError, match="say with --out"):
        build(made, other)


def test_one_run_is_itself(made, loaded):
    pd.testing.assert_frame_equal(load_runs([made]).candidates, loaded.candidates)
