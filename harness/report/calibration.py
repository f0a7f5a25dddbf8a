"""Calibration: P(yes) against the share of right candidates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vhsbench.harness.stats.intervals import pooled_share
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.verifiers.metrics import BINS, calibration_error


def answered(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the scores with P(yes) and P(no): of verifiers that say yes or no, not of those that only rank."""
    return scores.dropna(subset=["p_yes", "p_no"])


def reliability(candidates: pd.DataFrame, scores: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Sort each verifier's candidates into equal bins of P(yes) / (P(yes) + P(no)).

    Returns columns verifier, low, high (the bin), confidence (mean P(yes) in it), right (share of right ones),
    share_low, share_high (its 95% interval by prompt), n, ece (expected calibration error of the verifier).
    A bin without candidates has n = 0 and is empty otherwise. Scores without probabilities are left out.
    """
    joined = answered(scores).merge(candidates, on=CANDIDATE, validate="many_to_one")
    total = joined["p_yes"] + joined["p_no"]
    joined = joined.assign(p=joined["p_yes"] / total)[total > 0]
    frames = [_of(str(name), part, bins) for name, part in joined.groupby("verifier", sort=True)]
    columns = ["verifier", "low", "high", "confidence", "right", "share_low", "share_high", "n", "ece"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _of(verifier: str, part: pd.DataFrame, bins: int) -> pd.DataFrame:
    which = np.minimum((part["p"] * bins).astype(int), bins - 1)
    rows = []
    for b in range(bins):
        inside = part[which == b]
        n = len(inside)
        shares = (np.nan,) * 4
        if n:
            share = pooled_share(inside["correct"], inside["prompt_id"])
            shares = (inside["p"].mean(), inside["correct"].mean(), share.low[0], share.high[0])
        rows.append((verifier, b / bins, (b + 1) / bins, *shares, n))
    columns = ["verifier", "low", "high", "confidence", "right", "share_low", "share_high", "n"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(ece=calibration_error(part["p"], part["correct"], bins))
