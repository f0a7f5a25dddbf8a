"""Over-optimisation: a verifier's own score and judges' values of winners, where they part, and winners' diversity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.config.run import kept_config
from vhsbench.harness.report import derived, over_figure
from vhsbench.harness.report.diversity import COLUMNS, diversity
from vhsbench.harness.report.over_optimisation import over_optimisation
from vhsbench.harness.report.style import drawn
from vhsbench.harness.stats.diversity import distance, vendi
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.kept_images import Pictures

POOL, PROMPTS = 8, 24


def verdicts(run, judge, value, correct=None):
    rows = run.candidates.drop(columns="tag").assign(judge=judge, value=value, picture="")
    return rows.assign(correct=correct)


@pytest.fixture(scope="module")
def run(made):
    """Scores of vhs that rank by index; "geneval" is right of odd candidates, "late" likes index 5 most, then falls."""
    found = load_run(made)
    index = found.candidates["index"]
    scores = found.scores[found.scores["verifier"] == "vhs"]
    scores = scores.assign(score=10.0 * scores["index"] + scores["prompt_id"] / 100)
    late = (8 - (index - 5).abs()) / 8
    both = [verdicts(found, "geneval", (index % 2).astype(float)), verdicts(found, "late", late)]
    return replace(found, scores=scores, verdicts=pd.concat(both, ignore_index=True))


@pytest.fixture(scope="module")
def over(run):
    return over_optimisation(run, kept_config(run))


def test_own_score_and_judges_are_those_of_the_winners(run, over):
    rows = over.by_n.set_index(["judge", "best_of_n"])
    assert rows["value"]["", 1] == pytest.approx(run.scores["score"].mean())
    last = run.scores[run.scores["index"] == POOL - 1]
    assert rows["value"]["", POOL] == pytest.approx(last["score"].mean())
    assert rows["value"]["geneval", POOL] == pytest.approx(100)  # index 7 is odd
    assert rows["value"]["late", POOL] == pytest.approx(100 * 6 / 8)
    # of two, the later one wins: index i with i of 28 pairs
    of_two = sum(i * (8 - abs(i - 5)) / 8 for i in range(POOL)) / 28
    assert rows["value"]["late", 2] == pytest.approx(100 * of_two)
    spread = ((8 - np.abs(np.arange(POOL) - 5)) / 8).std()
    assert rows["change"]["late", POOL] == pytest.approx((6 / 8 - rows["value"]["late", 1] / 100) / spread)
    assert (rows["low"] <= rows["value"]).all()
    assert (rows["value"] <= rows["high"]).all()
    assert set(rows["prompts"]) == {PROMPTS}


def test_they_part_where_one_falls_while_the_other_rises(over):
    curve = over.by_n[over.by_n["judge"] == "late"].set_index("best_of_n")["value"]
    peak = int(curve.idxmax())
    assert 1 < peak < POOL
    found = over.parting_table.rows.set_index(["first", "second"])[["falls", "best_of_n", "low", "high"]]
    assert found.loc[("own score", "geneval")].tolist() == ["", "none", "none", "none"]
    n = str(peak)  # all prompts say the same
    assert found.loc[("own score", "late")].tolist() == ["late", n, n, n]
    assert found.loc[("geneval", "late")].tolist() == ["late", n, n, n]


def test_readers_see_a_column_for_each_measure_and_one_judge_is_enough(run, over):
    assert list(over.table.shown) == ["Verifier", "Best-of-N", "own score", "geneval (%)", "late (%)"]
    assert over.table.shown["Best-of-N"].tolist() == [1, 2, 4, 8]
    one = replace(run, verdicts=run.verdicts[run.verdicts["judge"] == "geneval"])
    found = over_optimisation(one, kept_config(one))
    assert list(found.parting[["first", "second"]].itertuples(index=False, name=None)) == [
        ("own score", "geneval")
    ]


def test_nothing_is_chosen_from_one_candidate(run):
    single = {
        name: getattr(run, name)[getattr(run, name)["index"] == 0]
        for name in ("candidates", "scores", "verdicts")
    }
    assert over_optimisation(replace(run, **single), kept_config(run)) is None


def test_every_report_has_it(built):
    data = pd.read_csv(built / "figures/over_optimisation_nano.csv")
    table = pd.read_csv(built / "tables/over_optimisation.csv")
    assert set(table["best_of_n"]) == {1, 2, 4, 8}
    assert len(data) == 3 * 2 * POOL  # verifiers, own score and geneval
    curves = pd.read_csv(built / "tables/curves.csv").query("tag == 'overall' and generator == 'nano'")
    right = data[data["judge"] == "geneval"].merge(
        curves, left_on=["verifier", "best_of_n"], right_on=["verifier", "n"]
    )
    assert len(right) == 3 * POOL
    np.testing.assert_allclose(right[["value", "low_x", "high_x"]], right[["accuracy", "low_y", "high_y"]])
    assert len(pd.read_csv(built / "tables/parting.csv")) == 3
    assert "N at which these measures part" in (built / "report.html").read_text(encoding="utf-8")


def test_the_figure_draws_changes_and_where_it_is_sure_that_they_part(over):
    empty = pd.DataFrame(columns=["verifier", "best_of_n", "vendi"])
    fig = over_figure.over_optimisation(over.by_n, over.parting, empty, "")
    (axes,) = fig.axes
    lines = {line.get_label(): line for line in axes.lines}
    late = over.by_n[over.by_n["judge"] == "late"]
    np.testing.assert_allclose(lines["judge late"].get_ydata(), late["change"])
    sure = [
        line.get_xdata()[0]
        for line in axes.lines
        if line.get_linestyle() == ":" and len(line.get_xdata()) == 2
    ]
    assert sure == [late.set_index("best_of_n")["value"].idxmax()]
    assert axes.texts[0].get_text() == "\u25a0 parts at N: none [none, none]"  # geneval, by its marker
    n = int(sure[0])
    assert axes.texts[1].get_text() == f"\u25c6 parts at N: {n} [{n}, {n}]"
    assert drawn(fig, "png", dpi=30)


def test_diversity_is_of_the_prompts_whose_whole_pools_were_kept(made):
    run = load_run(made)
    seen = []

    def embed(images):
        rows = np.stack([np.asarray(image, float).mean((0, 1)) + np.array([0, 0, 1]) for image in images])
        seen.extend(rows := rows / np.linalg.norm(rows, axis=1, keepdims=True))
        return rows

    found = diversity(run, Pictures(run), {"nano": embed}.__getitem__)
    assert list(found["best_of_n"]) == [1, 2, 4, 8] * 3
    assert set(found["prompts"]) == {6}
    features = np.array(seen).reshape(6, POOL, 3)
    first = found.iloc[0]
    assert first["vendi"] == pytest.approx(vendi(features, np.full((6, POOL), 1 / POOL)))
    kept = sorted(Pictures(run).kept(run.candidates)["prompt_id"].unique())
    scores = run.scores[run.scores["verifier"] == "vhs"].sort_values(CANDIDATE)
    best = [scores[scores["prompt_id"] == p]["score"].to_numpy().argmax() for p in kept]
    last = found[(found["verifier"] == "vhs") & (found["best_of_n"] == POOL)].iloc[0]
    assert last["distance"] == pytest.approx(distance(features, np.eye(POOL)[best], kept))


def test_diversity_is_empty_where_no_pictures_were_kept(run, tmp_path):
    bare = replace(run, path=tmp_path, info=run.info | {"digests": {}})
    found = diversity(bare, Pictures(bare), {}.__getitem__)  # no CLIP is asked for
    assert found[["vendi", "distance"]].isna().all(axis=None)
    assert list(found["prompts"]) == [0, 0, 0, 0]


def test_diversity_is_looked_at_where_it_is_asked_for_alone(made, monkeypatch):
    asked = []

    def seen(run, pictures, embedder):
        asked.append(len(run.candidates))
        return pd.DataFrame(columns=COLUMNS)

    monkeypatch.setattr(derived, "diversity", seen)
    run = load_run(made)
    assert derived.derive(run).diversity.empty
    assert not asked
    assert derived.derive(run, with_diversity=True).diversity.empty
    assert asked == [len(run.candidates)]
