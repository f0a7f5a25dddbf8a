"""Runs that scored the same candidates with different verifiers, joined as if one run had scored them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.inference.route import advance_from
from vhsbench.harness.report.build import build
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import derive
from vhsbench.harness.store.keys import SCORE
from vhsbench.harness.store.tables import StoreError, load_run

CLIP, AE = {"name": "mllm-clip"}, {"name": "mllm-ae"}


@pytest.fixture(scope="module")
def apart(make_run, tmp_path_factory):
    """Runs of the same candidates: "old" with VHS and MLLM w/ CLIP, "new" with another VHS of the same label."""
    folder = tmp_path_factory.mktemp("apart")
    old = make_run(folder / "old", verifiers=[{"name": "vhs"}, CLIP], budgets_ms=[100, 200])
    new = make_run(folder / "new", verifiers=[AE, {"name": "vhs"}], budgets_ms=[100, 200], device="test")
    rewrite(new, "sha of vhs", "sha of a later vhs")
    slow = pd.read_parquet(new / "costs.parquet")
    replace_costs(new, slow.assign(wall_ms=2 * slow["wall_ms"]))  # a busy hour
    return old, new


def rewrite(run: Path, text: str, by: str) -> None:
    file = run / "run.json"
    file.write_text(file.read_text().replace(text, by))


def replace_costs(run: Path, costs: pd.DataFrame) -> None:
    costs.to_parquet(run / "costs.parquet")
    info = json.loads((run / "run.json").read_text())
    info["digests"]["costs.parquet"] = hashlib.sha256((run / "costs.parquet").read_bytes()).hexdigest()
    (run / "run.json").write_text(json.dumps(info))


def test_verifiers_of_two_runs_stand_side_by_side_as_of_one(make_run, tmp_path):
    whole = make_run(tmp_path / "whole", verifiers=[{"name": "vhs"}, CLIP, AE])
    parts = [
        make_run(tmp_path / "a", verifiers=[{"name": "vhs"}, CLIP]),
        make_run(tmp_path / "b", verifiers=[{"name": "vhs"}, AE]),
    ]
    scores = pd.read_parquet(whole / "scores.parquet")
    for part, run in zip(
        parts, map(load_run, parts), strict=True
    ):  # the made scores are of one random stream
        mine = run.scores[SCORE].merge(scores, on=SCORE)[list(scores)]
        mine.to_parquet(part / "scores.parquet")
        digest = hashlib.sha256((part / "scores.parquet").read_bytes()).hexdigest()
        rewrite(part, run.info["digests"]["scores.parquet"], digest)
    one, joined = derive(load_run(whole)), derive(load_runs(parts))
    assert list(joined.config.kinds) == ["vhs", "mllm-clip", "mllm-ae"]
    pd.testing.assert_frame_equal(joined.run.candidates, one.run.candidates)
    pd.testing.assert_frame_equal(joined.curves, one.curves)
    pd.testing.assert_frame_equal(joined.auc, one.auc)
    assert joined.looks == one.looks
    assert joined.models == one.models
    shown = joined.tables[0].rows.drop(columns="times")
    pd.testing.assert_frame_equal(shown, one.tables[0].rows)
    pd.testing.assert_frame_equal(joined.headline.drop(columns="times"), one.headline)
    assert joined.times == "times: of a and b, not measured side by side"


def test_one_label_of_two_checkpoints_is_two_verifiers(apart):
    old, new = apart
    joined = derive(load_runs([old, new]))
    assert joined.config.kinds == {
        "vhs@old": "vhs", "mllm-clip": "mllm-clip", "mllm-ae": "mllm-ae", "vhs@new": "vhs",
    }  # fmt: skip
    assert joined.run.info["checkpoints"]["vhs@new"] == "sha of a later vhs"
    for name, run in (("vhs@old", old), ("vhs@new", new)):
        scores = load_run(run).scores.query("verifier == 'vhs'")["score"].tolist()
        assert joined.run.scores[joined.run.scores["verifier"] == name]["score"].tolist() == scores
    said = [note for note in joined.notes if note.startswith("'vhs' is a different verifier in")]
    assert said == [
        f"'vhs' is a different verifier in {old} and {new}: shown as vhs@old and vhs@new; a 'label' in a run's "
        "configuration gives a verifier another name."
    ]
    assert len({(look.color, look.marker) for look in (joined.looks[v] for v in joined.config.kinds)}) == 4
    assert {about.partition(", ")[2] for about in joined.headline["about"]} == {
        "vhs@old against MLLM w/ CLIP", "vhs@new against MLLM w/ CLIP",
    }  # fmt: skip


def test_each_time_is_of_the_run_that_measured_it_and_the_report_says_so(apart, tmp_path, undrawn):
    joined = derive(load_runs(apart))
    for run, names in zip(
        apart,
        ({"vhs": "vhs@old", "mllm-clip": "mllm-clip"}, {"vhs": "vhs@new", "mllm-ae": "mllm-ae"}),
        strict=True,
    ):
        alone = derive(load_run(run))
        for mine, name in names.items():
            assert joined.models["wall_ms"]["nano", 1, name] == alone.models["wall_ms"]["nano", 1, mine]
            one, both = (d.breakdown("nano", 1) for d in (alone, joined))
            assert (
                both[both["verifier"] == name]["wall_ms"].tolist()
                == one[one["verifier"] == mine]["wall_ms"].tolist()
            )
    assert joined.models["wall_ms"]["nano", 1, "vhs@new"].predict(4) == 2 * joined.models["wall_ms"][
        "nano", 1, "vhs@old"
    ].predict(4)
    encoding = joined.costs[(joined.costs["verifier"] == "") & (joined.costs["stage"] == "encode")]
    assert dict(zip(encoding["run"], encoding["median_ms"], strict=True)) == {"old": 8.0, "new": 16.0}
    assert (joined.latency["error_percent"].abs() < 1e-9).all()
    with undrawn():
        summary = build(*apart, out=tmp_path)
    said = "of old and new, not measured side by side"
    assert summary["times"] == said
    assert {row["times"] for row in summary["budgets"]} == {said}
    for table in ("budgets", "verdict", "headline", "costs", "latency", "area", "time_to_accuracy"):
        assert said in set(pd.read_csv(tmp_path / "tables" / f"{table}.csv")["times"]), table
    assert any(note.startswith(f"times: {said}; a change of the machine") for note in summary["notes"])
    assert (tmp_path / "report.html").read_text().count(said) > 4


def test_one_run_that_measured_all_prices_all(make_run, tmp_path):
    few = make_run(tmp_path / "few", verifiers=[{"name": "vhs"}])
    all_three = make_run(tmp_path / "all", verifiers=[{"name": "vhs"}, CLIP, AE])
    joined = load_runs([few, all_three])
    pd.testing.assert_frame_equal(joined.costs, load_run(all_three).costs)
    assert derive(joined).times == ""


def test_strategies_need_verifiers_that_one_run_measured(apart):
    joined = derive(load_runs(apart), strategies=["cascade:vhs@old>mllm-clip", "cascade:vhs@old>mllm-ae"])
    (rivals,) = joined.rivals.values()
    assert set(joined.strategies[0]["strategy"]) >= {"cascade:vhs@old>mllm-clip", "best-of-n:mllm-ae"}
    assert set(rivals.unpriced) == {"cascade:vhs@old>mllm-ae: its verifiers were measured in different runs."}


def test_a_runs_own_strategies_keep_their_verifiers(make_run, tmp_path):
    old = make_run(
        tmp_path / "old", verifiers=[{"name": "vhs"}, CLIP], strategies=["cascade:vhs>mllm-clip,n=4"]
    )
    new = make_run(tmp_path / "new", verifiers=[{"name": "vhs"}])
    rewrite(new, "sha of vhs", "sha of another")
    assert load_runs([old, new]).info["config"]["strategies"] == ["cascade:vhs@old>mllm-clip,n=4"]


def test_what_else_names_a_verifier_follows_its_label(make_run, tmp_path):
    """A stage that goes on from where it read, and the block that it reads."""
    deeper = {"name": "vhs", "label": "deeper"}
    old = make_run(tmp_path / "old", verifiers=[{"name": "vhs"}, deeper])
    new = make_run(tmp_path / "new", verifiers=[{"name": "vhs"}])
    rewrite(new, "sha of vhs", "sha of another")
    costs = pd.read_parquet(old / "costs.parquet")
    head = costs[(costs["verifier"] == "deeper") & (costs["stage"] == "head")]
    replace_costs(old, pd.concat([costs, head.assign(stage=advance_from("vhs"))], ignore_index=True))
    info = json.loads((old / "run.json").read_text()) | {"blocks": {"vhs": 3, "deeper": 5}}
    (old / "run.json").write_text(json.dumps(info))
    joined = load_runs([old, new])
    assert joined.info["blocks"] == {"vhs@old": 3, "deeper": 5}
    mine = set(joined.costs.loc[joined.costs["verifier"] == "deeper", "stage"])
    assert advance_from("vhs@old") in mine
    assert advance_from("vhs") not in mine


def other_verdict(run: Path) -> None:
    candidates = pd.read_parquet(run / "candidates.parquet")
    candidates.loc[11, "correct"] = ~candidates.loc[11, "correct"]
    candidates.to_parquet(run / "candidates.parquet")
    digest = hashlib.sha256((run / "candidates.parquet").read_bytes()).hexdigest()
    rewrite(run, json.loads((run / "run.json").read_text())["digests"]["candidates.parquet"], digest)


def test_other_candidates_under_the_same_names_are_refused(make_run, tmp_path):
    a, b = (make_run(tmp_path / name, verifiers=[v]) for name, v in (("a", CLIP), ("b", AE)))
    assert len(load_runs([a, b]).candidates) == 192
    other_verdict(b)
    with pytest.raises(StoreError) as error:
        load_runs([a, b])
    assert str(error.value) == (
        f"{b} cannot be combined with {a}: both hold the candidates of 'nano' (1 steps) of seed 0, but 1 of 192 are other "
        "ones, by their verdicts, first candidate 3 of prompt 1; only the same candidates can be compared."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verifiers": [{"name": "vhs"}]}, "and it has no verifier that is not there."),
        ({"verifiers": [AE], "seeds": [0, 1]}, "'nano' (1 steps) of seed 0, but"),  # of another random stream
        ({"verifiers": [AE], "pool": 4}, "'pool' is 8 in one and 4 in the other"),
        ({"verifiers": [{"name": "vhs", "options": {"block": 5}}], "seeds": [1]}, "the verifier 'vhs' has other settings."),
        ({"verifiers": [{"name": "mllm-ae", "label": "mllm"}], "seeds": [1]}, "'mllm-clip' scored 192 of the 384 candidates"),
        ({"generators": [{"name": "nano", "options": {"steps": 1}}]}, "the generator 'nano_steps=1' has other settings."),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_one_sentence(make_run, tmp_path, changes, said):
    first = make_run(tmp_path / "first", verifiers=[{"name": "vhs"}, CLIP])
    other = make_run(tmp_path / "other", **changes)
    with pytest.raises(StoreError) as error:
        load_runs([first, other])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_other_settings_and_other_kinds_are_other_verifiers(make_run, tmp_path):
    runs = [
        make_run(tmp_path / "x" / "run", verifiers=[{"name": "vhs", "label": "best"}]),
        make_run(tmp_path / "y" / "run", verifiers=[{"name": "mllm-ae", "label": "best"}]),
        make_run(
            tmp_path / "z" / "run",
            verifiers=[{"name": "vhs", "label": "best", "options": {"block": 5}}, CLIP],
        ),
    ]
    joined = derive(load_runs(runs))
    assert joined.config.kinds == {
        "best@x-run": "vhs", "best@y-run": "mllm-ae", "best@z-run": "vhs", "mllm-clip": "mllm-clip",
    }  # fmt: skip
    assert joined.needs["best@y-run"] == "latents"


def test_folders_that_give_no_labels_are_refused(make_run, tmp_path):
    label = "a" * 48
    runs = [
        make_run(tmp_path / name, verifiers=[{"name": "vhs", "label": label}, *more])
        for name, more in (("x", []), ("y", [CLIP]))
    ]
    rewrite(runs[1], f"sha of {label}", "sha of another")
    with pytest.raises(
        StoreError, match=rf"'{label}' is a different verifier in .*x and .*y, and their folders give"
    ):
        load_runs(runs)


def test_all_runs_are_checked_against_each_other(make_run, tmp_path):
    """What the first does not have may differ in the others."""
    a = make_run(tmp_path / "a", verifiers=[{"name": "vhs"}])
    b = make_run(tmp_path / "b", verifiers=[CLIP], generators=[{"name": "nano", "label": "b"}])
    c = make_run(tmp_path / "c", verifiers=[CLIP], generators=[{"name": "nano", "label": "c"}])
    rewrite(c, "sha of mllm-clip", "sha of another")
    with pytest.raises(
        StoreError, match=r"c cannot be combined with .*b: the verifier 'mllm-clip' is another checkpoint"
    ):
        load_runs([a, b, c])


def test_from_the_command_line(apart, tmp_path, undrawn):
    def report(*more):
        with undrawn():
            return CliRunner().invoke(app, ["report", *map(str, apart), "--out", str(tmp_path), *more])

    said = report("--json")
    assert said.exit_code == 0, said.output
    summary = json.loads(said.stdout)
    assert {row["verifier"] for row in summary["auc"]} == {"vhs@old", "vhs@new", "mllm-clip", "mllm-ae"}
    assert np.isfinite([row["auc"] for row in summary["auc"]]).all()
    shown = report().stdout
    assert "vhs@old" in shown
    assert "not measured side by side" in shown
