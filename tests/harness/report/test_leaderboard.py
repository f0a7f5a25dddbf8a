"""The leaderboard: what is ranked with what, what is refused, and what a row says."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.leaderboard import COLUMNS, Entry, LeaderboardError, leaderboard, rank, runs_in
from vhsbench.harness.report.leaderboard_page import place
from vhsbench.harness.store.tables import load_run

MADE = {
    "results": 1,
    "generator": {"key": "nano", "dtype": "float32"},
    "verifiers": {name: {"name": name, "dtype": "float32"} for name in ("vhs", "mllm-clip", "mllm-ae")},
    "detector": {"name": "shapes"},
}
COMMAND = "vhsbench run my.yaml --out '<b>'"
HERE = {"cpu": "a CPU", "packages": {"vhsbench": "0.1.0"}, "git_commit": "c0ffee" * 6, "command": COMMAND}


def note(run, **known):
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | known))
    return run


@pytest.fixture(scope="module")
def pulled(tmp_path_factory, make_run):
    """Runs of one protocol on two devices, one of another, and three that cannot be ranked."""
    folder = tmp_path_factory.mktemp("pulled")

    def made(name, **changes):
        return note(
            make_run(folder / name, **changes), identity={"generators": {"nano": MADE}}, environments=[HERE]
        )

    made("<b>a", device="one")
    made("b", device="two", verifiers=[{"name": "vhs"}])
    made("seeded", seeds=[1])
    note(made("unfinished"), status="running")
    damaged = made("damaged") / "scores.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    note(made("earlier"), identity={})
    return folder


def found_in(folder, *arguments):
    done = CliRunner().invoke(app, ["leaderboard", str(folder), "--json", *arguments], catch_exceptions=False)
    return json.loads(done.stdout), done.exit_code


def test_runs_are_ranked_within_their_protocol_at_what_the_costliest_takes_for_four(pulled):
    found, code = found_in(pulled)
    assert [sorted({row["run"] for row in board["rows"]}) for board in found["boards"]] == [
        ["<b>a", "b"],
        ["seeded"],
    ]
    assert [board["protocol"]["seeds"] for board in found["boards"]] == [[0], [1]]
    for board in found["boards"]:
        # MLLM w/ CLIP: 8 + 4 x 64.5 ms, of which the made runs count 0.0001 TFLOP each
        assert (board["budget"], board["unit"], board["device"]) == (0.0266, "TFLOP", None)
        n = {row["verifier"]: (row["best_of_n"], row["pool_limited"]) for row in board["rows"]}
        assert n == {"mllm-clip": (4, False), "mllm-ae": (7, False), "vhs": (8, True)}
        accuracies = [row["overall"] for row in board["rows"]]
        assert accuracies == sorted(accuracies, reverse=True)
        assert {row["protocol"] for row in board["rows"]} == {board["protocol"]["digest"]}
    row = next(row for row in found["boards"][0]["rows"] if row["run"] == "b")
    curves = (
        derive(load_run(pulled / "b"))
        .curves.query("verifier == 'vhs' and tag == 'overall' and n == 8")
        .iloc[0]
    )
    assert [row["overall"], row["overall_low"], row["overall_high"]] == pytest.approx(
        list(curves[["accuracy", "low", "high"]])
    )
    assert (row["prompts"], row["seeds"], row["pool"], row["failed"]) == (24, "0", 8, 0)
    assert (row["tflop"], row["time_ms"]) == pytest.approx((0.0052 + 8 * 0.00195, 52 + 8 * 19.5))
    assert (row["device"], row["version"], row["commit"], row["command"]) == (
        "two",
        "0.1.0",
        "c0ffee" * 6,
        COMMAND,
    )
    assert code == 1  # three are not ranked


def test_a_run_that_cannot_be_trusted_is_named_with_its_reason(pulled):
    refused = {entry["run"].rsplit("/", 1)[1]: entry["reason"] for entry in found_in(pulled)[0]["refused"]}
    assert set(refused) == {"unfinished", "damaged", "earlier"}
    assert "is not finished" in refused["unfinished"]
    assert "scores.parquet is damaged" in refused["damaged"]
    assert refused["earlier"].endswith(
        "did not record what its protocol needs: detector, precision, versions."
    )
    with pytest.raises(LeaderboardError, match=r"no finished run to rank: r: the run in .* is not finished"):
        leaderboard({"r": pulled / "unfinished"})
    with pytest.raises(LeaderboardError, match="images is no run and has none below it"):
        runs_in(pulled / "b" / "images")


def test_at_a_budget_of_time_devices_are_never_ranked_together(pulled):
    found, _ = found_in(pulled, "--budget", "150ms")
    boards = [
        (board["device"], board["unit"], {row["run"] for row in board["rows"]}) for board in found["boards"]
    ]
    assert boards == [("one", "ms", {"<b>a"}), ("two", "ms", {"b"}), ("test", "ms", {"seeded"})]
    none, _ = found_in(pulled, "--budget", "1ms")
    for row in none["boards"][0]["rows"]:
        assert (row["rank"], row["best_of_n"], row["overall"]) == (None, None, None)
    unknown = leaderboard({"b": pulled / "b"}, (40.0, "J"))
    assert unknown.boards == []
    assert unknown.refused == [("b: vhs", "the energy (J) of this pipeline is unknown.")]


def test_places_overlap_where_intervals_do_not_tell_apart(loaded):
    """One verifier that is always right, one that does not choose and one always wrong, by eight names: 276 pairs."""
    correct = loaded.scores.merge(loaded.candidates[["prompt_id", "seed", "index", "correct"]])["correct"]
    signs = loaded.scores["verifier"].map({"vhs": 1.0, "mllm-clip": 0.0, "mllm-ae": -1.0})
    told = derive(replace(loaded, scores=loaded.scores.assign(score=signs * correct)))
    (board,), unpriced = rank([Entry(name, told) for name in "abcdefgh"], (0.02, "TFLOP"))
    places = [(row["verifier"], place(row)) for _, row in board.rows.iterrows()]
    assert unpriced == []
    assert places == [("vhs", "1-8")] * 8 + [("mllm-clip", "9-16")] * 8 + [("mllm-ae", "17-24")] * 8


def test_the_page_escapes_everything_and_runs_nothing(pulled, tmp_path):
    done = CliRunner().invoke(
        app,
        ["leaderboard", str(pulled), "--out", str(tmp_path / "out")],
        env={"COLUMNS": "80"},
        catch_exceptions=False,
    )
    assert f"{tmp_path}/out/leaderboard.html" in done.output.replace("\n", "")
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "<b>a" not in page
    assert page.count("&lt;b&gt;a") >= 4  # a row of each verifier, and its run
    assert "vhsbench run my.yaml --out &#39;&lt;b&gt;&#39;" in page
    rows = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert list(rows) == COLUMNS
    assert len(rows) == 3 + 1 + 3
    for digest in set(rows["protocol"]):
        assert (
            f'<h2 id="h-board-1">Protocol {digest}' in page or f'<h2 id="h-board-2">Protocol {digest}' in page
        )
