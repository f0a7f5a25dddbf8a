"""Pictures with verdicts or captions: winners (the paper's Fig. 9), disagreements (Fig. 8), captions (Fig. 7)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from vhsbench.harness.report.calibration import answered
from vhsbench.harness.report.style import SCREEN, USUAL, Looks, Sheet, label, names_in
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.sweep.kept_images import Pictures

RIGHT, WRONG = ("\u2713", "#009E73"), ("\u2717", "#D55E00")
_ROWS = 6  # prompts in one block
_ACROSS = 4  # verifiers in one of two
_PROMPT, _PICTURE = 0.95, 0.9  # inches across
_LETTER, _LETTERS = 0.06, 14  # inches of a label's letter, and how many are in a line at most
_PROMPT_LETTERS, _BESIDE = 19, 0.25  # of a line of a prompt at most; inches beside a picture
_CAPTIONED, _CAPTIONED_ACROSS = 12, 4

Picture = Callable[[Any], Image.Image | None]  # a candidate's row -> its image, None if it is lost


def disagreements(
    candidates: pd.DataFrame, scores: pd.DataFrame, pictures: Pictures, each: int = 3
) -> pd.DataFrame:
    """Select each verifier's most confident verdicts that GenEval contradicts, among the pictures that were kept.

    `each` that it accepted though wrong and `each` that it refused though right, one per prompt. Returns the
    candidate's columns, verifier, score, correct, reason, kind. A verifier without P(yes) gives no verdicts.
    """
    joined = answered(scores).merge(candidates, on=CANDIDATE, validate="many_to_one")
    joined = joined[(joined["score"] > 0) != joined["correct"]]
    parts = []
    for _, part in joined.groupby("verifier", sort=True):
        for correct, kind in ((False, "accepted, wrong by GenEval"), (True, "refused, right by GenEval")):
            rows = part[part["correct"] == correct].sort_values(
                ["score", "prompt_id", "index"], ascending=[correct, True, True]
            )
            rows = pictures.kept(rows.drop_duplicates("prompt_id")).head(each)
            parts.append(rows.assign(kind=kind))
    return pd.concat(parts, ignore_index=True) if parts else joined.assign(kind="")


def winners_figure(
    winners: pd.DataFrame, picture: Picture, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN
) -> Figure:
    """Draw each verifier's pick by prompt, marked right or wrong by GenEval.

    Many prompts fill two blocks, unless many verifiers fill the width. winners: a candidate's columns, prompt,
    verifier, score, correct.
    """
    ids, names = list(winners["prompt_id"].unique()), names_in(winners, looks)
    half = -(-len(ids) // 2) if len(ids) > _ROWS and len(names) <= _ACROSS else len(ids)
    blocks = [part for part in (ids[:half], ids[half:]) if part]
    with sheet.styled():
        wide = len(blocks) * (_PROMPT + _PICTURE * len(names)) > sheet.column
        width = sheet.text if wide else sheet.column
        fig = sheet.figure(width, 0.5 + 0.98 * half)
        parts = fig.subfigures(1, len(blocks), squeeze=False)[0]
        for part, block in zip(parts, blocks, strict=True):
            across = (width / len(blocks) - _PROMPT) / len(names)
            letters = min(_LETTERS, int(across / _LETTER))
            _winners_block(part, winners, names, block, half, picture, letters, sheet)
        _headed(fig, title, sheet)
    return fig


def _winners_block(
    fig: Any,
    winners: pd.DataFrame,
    names: list[str],
    ids: list[int],
    rows: int,
    picture: Picture,
    letters: int,
    sheet: Sheet,
) -> None:
    grid = fig.subplots(rows, len(names), squeeze=False)
    for row in range(rows):
        for column, name in enumerate(names):
            axes = grid[row, column]
            if row >= len(ids):
                axes.set_axis_off()
                continue
            chosen = winners[(winners["prompt_id"] == ids[row]) & (winners["verifier"] == name)].iloc[0]
            _show(axes, chosen, picture)
            if row == 0:
                axes.set_title("\n".join(textwrap.wrap(label(name), letters)), fontsize=sheet.small)
            if column == 0:
                prompt = "\n".join(textwrap.wrap(chosen["prompt"], 17))
                axes.set_ylabel(prompt, rotation=0, ha="right", va="center", labelpad=4, fontsize=sheet.small)


def disagreements_figure(
    cases: pd.DataFrame, picture: Picture, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN
) -> Figure:
    """Draw the rows of `disagreements`, which also need the prompt, one line per verifier."""
    names, kinds = names_in(cases, looks), sorted(cases["kind"].unique())
    each = int(cases.groupby(["verifier", "kind"]).size().max())
    letters = min(_PROMPT_LETTERS, int((sheet.text / 2 / each - _BESIDE) / sheet.letter))
    with sheet.styled():
        fig = sheet.figure(sheet.text if len(kinds) > 1 else sheet.column, 0.7 + 1.5 * len(names))
        parts = fig.subfigures(1, len(kinds), squeeze=False, width_ratios=[1.12, 1][: len(kinds)])[0]
        for part, kind in zip(parts, kinds, strict=True):
            grid = part.subplots(len(names), each, squeeze=False)
            part.suptitle(kind)
            for row, name in enumerate(names):
                found = cases[(cases["verifier"] == name) & (cases["kind"] == kind)]
                for axes, (_, case) in zip(grid[row], found.iterrows(), strict=False):
                    _show(axes, case, picture)
                    axes.set_title("\n".join(textwrap.wrap(case["prompt"], letters)), fontsize=sheet.tiny)
                for axes in grid[row, len(found) :]:
                    axes.set(xticks=[], yticks=[], frame_on=False)
                    axes.grid(False)
                if part is parts[0]:
                    parts_of_label = label(name).rsplit(" ", 1)
                    said = "\n".join(line for p in parts_of_label for line in textwrap.wrap(p, _LETTERS))
                    grid[row, 0].set_ylabel(said, rotation=0, ha="right", va="center", labelpad=4)
        _headed(fig, title, sheet)
    return fig


def captions_figure(rows: pd.DataFrame, picture: Picture) -> Figure:
    """Draw at most twelve winners, each between its prompt and the aligned model's caption (the paper's Fig. 7).

    rows: a candidate's columns, prompt, verifier, caption.
    """
    rows = rows.head(_CAPTIONED)
    down = -(-len(rows) // _CAPTIONED_ACROSS)
    with SCREEN.styled():
        fig = SCREEN.figure(SCREEN.text, 0.4 + 2.35 * down)
        grid = fig.subplots(down, _CAPTIONED_ACROSS, squeeze=False).ravel()
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        for axes, (_, row) in zip(grid, rows.iterrows(), strict=False):
            _draw(axes, picture(row))
            axes.spines[:].set_visible(False)
            axes.set_title(_shortened(row["prompt"], 30, 2), fontsize=6.5, style="italic")
            said = row["caption"] or "(no words)"
            axes.set_xlabel(_shortened(said, 34, 5), fontsize=6, labelpad=2)
        name = label(rows["verifier"].iloc[0])
        _headed(fig, f"{name} after alignment: its caption of its pick for the prompt above", SCREEN)
    return fig


def _shortened(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def _headed(fig: Figure, title: str, sheet: Sheet) -> None:
    """Set the figure's title, if any, wrapped to its width."""
    if title:
        fig.suptitle(sheet.wrapped(title, fig.get_figwidth()))


def _draw(axes: Any, image: Image.Image | None) -> None:
    """Draw a picture, or the words "picture lost"."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    if image is None:
        axes.text(0.5, 0.5, "picture\nlost", ha="center", va="center", fontsize=6, transform=axes.transAxes)
        axes.set_aspect("equal", "box")
    else:
        axes.imshow(image, interpolation="nearest")


def _show(axes: Any, row: pd.Series, picture: Picture) -> None:
    """Draw a candidate with its score, framed and marked by GenEval's verdict."""
    _draw(axes, picture(row))
    mark, color = RIGHT if row["correct"] else WRONG
    axes.set_xlabel(f"{mark} {row['score']:+z.2f}", color=color, labelpad=2.5)
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linewidth=1.5)
