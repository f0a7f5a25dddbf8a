"""Tables as CSV, Markdown and LaTeX; best in bold, second underlined; unknown is empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from harness.derive import GENEVAL_OVERALL, OVERALL
from harness.geneval.rules import TAGS
from harness.report.style import label

HEADINGS = {
    "budget_ms": "Budget (ms)", "generator": "Generator", "steps": "Steps", "verifier": "Verifier",
    "best_of_n": "Best-of-N", "time_ms": "Time (ms)", "single_object": "Single", "two_object": "Two",
    "counting": "Counting", "colors": "Colors", "position": "Position", "color_attr": "Attribution",
    OVERALL: "Overall", GENEVAL_OVERALL: "GenEval overall",
}  # fmt: skip
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip

Mark = Callable[[str, int], str]  # (text, place 1 or 2) -> marked text


def latex_escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def write_budgets(budgets: pd.DataFrame, stem: Path) -> None:
    """The main comparison (the paper's Table 1) as stem.csv, stem.md and stem.tex."""
    budgets.to_csv(stem.with_suffix(".csv"), index=False)
    shown = [c for c in HEADINGS if c in budgets]
    for suffix, mark, render in ((".md", _mark_markdown, _markdown), (".tex", _mark_latex, _latex)):
        escape = latex_escape if suffix == ".tex" else str
        cells = _cells(budgets, shown, mark, escape)
        stem.with_suffix(suffix).write_text(render([HEADINGS[c] for c in shown], cells))


def write_table(frame: pd.DataFrame, stem: Path) -> None:
    """Any plain table as stem.csv, stem.md and stem.tex."""
    frame.to_csv(stem.with_suffix(".csv"), index=False)
    for suffix, escape, render in ((".md", str, _markdown), (".tex", latex_escape, _latex)):
        heads = [escape(c) for c in frame.columns]
        cells = [[escape(_text(v)) for v in row] for row in frame.itertuples(index=False)]
        stem.with_suffix(suffix).write_text(render(heads, cells))


def places(values: pd.Series) -> dict[int, int]:
    """Row -> 1 for the best values, 2 for the second best, by what is printed (one decimal)."""
    rounded = values.astype(float).round(1)
    ranked = sorted(set(rounded.dropna()), reverse=True)[:2]
    return {i: ranked.index(v) + 1 for i, v in rounded.items() if v in ranked}  # type: ignore[misc]


def _cells(
    budgets: pd.DataFrame, shown: list[str], mark: Mark, escape: Callable[[str], str]
) -> list[list[str]]:
    frame = budgets.reset_index(drop=True)
    place = {
        column: {k: v for _, part in frame.groupby("budget_ms") for k, v in places(part[column]).items()}
        for column in (*TAGS, OVERALL, GENEVAL_OVERALL)
    }
    rows = []
    for i, row in frame.iterrows():
        cells = []
        for column in shown:
            if column in place:
                cells.append(_accuracy(row, column, place[column].get(int(str(i)), 0), mark))
            elif column == "verifier":
                cells.append(escape(label(str(row[column]))))
            else:
                limited = column == "best_of_n" and bool(row["pool_limited"])
                cells.append(escape(_text(row[column]) + ("+" if limited else "")))
        rows.append(cells)
    return rows


def _accuracy(row: pd.Series, column: str, place: int, mark: Mark) -> str:
    if pd.isna(row[column]):
        return ""
    text = f"{row[column]:.1f}"
    text = mark(text, place) if place else text
    if column in (OVERALL, GENEVAL_OVERALL):
        text += f" [{row[f'{column}_low']:.1f}, {row[f'{column}_high']:.1f}]"
    return text


def _mark_markdown(text: str, place: int) -> str:
    return f"**{text}**" if place == 1 else f"<u>{text}</u>"


def _mark_latex(text: str, place: int) -> str:
    return rf"\textbf{{{text}}}" if place == 1 else rf"\underline{{{text}}}"


def _text(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([c.replace("|", r"\|") for c in r] for r in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(heads: list[str], rows: list[list[str]]) -> str:
    body = "".join(f"{' & '.join(row)} \\\\\n" for row in rows)
    head = " & ".join(heads)
    return (
        f"\\begin{{tabular}}{{{'l' * len(heads)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}\n"
    )
