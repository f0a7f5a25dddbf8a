"""Exact expectation of a cascade: A scores N candidates, its best K go to B, and B's best is picked.

Rank the pool by A. If the last of the K kept has rank r, which it has with probability
C(r-1, K-1) C(M-r, N-K) / C(M, N), the others are a random (K-1)-subset of those above it. With h(r, K), the accuracy of
B's best of a random K-subset of the first r, that of one that holds rank r follows:
h(r, K) = K/r x g(r, K) + (1 - K/r) x h(r-1, K). Candidates of equal score by A or B share, as in best-of-N.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from vhsbench.harness.stats.expected import expected_accuracy

Floats = NDArray[np.float64]


def cascade_accuracy(first: ArrayLike, second: ArrayLike, correct: ArrayLike) -> Floats:
    """Compute the probability that a cascade's pick is correct, for all N and K: [P, M, M], [:, N-1, K-1]; NaN for K > N.

    first, second: the scores [P, M] of A and B; correct: verdicts [P, M]. Raises ValueError as `expected_accuracy` does.
    """
    a, b = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    c = np.asarray(correct, dtype=np.float64)
    expected_accuracy(a, c)  # checks shapes and values
    order = np.argsort(-a, axis=1, kind="stable")
    a, b, c = (np.take_along_axis(x, order, axis=1) for x in (a, b, c))
    pools, size = a.shape
    best = np.zeros((pools, size + 1, size))  # [:, r, K-1] is h(r, K); NaN for K > r would spoil sums: 0
    for r in range(1, size + 1):
        best[:, r, :r] = expected_accuracy(b[:, :r], c[:, :r])
    for row in np.flatnonzero((a[:, 1:] == a[:, :-1]).any(1)):
        best[row] = _with_ties(a[row], b[row], c[row], best[row])
    rank, kept = np.arange(1, size + 1)[:, None], np.arange(1, size + 1)
    holding = (best[:, 1:] - np.clip(1 - kept / rank, 0, None) * best[:, :-1]) * (rank / kept)
    last = _last_kept(size)
    result = np.einsum("prk,rnk->pnk", holding, last)
    return np.where(kept <= np.arange(1, size + 1)[:, None], np.clip(result, 0.0, 1.0), np.nan)


@lru_cache(maxsize=8)
def _last_kept(size: int) -> Floats:
    """Tabulate the probability that the last of K kept of N drawn has rank r: [r-1, N-1, K-1]."""
    r, n, k = np.ogrid[1 : size + 1, 1 : size + 1, 1 : size + 1]
    logs = _log_choose(r - 1, k - 1) + _log_choose(size - r, n - k) - _log_choose(size, n)
    table = np.exp(logs)
    table.setflags(write=False)  # the cache returns this same array to every caller
    return table


def _log_choose(n: ArrayLike, k: ArrayLike) -> Floats:
    """Compute log C(n, k); -inf where there is no way to choose."""
    n, k = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(k, dtype=float))
    possible = (k >= 0) & (k <= n) & (n >= 0)
    safe_n, safe_k = np.where(possible, n, 0.0), np.where(possible, k, 0.0)
    logs = gammaln(safe_n + 1) - gammaln(safe_k + 1) - gammaln(safe_n - safe_k + 1)
    return np.where(possible, logs, -np.inf)


def _with_ties(a: Floats, b: Floats, c: Floats, best: Floats) -> Floats:
    """Average h(r, K) [M+1, M] of one pool over the orders of candidates that A ties.

    Within a tie, the first r are all above it and a random part of it: a K-subset of them has x of those above and
    K - x of the tied, each a random subset.
    """
    best = best.copy()
    starts = np.flatnonzero(np.r_[True, a[1:] != a[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(a)], strict=True):
        if end - start == 1:
            continue
        union = _best_of_union(b[:end], c[:end], int(start))
        for r in range(start + 1, end):
            k, x = np.ogrid[1 : r + 1, 0 : start + 1]
            shares = np.exp(_log_choose(start, x) + _log_choose(r - start, k - x) - _log_choose(r, k))
            taken = np.clip(k - x, 0, end - start)
            best[r, :r] = (shares * union[x, taken]).sum(1)
    return best


def _best_of_union(b: Floats, c: Floats, above: int) -> Floats:
    """Compute the accuracy of B's best of a random x-subset of the first `above` with a random y-subset of the rest: [x, y].

    A candidate wins if it is drawn and none that is before it: those of higher B, and of the T of equal B a random part,
    since ties share. That part has each size from 0 to T - 1 with the same probability.
    """
    sizes = (above, len(b) - above)
    upper = np.arange(len(b)) < above
    total = np.zeros((sizes[0] + 1, sizes[1] + 1))
    for i in range(len(b)):
        higher, tied = b > b[i], (b == b[i]) & (np.arange(len(b)) != i)
        counts = [(int((higher & part).sum()), int((tied & part).sum())) for part in (upper, ~upper)]
        ahead = np.arange(sum(t for _, t in counts) + 1)
        for p in range(counts[0][1] + 1):
            for q in range(counts[1][1] + 1):
                weight = np.exp(
                    _log_choose(counts[0][1], p) + _log_choose(counts[1][1], q) - _log_choose(len(ahead) - 1, p + q)
                ) / len(ahead)  # fmt: skip
                absent = (counts[0][0] + p, counts[1][0] + q)
                mine = 0 if upper[i] else 1
                chances = [
                    _drawn(sizes[side], absent[side])
                    if side == mine
                    else _none_drawn(sizes[side], absent[side])
                    for side in (0, 1)
                ]
                total += c[i] * weight * chances[0][:, None] * chances[1]
    return total


def _none_drawn(size: int, absent: int) -> Floats:
    """Compute the probability that a random y-subset of `size` holds none of `absent` of them, for y = 0..size."""
    y = np.arange(size + 1)
    return np.exp(_log_choose(size - absent, y) - _log_choose(size, y))


def _drawn(size: int, absent: int) -> Floats:
    """Compute the probability that a random y-subset holds one candidate and none of `absent` others, for y = 0..size."""
    y = np.arange(size + 1)
    return np.exp(_log_choose(size - absent - 1, y - 1) - _log_choose(size, y))
