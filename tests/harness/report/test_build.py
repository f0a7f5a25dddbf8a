from __future__ import annotations

import re

import pandas as pd
import pytest
from PIL import Image

from vhsbench.harness.report.style import SCREEN, save
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.protocol import of_run

DRAWN = ("accuracy_over_time", "accuracy_over_tflop", "teaser", "n_per_budget",
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


PLAIN = ("headline", "headline_published", "latency", "costs", "auc")
ACCURACIES = ("budgets", "budgets_published", "scoring", "scoring_published")


def cells(built, name):
    """The cells of a table's files of three kinds, heads first."""
    markdown, latex, html = ((built / "tables" / f"{name}{s}").read_text() for s in (".md", ".tex", ".html"))
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [line for line in latex.splitlines() if line.endswith(r" \\")]
    return (
        [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in (lines[0], *lines[2:])],
        [row.removesuffix(r" \\").split(" & ") for row in rows],
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", html)],
    )


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_table_has_the_same_cells_in_every_format(built, name):
    data = pd.read_csv(built / "tables" / f"{name}.csv").drop(columns="protocol")
    markdown, latex, html = cells(built, name)
    assert markdown[0] == html[0] == list(data)
    assert len(markdown) == len(latex) == len(html) == 1 + len(data)
    for at, column in enumerate(data):
        if data[column].dtype == float:
            shown = ["" if pd.isna(value) else f"{value:.4g}" for value in data[column]]
            assert [[row[at] for row in table[1:]] for table in (markdown, latex, html)] == [shown] * 3


@pytest.mark.parametrize("name", ACCURACIES)
def test_an_accuracy_table_shows_its_data_in_every_format(built, name):
    data = pd.read_csv(built / "tables" / f"{name}.csv")
    for table in cells(built, name):
        overall = [re.sub(r"<[^>]*>|\*\*|\\\w+\{|\}|\[.*", "", row[-2]).strip() for row in table]
        assert overall[0] == "Overall"
        signed = data["source"] == "difference" if "source" in data else [False] * len(data)
        known = zip(data["overall"], signed, strict=True)
        assert overall[1:] == ["" if pd.isna(v) else f"{v:+.1f}" if s else f"{v:.1f}" for v, s in known]


def test_every_table_says_its_protocol(built):
    digest = of_run(load_run(built.parent / "run")).digest
    found = sorted((built / "tables").glob("*.csv"))
    assert len(found) > 15
    for file in found:
        assert set(pd.read_csv(file, dtype=str)["protocol"]) <= {digest}, file  # empty, if the table is
    for file in set((built / "tables").iterdir()) - set(found):
        assert file.read_text().count(digest) == 1, file
    assert (
        f"<dt>protocol</dt><dd>{digest} (detector, precision, versions not recorded)"
        in (built / "report.html").read_text()
    )


def test_names_with_a_point_do_not_share_a_file(tmp_path):
    for name in ("accuracy_nano+lora-0.25", "accuracy_nano+lora-0.5", "accuracy_sd3.5-turbo"):
        save(SCREEN.figure(3.5, 1.0), tmp_path / name, pd.DataFrame({"name": [name]}))
    assert len(list(tmp_path.iterdir())) == 9
    assert pd.read_csv(tmp_path / "accuracy_sd3.5-turbo.csv")["name"].tolist() == ["accuracy_sd3.5-turbo"]
