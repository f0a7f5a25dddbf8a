"""The style of all figures: Okabe-Ito colours, which colour-blind readers can tell apart."""

from __future__ import annotations

import io
import logging
import math
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes, printable
from vhsbench.harness.common.tasks import TAGS, columns
from vhsbench.harness.report.colors import apart_from

log = logging.getLogger(__name__)
_said_missing = False

# tried in this order for characters that matplotlib's default font lacks
_WIDER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS",
    "Noto Sans", "Noto Emoji", "Symbola", "Segoe UI Emoji",
)  # fmt: skip


def fonts() -> list[str]:
    """List matplotlib's default font, then the installed fonts with more characters."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _WIDER_FONTS if name in installed)]


_RC: dict[Any, object] = {
    "text.parse_math": False,  # a prompt may hold a $
    "font.family": fonts(),
    "font.size": 8, "axes.titlesize": 8.5, "figure.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25, "grid.linewidth": 0.5,
    "pdf.fonttype": 42, "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """What figures are made for: widths of a column, the text and a letter, and its height, in inches; small and tiny type, in points."""

    column: float = 3.5
    text: float = 7.16
    letter: float = 0.052
    small: float = 6.5
    tiny: float = 5.5
    tallest: float = math.inf
    settings: Mapping[Any, object] = field(default_factory=dict)

    def styled(self) -> AbstractContextManager[None]:
        """Make a context in which axes are drawn and saved in this style."""
        return matplotlib.rc_context(_RC | dict(self.settings))

    def figure(self, width: float, height: float) -> Figure:
        """Make a figure of the given size in inches, as high as the sheet at most, without pyplot's global state."""
        with self.styled():
            return Figure(figsize=(width, min(height, self.tallest)))

    def wrapped(self, title: str, width: float) -> str:
        """Wrap a title to a width in inches."""
        return "\n".join(textwrap.wrap(title, int(width / (1.28 * self.letter))))


SCREEN = Sheet()
STAGE_COLORS = {
    "encode": "#999999", "noise": "#DDDDDD", "head": "#E69F00", "denoise": "#F0E442", "tail": "#CC79A7",
    "decode": "#56B4E9", "score": "#009E73",
}  # fmt: skip
TASK_NAMES = dict(zip(TAGS, ("single object", "two objects", "counting", "colors", "position",
                             "color attribution"), strict=True))  # fmt: skip


def task_name(tag: str) -> str:
    """Return a task's name for readers."""
    return TASK_NAMES.get(tag) or printable(tag.replace("_", " "))


def mean_of_tasks(tags: Iterable[str]) -> str:
    """Name the mean of the means of tasks with these `tags`: GenEval's score, where they are its tasks."""
    return "GenEval overall" if set(tags) & set(TAGS) else "Mean of tasks"


def task_names(tags: Iterable[str]) -> dict[str, str]:
    """Name the tasks that tables show of prompts with these `tags`, in their order."""
    return {tag: task_name(tag) for tag in columns(tags)}


@dataclass(frozen=True)
class Look:
    label: str
    color: str
    marker: str
    line: str = "-"


_PNG_DPI = 300
_KINDS = {
    "vhs": Look("VHS", "#D55E00", "o"),
    "mllm-clip": Look("MLLM w/ CLIP", "#0072B2", "s"),
    "mllm-ae": Look("MLLM w/ AE", "#009E73", "^"),
}
_SCORERS = {
    "clip-score": "CLIPScore",
    "pick-score": "PickScore",
    "hps-v2": "HPS v2",
    "image-reward": "ImageReward",
    "vqa-score": "VQAScore",
    "soft-tifa": "Soft-TIFA",
}
_OTHERS = {
    "oracle": Look("oracle", "#555555", "", "--"),
    "random": Look("random", "#999999", "", ":"),
    "none": Look("no verifier", "#999999", "x", ":"),
}
_SPARE = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C1D40", "#8FBF5F", "#332288", "#A020F0", "#553300", "#9C8FFF",
          "#00607A", "#1133EE")  # fmt: skip
_SPARE_MARKERS = ("D", "v", "P", "X", "<", ">", "*", "p", "h", "d", "8", "H")

_TAKEN = (*(look.color for look in (*_KINDS.values(), *_OTHERS.values())), *_SPARE, "#FFFFFF")

Looks = Mapping[str, Look]  # by what tables have as verifier, in the order in which they are drawn


