"""The paper's printed tables, claims and timings, and the data sheets of devices."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pandas as pd

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.tasks import TAGS

TABLES = ("table1", "table5", "table6", "table7")
CLAIMS, SHARES = "claims", "figure6"
# GenEval's prompts by task, with which the paper weighs its Overall
PROMPTS = {"single": 80, "two": 99, "counting": 80, "color": 94, "position": 100, "attribution": 100}
_GENERATORS = {
    "SANA-Sprint": "sana-sprint", "SANA-1.5": "sana-1.5", "FLUX-Schnell": "flux-schnell",
    "SD3.5-Turbo": "sd3.5-turbo", "PixArt-alpha-DMD": "pixart-alpha-dmd",
}  # fmt: skip
_VERIFIERS = {"VHS": "vhs", "MLLM w/ CLIP": "mllm-clip", "MLLM w/ AE": "mllm-ae"}
# columns that a table's caption stands for
_IMPLIED: dict[str, Any] = {"generator": "sana-sprint", "steps": 1}


class PublishedError(VhsbenchError):
    """A published table that does not exist; the message is one sentence for a user."""


def table(name: str) -> pd.DataFrame:
    """Read a published table as printed, in percent. Raises PublishedError for an unknown name."""
    if name not in TABLES:
        raise PublishedError(f"no published table '{name}'; known: {', '.join(TABLES)}.")
    return _read(name)


def published_rows(name: str) -> pd.DataFrame:
    """Read a published table in this project's names and columns; `place` says where it is printed.

    Raises PublishedError for an unknown name.
    """
    columns = dict(zip(PROMPTS, TAGS, strict=True)) | {"lora_epoch_fraction": "drift", "source": "place"}
    rows = table(name).rename(columns=columns)
    for column, value in _IMPLIED.items():
        if column not in rows:
            rows[column] = value
    return rows.replace({"generator": _GENERATORS, "verifier": _VERIFIERS})


def claims() -> pd.DataFrame:
    """Read the numbers that the paper's text states: key, value, unit, about, source."""
    return _read(CLAIMS)


def claim(key: str) -> float:
    """Look up the value of one claim. Raises KeyError for an unknown key."""
    return float(claims().set_index("key")["value"].loc[key])


def shares() -> pd.DataFrame:
    """Read the percentages of scores at the extremes (Fig. 6): verifier, scores, percent, about, source."""
    return _read(SHARES)


def sources() -> pd.DataFrame:
    """Read where each published table is printed: table, paper, place."""
    return _read("sources")


def a100_timings() -> pd.DataFrame:
    """Read the A100 times of best-of-N, T(N) = fixed_s + N x per_candidate_s, taken from the paper's figure and tables."""
    with files("vhsbench.results").joinpath("published/a100_timings.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def devices() -> pd.DataFrame:
    """Read the peak dense bf16 TFLOP/s, bandwidth (GB/s) and memory (GB) of GPUs, with their sources."""
    with files("vhsbench.results").joinpath("devices.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def recomputed_overall(rows: pd.DataFrame) -> pd.Series:
    """Average the six printed task accuracies, weighted by their numbers of prompts."""
    weights = pd.Series(PROMPTS)
    return rows[list(PROMPTS)].mul(weights).sum(axis=1) / weights.sum()


def _read(name: str) -> pd.DataFrame:
    with files("vhsbench.results").joinpath(f"published/{name}.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream, keep_default_na=False, na_values=[""])
