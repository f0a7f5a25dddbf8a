"""Runs side by side: what is compared with what, and how it is paired."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.cost.cost_model import CostError
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.side_by_side import (
    SAME_CANDIDATES,
    SAME_PROMPTS,
    UNPAIRED,
    SideBySideError,
    labels,
    side_by_side,
)
from vhsbench.harness.report.side_by_side_page import shown, write_page
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.protocol import of_run


def with_verifiers(run, *names):
    return derive(replace(run, scores=run.scores[run.scores["verifier"].isin(names)]))


@pytest.fixture(scope="module")
def two(tmp_path_factory, make_run):
    """Two finished runs of other seeds, the second without MLLM w/ AE."""
    folder = tmp_path_factory.mktemp("two")
    first = make_run(folder / "a", budgets_ms=[150, 300])
    other = make_run(
        folder / "b", seeds=[1], verifiers=[{"name": "vhs"}, {"name": "mllm-clip"}], budgets_ms=[150, 300]
    )
    return first, other


def test_the_lone_verifiers_of_the_same_candidates_differ_as_in_one_run(loaded):
    alone = [with_verifiers(loaded, name) for name in ("mllm-clip", "vhs")]
    budgets = [(150.0, "ms"), (300.0, "ms")]
    found = side_by_side(alone, ["clip", "vhs"], budgets).rows
    rows = found[(found["run"] == "vhs") & (found["verifier"] == "vhs")].set_index("budget")
    both = with_verifiers(loaded, "mllm-clip", "vhs")
    config = both.config.model_copy(update={"budgets_ms": (150.0, 300.0)})
    info = loaded.info | {"config": config.model_dump(mode="json")}
    pairs = derive(replace(both.run, info=info)).standings.pairs
    pairs = pairs[(pairs["better"] == "vhs") & (pairs["other"] == "mllm-clip")].set_index("budget")
    assert set(rows["paired"]) == {SAME_CANDIDATES}
    for budget, _ in budgets:
        row, pair = rows.loc[budget], pairs.loc[budget]
        assert (row["best_of_n"], row["difference"]) == (pair["best_of_n"], pytest.approx(pair["difference"]))
        assert row["difference_low"] == pytest.approx(pair["low"])
        assert row["difference_high"] == pytest.approx(pair["high"])
        assert row["p"] == pair["p"]


def test_the_same_run_again_does_not_differ_at_all(loaded):
    found = side_by_side([derive(loaded), derive(loaded)], ["once", "again"]).rows
    again = found[found["run"] == "again"]
    assert len(again) == len(found) / 2 == 4 * 3
    assert set(again["paired"]) == {SAME_CANDIDATES}
    for column in ("difference", "difference_low", "difference_high"):
        assert (again[column] == 0).all()
    assert (again["p_holm"] == 1).all()


def test_differences_of_other_candidates_are_paired_by_prompt(two):
    runs = [derive(load_run(path)) for path in two]
    found = side_by_side(runs, list(map(str, two)))
    rows = found.rows
    assert found.labels == ["a", "b"]
    first = rows[rows["run"] == "a"]
    assert first["difference"].isna().all()
    assert set(first["verifier"]) == {"none", "vhs", "mllm-clip", "mllm-ae"}
    other = rows[rows["run"] == "b"]
    assert set(other["verifier"]) == {"none", "vhs", "mllm-clip"}
    assert set(other["paired"]) == {SAME_PROMPTS}
    assert (other["prompts"] == 24).all()
    for _, row in other.iterrows():
        same = first[(first["verifier"] == row["verifier"]) & (first["budget"] == row["budget"])].iloc[0]
        assert row["difference"] == pytest.approx(row["overall"] - same["overall"])
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["p_holm"] >= row["p"]
    assert found.notes == []


def test_only_shared_prompts_are_paired_in_whatever_order(loaded):
    last = len(loaded.prompts) - 1
    # the same prompts from the last to the first, of which four are others
    ids = {"prompt_id": last - loaded.candidates["prompt_id"]}
    prompts = loaded.prompts[::-1]
    prompts = [{**p, "prompt": f"another {i}"} if i < 4 else p for i, p in enumerate(prompts)]
    scores = loaded.scores.assign(prompt_id=last - loaded.scores["prompt_id"])
    other = replace(loaded, prompts=prompts, candidates=loaded.candidates.assign(**ids), scores=scores)
    found = side_by_side([derive(loaded), derive(other)], ["here", "there"])
    rows = found.rows[found.rows["run"] == "there"]
    assert set(rows["paired"]) == {SAME_PROMPTS}
    assert (rows["prompts"] == 20).all()
    assert rows["difference"].abs().max() < 1e-9  # the same candidates of each shared prompt
    assert found.notes == ["there and here share 20 prompts: their differences are of these."]


def test_runs_without_a_shared_prompt_are_not_paired(loaded):
    prompts = [{**p, "prompt": f"another {i}"} for i, p in enumerate(loaded.prompts)]
    candidates = loaded.candidates.assign(correct=np.roll(loaded.candidates["correct"], 40))
    found = side_by_side(
        [derive(loaded), derive(replace(loaded, prompts=prompts, candidates=candidates))], ["x", "y"]
    )
    rows = found.rows
    first, other = (rows[rows["run"] == name].reset_index(drop=True) for name in ("x", "y"))
    assert set(other["paired"]) == {UNPAIRED}
    assert other["p"].isna().all()
    assert other["difference"].tolist() == pytest.approx((other["overall"] - first["overall"]).tolist())
    width = other["difference_high"] - other["difference_low"]
    ends = [np.hypot(other["overall"] - other["overall_low"], first["overall_high"] - first["overall"]),
            np.hypot(other["overall_high"] - other["overall"], first["overall"] - first["overall_low"])]  # fmt: skip
    assert width.tolist() == pytest.approx((ends[0] + ends[1]).tolist())
    assert found.notes == ["y and x have no prompt in common: their differences are not paired."]


def test_one_pool_of_each_is_compared_whatever_its_generator(make_run, tmp_path, loaded):
    path = make_run(tmp_path / "run", generators=[{"name": "nano", "label": "other"}])
    rows = side_by_side([derive(loaded), derive(load_run(path))], ["x", "y"]).rows
    other = rows[rows["run"] == "y"]
    assert set(other["generator"]) == {"other"}
    assert other["difference"].notna().all()
    assert set(shown(rows)["Pipeline"]) >= {"nano: VHS", "other: VHS"}


def test_budgets_of_another_kind_and_of_none(loaded):
    found = side_by_side(
        [derive(loaded), derive(loaded)], ["x", "y"], [(2.0, "GB"), (40.0, "J"), (1.0, "ms")]
    )
    rows = found.rows.set_index(["unit", "verifier", "run"]).sort_index()
    assert rows.loc[("GB", "mllm-clip", "x"), "best_of_n"] == 8
    assert rows.loc[("GB", "mllm-clip", "y"), "difference"] == 0
    assert rows.loc["J", "best_of_n"].isna().all()
    assert rows.loc["J", "difference"].isna().all()
    assert found.notes == ["no run has the energy (J) of a pipeline: budgets in J say nothing."]
    said = shown(found.rows).set_index(["Budget", "Pipeline", "Run"])["N"]
    assert said[("1 ms", "VHS", "x")] == "below one candidate"
    assert said[("40 J", "VHS", "x")] == ""
    assert said[("2 GB", "VHS", "x")] == "8+"


def test_times_of_different_machines_are_said(make_run, tmp_path, loaded):
    path = make_run(tmp_path / "run", device="another")
    found = side_by_side([derive(loaded), derive(load_run(path))], ["x", "y"])
    assert found.notes == ["times were measured on different machines: x: test; y: another."]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["/r/a", "/r/b"], ["a", "b"]),
        (["/r/a/run", "/r/b/run/"], ["a/run", "b/run"]),
        (["s3://box/one", "/x/two"], ["one", "two"]),
        (["/x/run", "/y/x/run", "/z"], ["x/run", "y/x/run", "z"]),
        (["/x/a\x1b[31m", "/x/b"], ["a\\x1b[31m", "b"]),
    ],
)
def test_labels_are_as_short_as_tells_runs_apart(names, said):
    assert labels(names) == said


def test_mistakes_are_a_sentence(loaded):
    one = derive(loaded)
    with pytest.raises(SideBySideError, match="name two runs or more"):
        side_by_side([one], ["a"])
    with pytest.raises(SideBySideError, match="/a is named twice"):
        side_by_side([one, one], ["/r/a", "/r/b/../a"])
    with pytest.raises(CostError, match="'much' is no budget"):
        CliRunner().invoke(app, ["compare", "a", "b", "--budget", "much"], catch_exceptions=False)


def test_the_command_prints_a_table_and_writes_a_page(two, tmp_path):
    done = CliRunner().invoke(app, ["compare", *map(str, two), "--budget", "150ms", "--out", str(tmp_path / "out")],
                              env={"COLUMNS": "80"})  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].strip() == "at 150 ms"
    assert "b less a: paired by 24 prompts, same prompts" in lines
    one, other = (of_run(load_run(path)).digest for path in two)
    assert (
        f"b is of another protocol than a, {other} and not {one}: seeds (1, not 0); accuracies of different protocols do not "
        "mean the same."
    ) in " ".join(" ".join(lines).split())
    # nothing is broken over two lines: a row for each pipeline of each run, with its whole intervals
    rows = [line for line in lines if "%" not in line and "[" in line]
    assert len(rows) == 4 + 3
    assert sum(line.count("[") == line.count("]") == 2 for line in rows) == 3
    assert f"{tmp_path}/out/compare.html" in done.output.replace("\n", "")
    table = pd.read_csv(tmp_path / "out" / "tables" / "compare.csv")
    assert table["run"].tolist() == ["a", "b", "a", "a", "b", "a", "b"]
    assert table["protocol"].tolist() == [one, other, one, one, other, one, other]
    assert (tmp_path / "out" / "tables" / "compare.md").read_text().startswith("| Budget | Pipeline | Run |")


def test_json_has_runs_rows_and_nothing_else(two):
    done = CliRunner().invoke(app, ["compare", *map(str, two), "--json"])
    found = json.loads(done.stdout)
    assert [run["run"] for run in found["runs"]] == ["a", "b"]
    assert [(b["budget"], b["unit"]) for b in found["budgets"]] == [(150, "ms"), (300, "ms")]
    assert len(found["rows"]) == 2 * (4 + 3)
    assert found["page"] is None
    assert {row["paired"] for row in found["rows"]} == {None, SAME_PROMPTS}
    assert [run["differs_in"] for run in found["runs"]] == [[], ["seeds"]]
    assert [run["protocol"]["seeds"] for run in found["runs"]] == [[0], [1]]


def test_the_page_has_all_runs_and_shares_what_is_the_same(loaded, tmp_path, read_data):
    found = side_by_side([derive(loaded), derive(loaded)], ["<b>x</b>", "y"])
    write_page(found, tmp_path / "compare.html")
    page, data = (tmp_path / "compare.html").read_text(), read_data(tmp_path / "compare.html")
    assert "<b>x</b>" not in page
    assert page.count("</script>") == 3
    assert [p["name"] for p in data["pipelines"][::3]] == ["b>: MLLM w/ AE", "y: MLLM w/ AE"]
    # plotly takes tags in a name for markup
    assert {trace["name"] for trace in data["figures"]["over-time"]["data"]} >= {"b&gt;: VHS", "y: VHS"}
    assert [p["pool"] for p in data["pipelines"]] == [0, 0, 0, 1, 1, 1]
    assert "of another protocol" not in page
    assert len(data["prompts"]) == 24
    assert len(data["pictures"]) == 6 * 8  # each once, though two runs have it
    assert data["pools"][0]["pictures"] == data["pools"][1]["pictures"]
    links = [link for link in data["links"]["table-compare"]["rows"] if link]
    assert {(pool, verifier) for pool, verifier, _ in links} == {
        (pool, verifier) for pool in (0, 1) for verifier in ("vhs", "mllm-clip", "mllm-ae")
    }