def looks(kinds: Mapping[str, str]) -> Looks:
    """Give every verifier of a run a colour and marker by its place, no two alike, in the run's order. kinds: by label.

    A known kind's are those of the verifier that is named like it, else of the first of that kind; others get spare ones.
    """
    first = {kind: name for name, kind in reversed(list(kinds.items()))} | {
        k: k for k in kinds if kinds[k] == k
    }
    known = {first[kind]: look for kind, look in _KINDS.items() if kind in first}
    spare = [name for name in kinds if name not in known]
    found = {name: replace(look, label=label(name)) for name, look in known.items()}
    found |= {name: spare_look(name, place) for place, name in enumerate(spare)}
    return {name: found[name] for name in kinds} | _OTHERS


def spare_look(name: str, place: int) -> Look:
    """Return the look of the `place`-th line that has none of its own; no two have the same colour."""
    more = place - len(_SPARE)
    color = _SPARE[place] if more < 0 else apart_from(_TAKEN, more + 1)[more]
    again, i = divmod(place, len(_SPARE_MARKERS))
    return Look(label(name), color, _SPARE_MARKERS[(i + again) % len(_SPARE_MARKERS)])


def names_in(frame: pd.DataFrame, looks: Looks) -> list[str]:
    """List the verifiers of a frame's rows in the run's order, then others by name."""
    place = {name: i for i, name in enumerate(looks)}
    return sorted(map(str, frame["verifier"].unique()), key=lambda name: (place.get(name, len(place)), name))


def pool_title(pool: tuple[str, int], pools: Iterable[tuple[str, int]]) -> str:
    """Name a pool (generator, steps) among pools: with its steps where its generator has several."""
    generator, steps = pool
    several = sum(g == generator for g, _ in pools) > 1
    return f"{generator}, {steps} step{'s' if steps > 1 else ''}" if several else generator


def pool_prefix(pool: tuple[str, int], pools: Collection[tuple[str, int]]) -> str:
    """Return how a sentence on a pool begins: with its name, or with nothing if it is the only one."""
    return f"{pool_title(pool, pools)}, " if len(pools) > 1 else ""


def label(verifier: str) -> str:
    """Return the name that readers see: a label as it was given, a kind's or the like in words."""
    known = (_KINDS | _OTHERS).get(verifier)
    return known.label if known else _SCORERS.get(verifier, verifier)


USUAL = looks({kind: kind for kind in _KINDS})  # of the known kinds under their own names


def save(fig: Figure, stem: Path, data: pd.DataFrame, sheet: Sheet = SCREEN, with_png: bool = True) -> None:
    """Write stem.png (300 dpi), stem.pdf (fonts embedded), and the data behind them as stem.csv."""
    with sheet.styled(), _one_warning_of_missing_characters():
        _lay_out(fig, _PNG_DPI)
        png = drawn(fig, "png", dpi=_PNG_DPI) if with_png else b""
        # no date in the file, so that the same run gives the same bytes
        pdf = drawn(fig, "pdf", metadata={"CreationDate": None})
    pictures = {"png": png} if with_png else {}
    for kind, content in (pictures | {"pdf": pdf, "csv": csv_bytes(data)}).items():
        # not with_suffix: a generator's name may contain a dot
        write_output(stem.with_name(f"{stem.name}.{kind}"), content)


def _lay_out(fig: Figure, dpi: int) -> None:
    """Lay out a figure once for all files; savefig would draw it each time only to lay it out."""
    before = fig.dpi
    fig.dpi = dpi
    if (engine := fig.get_layout_engine()) is not None:
        engine.execute(fig)
    fig.set_layout_engine("none")
    fig.dpi = before


def drawn(fig: Figure, kind: str, **options: Any) -> bytes:
    """Render a figure as the bytes of a file of that kind."""
    stream = io.BytesIO()
    fig.savefig(stream, format=kind, **options)
    return stream.getvalue()


@contextmanager
def _one_warning_of_missing_characters() -> Iterator[None]:
    """Warn once per process of characters that no installed font has, not once per character and figure."""
    global _said_missing
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if not str(warning.message).startswith("Glyph"):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif not _said_missing:
            _said_missing = True
            log.warning(
                "Figures show some characters as boxes, which no installed font has: %s; "
                "install one, such as Noto Sans CJK or Noto Emoji.", warning.message,
            )  # fmt: skip
