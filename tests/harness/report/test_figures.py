"""What figures show: the data beside each file are the run's, and what is drawn are the data."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report import figures
from vhsbench.harness.report.build import _tells_apart, build
from vhsbench.harness.report.comparisons import Saving
from vhsbench.harness.report.style import TASK_NAMES, looks
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import load_run

TOLERANCE = 0.05
# of a made run's costs (conftest.py): fixed and per-candidate ms, peak GB
MADE = {"vhs": (52.0, 19.5, 1.5), "mllm-clip": (8.0, 64.5, 2.0), "mllm-ae": (38.0, 31.5, 1.6)}
POOL, PROMPTS = 8, 24


@pytest.fixture(scope="module")
def run(built):
    whole = load_run(built.parent / "run")
    return whole.candidates.query("generator == 'nano'"), whole.scores


@pytest.fixture(scope="module")
def data(built):
    return lambda name: pd.read_csv(built / "figures" / f"{name}_nano.csv")


def of(rows, verifier):
    return rows[rows["verifier"] == verifier]


def judged(run, verifier):
    """Scores and verdicts [24, 8] of one verifier."""
    rows = of(run[1].merge(run[0], on=CANDIDATE), verifier).sort_values(["prompt_id", "index"])
    return rows["score"].to_numpy().reshape(-1, POOL), rows["correct"].to_numpy(float).reshape(-1, POOL)


@pytest.mark.parametrize("verifier", MADE)
def test_accuracy_over_each_cost(run, data, verifier):
    fixed, each, _ = MADE[verifier]
    time, flop = (of(data(f"accuracy_over_{name}"), verifier) for name in ("time", "tflop"))
    ns = np.arange(1, POOL + 1)
    assert time["n"].tolist() == flop["n"].tolist() == ns.tolist()
    np.testing.assert_allclose(time["cost"], fixed + ns * each)
    np.testing.assert_allclose(flop["cost"], (fixed + ns * each) / 1e4 * 1e3)  # GFLOP, as there are so few
    scores, correct = judged(run, verifier)
    np.testing.assert_allclose(time["accuracy"], 100 * expected_accuracy(scores, correct).mean(0))
    assert time["accuracy"].iloc[0] == pytest.approx(100 * correct.mean())
    best = correct[np.arange(PROMPTS), scores.argmax(1)]
    assert time["accuracy"].iloc[-1] == pytest.approx(100 * best.mean())
    assert ((time["low"] <= time["accuracy"]) & (time["accuracy"] <= time["high"])).all()


def test_memory_is_drawn_where_an_accelerators_was_measured_and_differs(built, make_run, tmp_path, undrawn):
    assert not list((built / "figures").glob("accuracy_over_memory*"))  # of a CPU: what the process took
    run = make_run(tmp_path / "run", vram=True)
    with undrawn():
        build(run)
    memory = pd.read_csv(run / "figures" / "accuracy_over_memory.csv")
    for verifier, (_, _, gb) in MADE.items():
        assert of(memory, verifier)[["n", "cost"]].to_numpy().tolist() == [[1, gb], [2, gb], [4, gb]]


@pytest.mark.parametrize(("gb", "drawn"), [([1.0, 1.009], False), ([1.0, 1.011], True), ([], False)])
def test_an_axis_of_memory_spans_a_hundredth(gb, drawn):
    assert _tells_apart(pd.Series(gb, dtype=float)) is drawn


def test_figures_that_are_not_drawn_again_are_removed(make_run, tmp_path, undrawn):
    """The report of an earlier version may have drawn them of the same run."""
    run = make_run(tmp_path / "run", verifiers=[{"name": "mllm-clip"}])
    (run / "figures").mkdir()
    stale = [run / "figures" / f"{name}.png" for name in ("teaser", "accuracy_over_memory")]
    own = run / "figures" / "mine.png"
    for file in (*stale, own):
        file.touch()
    with undrawn():
        build(run)
    assert own.exists()
    assert not any(file.exists() for file in stale)


def test_the_teaser_shows_accuracy_over_time(data):
    pd.testing.assert_frame_equal(data("teaser"), data("accuracy_over_time"))


@pytest.mark.parametrize("verifier", MADE)
def test_n_per_budget_is_the_largest_that_fits(data, verifier):
    fixed, each, _ = MADE[verifier]
    rows = of(data("n_per_budget"), verifier)
    limit = rows["budget_ms"] * (1 + TOLERANCE) + 1e-6
    assert ((rows["n"] == 0) | (fixed + rows["n"] * each <= limit)).all()
    assert ((rows["n"] == POOL) | (fixed + (rows["n"] + 1) * each > limit - 2e-6)).all()
    assert (rows["n"].min(), rows["n"].max()) == (0, POOL)


def test_the_breakdown_has_every_stage_once(data):
    rows = data("latency_breakdown").set_index(["verifier", "part", "stage"])["wall_ms"].sort_index()
    assert rows["vhs", "per candidate"].to_dict() == {"noise": 0.5, "head": 10, "score": 9}
    assert rows["vhs", "fixed"].to_dict() == {"encode": 8, "tail": 14, "decode": 30}
    assert rows["mllm-clip", "per candidate"].to_dict() == {
        "noise": 0.5,
        "denoise": 22,
        "decode": 30,
        "score": 12,
    }
    assert rows["mllm-ae", "fixed"].to_dict() == {"encode": 8, "decode": 30}


def test_accuracy_by_n_is_of_all_tasks_and_baselines(built, data):
    curves = pd.read_csv(built / "tables" / "curves.csv").query("generator == 'nano'").reset_index(drop=True)
    curves = curves.drop(columns="protocol")
    pd.testing.assert_frame_equal(data("accuracy_by_n"), curves)
    assert set(curves["verifier"]) == {*MADE, "oracle", "random"}
    assert len(curves) == 5 * POOL * (len(TASK_NAMES) + 2)
    random = curves.query("verifier == 'random' and tag == 'overall'")
    assert random["accuracy"].nunique() == 1


def test_score_distributions_hold_every_score(run, data):
    expected = run[1].merge(run[0], on=CANDIDATE)[["verifier", "score", "correct"]]
    order = ["verifier", "score"]
    found = data("score_distributions").sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected.sort_values(order, ignore_index=True), check_dtype=False)


@pytest.mark.parametrize("verifier", MADE)
def test_reliability_bins_hold_every_candidate(run, data, verifier):
    bins = of(data("reliability"), verifier)
    rows = of(run[1].merge(run[0], on=CANDIDATE), verifier)
    assert bins["n"].sum() == PROMPTS * POOL
    for _, part in bins[bins["n"] > 0].iterrows():
        inside = rows[(rows["p_yes"] >= part["low"]) & (rows["p_yes"] < part["high"])]
        assert len(inside) == part["n"]
        assert part["confidence"] == pytest.approx(inside["p_yes"].mean())
        assert part["right"] == pytest.approx(inside["correct"].mean())
        if inside["prompt_id"].nunique() > 1:  # one prompt has no interval
            assert part["share_low"] <= part["right"] <= part["share_high"]


def test_the_gallery_has_each_verifiers_first_maximum_of_four(run, data):
    rows = data("gallery")
    assert set(rows["verifier"]) == set(MADE)
    assert rows.groupby("verifier").size().tolist() == [6] * 3
    for _, row in rows.iterrows():
        scores, correct = judged(run, row["verifier"])
        best = scores[row["prompt_id"], :4].argmax()
        assert row["index"] == best
        assert row["score"] == pytest.approx(scores[row["prompt_id"], best])
        assert row["correct"] == bool(correct[row["prompt_id"], best])


def test_disagreements_are_the_surest_of_the_kept_pictures(run, data):
    rows = data("disagreements")
    kept = set(data("gallery")["prompt_id"])
    assert set(rows["prompt_id"]) <= kept
    assert ((rows["score"] > 0) != rows["correct"]).all()
    assert rows.groupby(["verifier", "kind"]).size().max() == 3
    for verifier in MADE:
        scores, correct = judged(run, verifier)
        wrong = np.where(correct == 0, scores, -np.inf)[sorted(kept)].max(1)  # the surest of each prompt
        found = of(rows[rows["kind"] == "accepted, wrong by GenEval"], verifier)["score"]
        np.testing.assert_allclose(found, np.sort(wrong[wrong > 0])[::-1][:3])


def points(**accuracies):
    return pd.DataFrame(
        [(v, n, 10.0 * n, a, a - 1, a + 1) for v, values in accuracies.items() for n, a in enumerate(values, 1)],
        columns=["verifier", "n", "cost", "accuracy", "low", "high"],
    )  # fmt: skip


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_lines_of_accuracy_over_cost_are_the_points():
    axes = figures.accuracy_over_cost(points(vhs=[60, 70]), "ms", "a title", [15.0]).axes[0]
    drawn = lines(axes)
    assert drawn.pop("VHS") == [[10, 60], [20, 70]]
    assert [xy[0] for (xy, _) in drawn.values()] == [15]
    assert (axes.get_xlabel(), axes.get_title()) == ("ms", "a title")


def test_the_teaser_says_what_is_saved():
    saving = Saving("vhs", "mllm-clip", 70.0, 20.0, 40.0, True)
    axes = figures.teaser(points(vhs=[60, 70]), saving, "nano").axes[0]
    assert axes.get_title() == "nano: VHS takes 50% less time for 70.0%"
    assert lines(axes) == {"VHS": [[10, 60], [20, 70]]}


def test_budgets_are_labelled_and_upright_where_they_would_touch():
    def top(budgets):
        fig = figures.accuracy_over_cost(points(vhs=[60, 70, 80, 85]), "ms", "a title", budgets)
        axis = fig.axes[0].child_axes[0].xaxis
        assert "budget (ms)" in [text.get_text() for text in fig.legends[0].get_texts()]
        return [(text.get_text(), text.get_rotation()) for text in axis.get_ticklabels()]

    assert top([15.0, 30.0]) == [("15", 0), ("30", 0)]
    assert top([15.0, 16.0]) == [("15", 90), ("16", 90)]


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 5), st.integers(0, 999))
def test_numbers_of_n_touch_neither_each_other_nor_a_line(verifiers, seed):
    rng = np.random.default_rng(seed)
    curves = {f"v{i}": np.sort(rng.uniform(60, 95, 12)) for i in range(verifiers)}
    fig = figures.accuracy_over_cost(points(**curves), "ms", "", looks=looks(dict.fromkeys(curves, "x")))
    fig.draw_without_rendering()
    axes = fig.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 2 * verifiers
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        inner = box.padded(-0.2 * box.height)
        assert not any(
            inner.contains(*xy) for line in axes.lines for xy in axes.transData.transform(line.get_xydata())
        )


def test_accuracy_by_n_is_in_the_runs_order_with_markers_at_powers_of_two():
    rows = [(v, tag, n, 50.0, 40.0, 60.0, 9) for v in ("random", "a", "b") for tag in ("single_object", "overall")
            for n in range(1, 7)]  # fmt: skip
    curves = pd.DataFrame(rows, columns=["verifier", "tag", "n", "accuracy", "low", "high", "n_prompts"])
    known = looks({"b": "x", "a": "x"})
    drawn = figures.accuracy_by_n(curves, "", known).axes[0].lines
    assert [line.get_label() for line in drawn] == ["b", "a", "random"]
    assert [line.get_marker() for line in drawn] == [known[v].marker for v in ("b", "a", "random")]
    assert [line.get_markevery() for line in drawn] == [[0, 1, 3]] * 3


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=200))
def test_the_density_has_the_area_of_every_bar(scores):
    bins = np.linspace(-1, 1, figures.SCORE_BINS + 1)
    x = np.linspace(-1, 1, 50 * figures.SCORE_BINS + 1)
    found = figures._density(pd.Series(scores), bins, x)
    assert (found >= -1e-9).all()
    share = 100 * np.histogram(scores, bins)[0] / len(scores)
    areas = [simpson(part) / 50 for part in np.stack([found[i : i + 51] for i in range(0, len(x) - 1, 50)])]
    np.testing.assert_allclose(areas, share, atol=1e-6)
    assert found[[0, -1]] == pytest.approx(share[[0, -1]])  # none leaks out


def test_steps_of_n_per_budget_are_its_data():
    fig, rows = figures.n_per_budget({"vhs": CostModel(10.0, 5.0)}, 4, [20.0], 0.0, "a title")
    assert lines(fig.axes[0])["VHS"] == rows[["budget_ms", "n"]].to_numpy(float).tolist()
    assert rows.loc[rows["budget_ms"] == 20.0, "n"].tolist() == [2]
    assert rows.loc[rows["budget_ms"] < 15.0, "n"].unique().tolist() == [0]


def test_bars_of_the_breakdown_are_as_long_as_the_stages():
    stages = pd.DataFrame(
        [("vhs", "per candidate", "head", 10.0), ("vhs", "per candidate", "score", 9.0), ("vhs", "fixed", "tail", 14.0)],
        columns=["verifier", "part", "stage", "wall_ms"],
    )  # fmt: skip
    axes = figures.latency_breakdown(stages, "a title").axes[0]
    bars = [
        (b.get_x(), b.get_width(), round(b.get_y() + b.get_height() / 2))
        for b in axes.patches
        if b.get_width()
    ]
    assert bars == [(0.0, 10.0, 0), (10.0, 9.0, 0), (0.0, 14.0, 1)]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["VHS, per candidate", "VHS, fixed"]


def test_bars_of_scores_are_shares_of_all_candidates():
    scores = pd.DataFrame(
        {"verifier": "vhs", "score": [-0.9, 0.5, 0.52, 0.9], "correct": [False, False, True, True]}
    )
    box, bars = figures.score_distributions(scores, "a title").axes
    assert sum(bar.get_height() for bar in bars.patches) == pytest.approx(100)
    assert box.get_title() == "VHS (n = 4)"


def test_reliability_is_drawn_at_its_bins():
    bins = pd.DataFrame(
        {"verifier": "vhs", "low": [0.2, 0.6], "high": [0.4, 0.8], "confidence": [0.3, 0.7], "right": [0.25, 0.75],
         "share_low": [0.1, 0.5], "share_high": [0.5, 0.9], "n": [1, 3], "ece": 0.05}
    )  # fmt: skip
    axes = figures.reliability(bins, "a title").axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[0.3, 0.25], [0.7, 0.75]]
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.75]
    assert axes.get_title() == "VHS (ECE 0.050)"
