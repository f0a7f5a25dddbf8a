"""A paper's folder: what a venue's document takes in unchanged."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import get_args

import pandas as pd
import pytest
from matplotlib.text import Text

from vhsbench.generators import REGISTRY as GENERATORS
from vhsbench.harness.cli import Venue
from vhsbench.harness.report import figures, paper_tables
from vhsbench.harness.report.build import _figures
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.paper import write_paper
from vhsbench.harness.report.paper_numbers import name_of, sentences
from vhsbench.harness.report.paper_references import _KEYS, entries, references
from vhsbench.harness.report.paper_tables import Column, Setting
from vhsbench.harness.report.paper_venues import INCH, VENUES, printed
from vhsbench.harness.report.significance import BEST, SECOND, _beats, _ranks, marks
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.suites import REGISTRY as SUITES
from vhsbench.verifiers import KINDS, REGISTRY


def tex() -> str | None:
    """A TeX engine with what the document needs: tectonic, or pdflatex with siunitx."""
    if shutil.which("pdflatex") and shutil.which("bibtex") and shutil.which("kpsewhich"):
        found = subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False)
        if found.returncode == 0:
            return shutil.which("pdflatex")
    return shutil.which("tectonic")


TEX = tex()


@pytest.fixture(scope="module")
def derived(make_run, tmp_path_factory):
    entries = [{"name": "vhs"}, {"name": "mllm-clip", "label": "CLIP_50@b"}, {"name": "mllm-ae"}]
    folder = tmp_path_factory.mktemp("paper") / "run"
    run = make_run(folder, verifiers=entries, budgets=["140ms", "270ms", "0.02TFLOP"], gallery_prompts=2)
    return derive(load_run(run))


@pytest.fixture(scope="module")
def paper(derived, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    venue = VENUES["cvpr"]
    write_paper(derived, folder, venue, _figures(derived, folder / "figures", venue.sheet))
    return folder


@pytest.fixture(scope="module")
def written(derived, tmp_path_factory):
    """The folders of all venues, without figures."""
    folder = tmp_path_factory.mktemp("venues")
    for name, venue in VENUES.items():
        write_paper(derived, folder / name, venue, [])
    return folder


def test_the_command_line_has_all_venues():
    assert list(get_args(Venue)) == list(VENUES)


def test_widths_are_those_of_the_venues_styles():
    widths = {name: (round(v.column, 2), round(v.text, 2)) for name, v in VENUES.items()}
    assert widths == {
        "cvpr": (237.14, 496.86),
        "neurips": (397.48, 397.48),
        "iclr": (397.48, 397.48),
        "acl": (219.09, 455.24),
    }


def test_figures_are_as_wide_as_a_column_or_the_text_with_type_42_fonts(paper):
    found = {}
    for file in sorted((paper / "figures").glob("*.pdf")):
        pdf = file.read_bytes()
        found[file.stem] = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", pdf)[1]) / 72
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf
    assert found["accuracy_over_time"] == found["n_per_budget"] == 3.28125
    assert found["accuracy_by_n"] == found["score_distributions"] == 6.875
    assert set(found.values()) == {3.28125, 6.875}
    assert not list((paper / "figures").glob("*.png"))


@pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)
def test_text_in_figures_is_of_8_points_in_times_without_titles(derived, venue):
    fig = figures.accuracy_by_n(derived.curves, "", derived.looks, venue.sheet)
    fig.draw_without_rendering()
    texts = [text for text in fig.findobj(Text) if text.get_text()]
    assert {text.get_fontsize() for text in texts} == {8}
    assert {text.get_fontfamily()[0] for text in texts} == {"STIXGeneral"}
    assert fig.get_suptitle() == ""
    width = fig.get_figwidth()
    assert width * INCH == pytest.approx(venue.text)
    legend = fig.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= width * fig.dpi


def test_a_table_drops_constant_columns_and_keeps_numbers_at_their_point(paper):
    table = (paper / "tables" / "budgets.tex").read_text()
    assert "Generator" not in table
    assert "(nano, 1 step)" in table  # the caption says it
    head = next(line for line in table.splitlines() if line.startswith("Budget"))
    assert head.split(" & ")[:5] == ["Budget", "Verifier", "{$N$}", "{Time}", "{Single}"]
    spec = table.split(r"\begin{tabular}")[1].splitlines()[0]
    assert spec.count("S[") == 10
    first = table.split("\\midrule\n")[1].splitlines()
    assert [row.split(" & ")[1] for row in first] == ["no verifier", "VHS", r"CLIP\_50@b", "MLLM w/ AE"]


def test_captions_say_n_seeds_intervals_budgets_device_and_protocol(paper, derived):
    for name in ("tables/budgets", "figures/accuracy_over_time"):
        caption = next(
            line for line in (paper / f"{name}.tex").read_text().splitlines() if r"\caption" in line
        )
        for said in (
            "$n = 24$ prompts",
            "seed 0",
            r"95\% intervals",
            r"140, 270\,ms",
            r"5\% above",
            "measured on test",
            rf"protocol \texttt{{{derived.protocol.digest}}}",
        ):
            assert said in caption, (name, said)
    assert "0.02\\,TFLOP" in (paper / "tables" / "budgets_tflop.tex").read_text()


LONG = "a verifier whose label is long"


@pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)
@pytest.mark.parametrize("tasks", [2, 6, 12, 30])
def test_tables_fit_the_text_and_the_page(venue, tasks):
    rows = 60
    keys = [Column("Verifier", [LONG] * rows)]
    values = [Column(f"Task {i}", ["100.0"] * rows, True) for i in range(tasks)]
    values.append(Column("Overall", ["85.0"] * rows, True, ends=["[80.0, 90.0]"] * rows))
    text = paper_tables.floats("name", "A caption", keys, values, [False] * rows, venue)
    tables = text.split(r"\begin{tabular}")[1:]
    heads = [head for table in tables for head in re.findall(r"\{(Task \d+|Overall)\}", table)]
    assert set(heads) == {*(f"Task {i}" for i in range(tasks)), "Overall"}
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels) == len(tables)
    for table in tables:
        assert table.count(LONG) <= 48
    for part, setting in paper_tables._parts(keys, values, venue):
        assert paper_tables.width(part, setting) <= venue.text
        assert part[0] == keys[0]


def test_widths_of_text_are_those_of_times():
    assert printed("0", 8) == pytest.approx(4, abs=0.6)  # half an em
    assert printed("MLLM w/ CLIP", 8) > printed("VHS", 8) > printed("", 8) == 0
    two = [Column("A", ["00"]), Column("B", ["00"])]
    assert paper_tables.width(two, Setting(space=3)) == pytest.approx(2 * printed("00", 8) + 6)


def test_an_underlined_number_stands_where_the_others_do():
    column = Column("A", ["100.0", "9.5", "--"], True, {0: BEST, 1: SECOND})
    assert column.spec == "S[table-format=3.1]"
    assert [column.cell(i) for i in range(3)] == [
        r"\bfseries 100.0", r"{\hphantom{00}\underline{9.5}}", "{--}",
    ]  # fmt: skip


def test_every_difference_has_its_interval(derived):
    table = derived.tables[0]
    ends = {
        "delta": 1.0,
        "delta_low": 0.5,
        "delta_high": 1.5,
        "change": -2.0,
        "change_low": -3.0,
        "change_high": -1.0,
    }
    rows = table.rows.assign(**ends)
    _, values, _ = paper_tables.accuracy_columns(replace(table, rows=rows), rows, {})
    assert [column.ends[0] for column in values[-2:]] == ["[0.5, 1.5]", "[-3.0, -1.0]"]


def test_only_differences_beyond_doubt_are_marked():
    better = pd.Series([1.0] * 12)
    assert _beats({0: better, 1: better - 0.5, 2: better - 0.5}) == {(0, 1), (0, 2)}
    assert _beats({0: better.head(3), 1: better.head(3) - 0.5}) == set()  # three prompts show nothing
    assert _ranks([0, 1, 2], {(0, 1), (0, 2)}) == {0: BEST}
    assert _ranks([0, 1, 2], {(0, 1), (0, 2), (1, 2)}) == {0: BEST, 1: SECOND}
    assert _ranks([0, 1, 2], {(0, 2), (1, 2)}) == {}  # both are ahead, neither of the other
    assert _ranks([0], set()) == {}


def test_the_best_overall_is_the_verdicts_winner(derived):
    table = derived.tables[0]
    found = marks(derived, table, [OVERALL])[OVERALL]
    best = {
        (table.rows["budget_ms"][i], table.rows["verifier"][i]) for i, mark in found.items() if mark == BEST
    }
    verdicts = derived.standings.verdicts.query("unit == 'ms' and decided")
    assert best == set(zip(verdicts["budget"], verdicts["winners"], strict=True))
    undecided = replace(derived)
    undecided.__dict__["standings"] = replace(
        derived.standings, pairs=derived.standings.pairs.assign(beats=False)
    )
    assert marks(undecided, table, [OVERALL])[OVERALL] == {}


def test_every_number_has_a_name_and_the_text_cites_no_other(derived, paper):
    text = (paper / "results.tex").read_text()
    defined = re.findall(r"^\\defineresult\{(.*?)\}\{(.*)\}$", text, re.M)
    named = dict(defined)
    assert len(named) == len(defined)
    main = (paper / "main.tex").read_text()
    used = set(re.findall(r"\\result\{(.*?)\}", main.split(r"\maketitle")[1]))
    assert used <= set(named)
    assert len(used) > 5
    row = derived.tables[0].rows.query("budget_ms == 140 and verifier == 'CLIP_50@b'").iloc[0]
    assert named["budgets/140/CLIP_50@b/overall"] == f"{row[OVERALL]:.1f}"
    assert named["budgets/140/CLIP_50@b/overall_low"] == f"{row['overall_low']:.1f}"
    assert named["budgets/140/CLIP_50@b/best_of_n"] == str(row["best_of_n"])
    assert named["budgets/140/CLIP_50@b/time_ms"] == f"{row['time_ms']:.4g}"
    assert named["prompts"] == "24"
    assert named["latency/vhs/4/measured_ms"] == "130"
    assert named["costs/vhs/head/1/1/median_ms"] == "10"
    assert named["curves/oracle/counting/1/accuracy"] == named["curves/random/counting/8/accuracy"]
    assert float(named["over_optimisation/vhs/1/own-score/change"]) == 0
    assert named["headline/time_per_candidate/measured"] == r"\ensuremath{-}69.8"
    assert named["auc/vhs/auc"] == f"{derived.auc.set_index('verifier')['auc']['vhs']:.3f}"


def test_the_text_says_who_leads_with_or_without_intervals(derived):
    names = {name: name for name in [*derived.looks, "none"]}
    with_ends = sentences(derived, names)
    assert len(with_ends) == 2
    assert (
        r"[\result{verdict/140/ms/difference_low}, \result{verdict/140/ms/difference_high}]" in with_ends[0]
    )
    lone = replace(derived)
    lone.__dict__["standings"] = replace(
        derived.standings, verdicts=derived.standings.verdicts.assign(difference_low=float("nan"))
    )
    assert not any("difference_low" in said for said in sentences(lone, names))


def test_names_hold_what_tex_reads():
    assert name_of("a", 0.5, 'x#%\\{}é "', 70.0) == "a/0.5/x--------/70"


def test_references_are_of_what_was_used(derived, paper):
    def keys(text):
        return re.findall(r"^@\w+\{(.*?),", text, re.M)

    assert keys((paper / "references.bib").read_text()) == ["vhsbench", "latent-verifiers", "geneval"]
    config = derived.config
    used = config.model_copy(update={
        "generators": [config.generators[0].model_copy(update={"name": "pixart-alpha-dmd"})],
        "verifiers": [config.verifiers[0].model_copy(update={"name": "soft-tifa"})],
    })  # fmt: skip
    assert keys(references(used)) == [
        "vhsbench",
        "latent-verifiers",
        "pixart-alpha",
        "dmd",
        "geneval2",
        "geneval",
    ]
    own = {"nano", "own", *KINDS}
    for name in {*GENERATORS.names(), *REGISTRY.names(), *SUITES.names()} - own:
        wanted = _KEYS.get(name, (name,))
        assert keys(entries(wanted)) == list(wanted)


def test_the_document_takes_in_all_parts(paper):
    taken = set(re.findall(r"\\input\{(.*?)\}", (paper / "main.tex").read_text().split(r"\documentclass")[1]))
    parts = {str(f.relative_to(paper).with_suffix("")) for f in paper.rglob("*.tex")} - {"main"}
    assert taken == parts
    for file in (paper / "figures").glob("*.tex"):
        assert file.with_suffix(".pdf").exists()


@pytest.mark.skipif(not TEX, reason="the paper was NOT compiled: no pdflatex with siunitx, and no tectonic")
@pytest.mark.parametrize("venue", VENUES)
def test_the_document_compiles_with_no_box_too_wide(venue, paper, written, tmp_path):
    folder = shutil.copytree(paper if venue == "cvpr" else written / venue, tmp_path / venue)
    if "tectonic" in TEX:
        commands = [[TEX, "--keep-logs", "main.tex"]]
    else:
        latex = [TEX, "-interaction=nonstopmode", "-halt-on-error", "main"]
        commands = [latex, ["bibtex", "main"], latex]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "main.log").read_text(errors="replace")
    too_wide = [float(pt) for pt in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt too", log)]
    assert not [pt for pt in too_wide if pt > 1]
    assert "vhsbench Error" not in log
    assert (folder / "main.pdf").stat().st_size > 10_000
