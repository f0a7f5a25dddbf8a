"""A paper's folder: figures, tables, numbers and references of a run, ready for a venue's style, and a document with all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.report import paper_tables, tables
from vhsbench.harness.report.comparisons import AccuracyTable
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.paper_captions import Facts
from vhsbench.harness.report.paper_numbers import results, sentences
from vhsbench.harness.report.paper_references import references
from vhsbench.harness.report.paper_tables import Column
from vhsbench.harness.report.paper_venues import INCH, Venue
from vhsbench.harness.report.significance import marks
from vhsbench.harness.report.standings import label
from vhsbench.harness.report.style import label as style_label
from vhsbench.harness.report.style import task_name
from vhsbench.harness.report.tables import latex_escape
from vhsbench.harness.stats.intervals import brackets
from vhsbench.harness.store.keys import PIPELINE

_PREAMBLE = r"""% What the tables and figures of this folder need; \vhsbenchkit is where the folder is.
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{siunitx}
\sisetup{detect-weight=true, mode=text, table-number-alignment=center}
\providecommand{\vhsbenchkit}{.}
"""
_MAIN = r"""%% Made by vhsbench for %(venue)s: `pdflatex main`, `bibtex main`, `pdflatex main` twice. The page has the widths of the
%% venue's style; in your paper, use that style, and input what you need:
%%   \newcommand{\vhsbenchkit}{paper}\input{paper/preamble}\input{paper/results}
\documentclass[10pt%(columns)s]{article}
\usepackage[%(paper)s, textwidth=%(width).2fpt, textheight=%(height).2fpt, columnsep=%(gap).2fpt]{geometry}
\usepackage[T1]{fontenc}
\usepackage{times}
\usepackage{url}
\input{preamble}
\input{results}
\title{%(title)s}
\author{}
\date{}
\begin{document}
\maketitle
%(text)s

%(inputs)s

\nocite{*}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


@dataclass(frozen=True)
class Drawn:
    """A figure in the paper's folder: its kind, the stem of its file, inches across, its pool if there are several, its claim."""

    name: str
    stem: str
    width: float
    pool: str = ""
    claim: str = ""


def write_paper(derived: Derived, folder: Path, venue: Venue, drawn: Sequence[Drawn]) -> None:
    """Write tables/*.tex, a float for each figure, results.tex, references.bib, preamble.tex and main.tex.

    `drawn` are the figures that stand in folder/figures.
    """
    facts = Facts(derived)
    found = {f"tables/{t.name}": _accuracies(facts, t, venue) for t in derived.tables}
    pairs = derived.standings.pairs
    if len(pairs):
        found["tables/pairs"] = _pairs(facts, pairs, venue)
    found |= {f"figures/{figure.stem}": _figure(facts, figure, venue) for figure in drawn}
    names = list(found)
    found |= {"results": results(derived), "preamble": _PREAMBLE, "main": _main(derived, venue, names)}
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        write_output(folder / f"{name}.tex", text)
    write_output(folder / "references.bib", references(derived.config))


def _accuracies(facts: Facts, table: AccuracyTable, venue: Venue) -> str:
    table = AccuracyTable(
        table.name, table.title, paper_tables.in_order(table, facts.derived.looks),
        tuple(key for key in table.keys if key != "times"), table.groups, table.published,
    )  # fmt: skip
    rows = table.rows
    columns = tables.accuracies(rows)
    keys, values, starts = paper_tables.accuracy_columns(table, rows, marks(facts.derived, table, columns))
    caption = facts.table(table, _constants(table))
    return paper_tables.floats(table.name, caption, keys, values, starts, venue)


def _constants(table: AccuracyTable) -> str:
    """Say what the columns that were dropped would."""
    rows, said = table.rows, []
    for key in (*PIPELINE, "scoring", "drift"):
        if key in table.keys and rows[key].nunique(dropna=False) == 1:
            value = rows[key].iloc[0]
            text = f"{value} step{'s' if value != 1 else ''}" if key == "steps" else style_label(str(value))
            said.append(text)
    return ", ".join(said)


def _pairs(facts: Facts, pairs: pd.DataFrame, venue: Venue) -> str:
    several = len(facts.derived.pools) > 1
    budget = [f"{row['budget']:.4g} {row['unit']}" for _, row in pairs.iterrows()]
    starts = [i > 0 and said != budget[i - 1] for i, said in enumerate(budget)]
    keys = [Column("Budget", [said if i == 0 or starts[i] else "" for i, said in enumerate(budget)])]
    if several:
        keys.append(
            Column(
                "Generator", [f"{g}, {s}" for g, s in zip(pairs["generator"], pairs["steps"], strict=True)]
            )
        )
    keys += [
        Column(head, [label(v) for v in pairs[c]]) for head, c in (("Better", "better"), ("Other", "other"))
    ]
    ends = [brackets(low, high).strip() for low, high in zip(pairs["low"], pairs["high"], strict=True)]
    p = [f"{v:.4f}" if v >= 0.0001 else "<0.0001" for v in pairs["p_holm"]]
    values = [
        Column("Difference", [paper_tables.number(v, 1) for v in pairs["difference"]], True, ends=ends),
        Column("p", p, True),
    ]
    return paper_tables.floats("pairs", facts.pairs(len(set(budget)) > 1), keys, values, starts, venue)


def _figure(facts: Facts, figure: Drawn, venue: Venue) -> str:
    wide = venue.two_columns and figure.width * INCH > venue.column + 1
    kind = "figure*" if wide else "figure"
    caption = facts.figure(figure.name, figure.pool, latex_escape(figure.claim))
    return (
        f"\\begin{{{kind}}}[tbp]\n\\centering\n\\includegraphics{{\\vhsbenchkit/figures/{figure.stem}.pdf}}\n"
        f"\\caption{{{caption}}}\\label{{fig:{figure.stem}}}\n\\end{{{kind}}}\n"
    )


def _main(derived: Derived, venue: Venue, names: Sequence[str]) -> str:
    labels = {name: label(name) for name in [*derived.looks, "none"]}
    tasks = ", ".join(task_name(str(t)) for t in derived.run.candidates["tag"].unique())
    text = [
        r"We compare verifiers at equal cost with vhsbench~\cite{vhsbench}, on \result{prompts} prompts "
        rf"({latex_escape(tasks)}) and a pool of \result{{pool}} candidates.",
        *sentences(derived, labels),
    ]
    return _MAIN % {
        "venue": venue.name, "columns": ",twocolumn" if venue.two_columns else "", "paper": venue.paper,
        "width": venue.text, "height": venue.height, "gap": venue.text - 2 * venue.column if venue.two_columns else 0,
        "title": f"Results of {latex_escape(derived.config.name)}", "text": "\n".join(text),
        "inputs": "\n".join(f"\\input{{{name}}}" for name in names),
    }  # fmt: skip
