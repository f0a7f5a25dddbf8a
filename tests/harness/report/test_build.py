from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image

from vhsbench.harness.report.style import figure, save

DRAWN = ("accuracy_over_time", "accuracy_over_tflop", "accuracy_over_memory", "teaser", "n_per_budget",
         "latency_breakdown", "accuracy_by_n", "score_distributions", "reliability", "gallery",
         "disagreements")  # fmt: skip
ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_its_data_fonts_and_size(built, name):
    stem = built / "figures" / f"{name}_nano"
    assert len(pd.read_csv(stem.with_suffix(".csv")))
    pdf = stem.with_suffix(".pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    with Image.open(stem.with_suffix(".png")) as image:
        dpi = image.info["dpi"][0]
        assert dpi == pytest.approx(300, abs=1)
        assert ONE_COLUMN - 0.1 <= image.width / 300 <= TWO_COLUMNS + 0.1
        assert image.height / 300 < 9.5


def test_a_pool_of_one_has_no_curves(built):
    assert not list((built / "figures").glob("*_single.*"))


def test_score_histograms_hold_every_candidate(built):
    data = pd.read_csv(built / "figures" / "score_distributions_nano.csv")
    assert data.groupby("verifier").size().tolist() == [24 * 8] * 3


def test_every_table_in_every_format(built):
    for name in ("budgets", "budgets_published", "scoring", "scoring_published", "headline",
                 "headline_published", "latency", "costs", "auc"):  # fmt: skip
        for suffix in (".csv", ".md", ".tex", ".html"):
            assert (built / "tables" / f"{name}{suffix}").stat().st_size > 0


def test_disagreements_contradict_geneval(built):
    data = pd.read_csv(built / "figures" / "disagreements_nano.csv")
    assert ((data["score"] > 0) != data["correct"]).all()
    assert data.groupby(["verifier", "kind"]).size().max() <= 3


def test_names_with_a_point_do_not_share_a_file(tmp_path):
    for name in ("accuracy_nano+lora-0.25", "accuracy_nano+lora-0.5", "accuracy_sd3.5-turbo"):
        save(figure(3.5, 1.0), tmp_path / name, pd.DataFrame({"name": [name]}))
    assert len(list(tmp_path.iterdir())) == 9
    assert pd.read_csv(tmp_path / "accuracy_sd3.5-turbo.csv")["name"].tolist() == ["accuracy_sd3.5-turbo"]
