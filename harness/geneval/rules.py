"""GenEval's verdict on one image, rule by rule as in the official evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vhsbench.harness.geneval.metadata import COLORS as COLORS
from vhsbench.harness.geneval.metadata import MAX_OBJECTS, check_clauses
from vhsbench.harness.geneval.metadata import RELATIONS as RELATIONS
from vhsbench.harness.judges.protocol import Verdict

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_OVERLAP = 1.0  # of IoU; 1.0 is no suppression
POSITION_THRESHOLD = 0.1


@dataclass(frozen=True)
class Detection:
    """One detected object: box (x1, y1, x2, y2) in pixels, score in 0..1, and a bool mask [H, W] or None.

    The mask is an array, or a tensor on the detector's device.
    """

    box: tuple[float, float, float, float]
    score: float
    mask: Any = field(default=None, compare=False, repr=False)


Objects = Mapping[str, Sequence[Detection]]


def select(
    raw: Objects,
    task: str,
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_objects: int = MAX_OBJECTS,
    max_overlap: float = MAX_OVERLAP,
) -> dict[str, list[Detection]]:
    """Select what counts as an object: by falling score, above the threshold, capped, then non-overlapping.

    The comparison is strict and in float32 (float32(0.3) is not kept); of equal scores the later
    row comes first, as in a reversed argsort. Classes without an object are dropped.
    """
    limit = np.float32(counting_threshold if task == "counting" else threshold)
    kept = {}
    for name, rows in raw.items():
        scores = np.array([d.score for d in rows], dtype=np.float32)
        order = np.argsort(scores, kind="stable")[::-1]
        chosen = [rows[i] for i in order if scores[i] > limit][:max_objects]
        if max_overlap < 1.0:
            chosen = _suppress(chosen, max_overlap)
        if chosen:
            kept[name] = chosen
    return kept


def iou(a: Detection, b: Detection) -> float:
    """Compute intersection over union with GenEval's +1 pixel areas."""

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.box, b.box
    both = area(max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2))
    union = area(*a.box) + area(*b.box) - both
    return both / union if union else 0.0


def _suppress(ordered: Sequence[Detection], max_overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    rest = list(ordered)
    while rest:
        best = rest.pop(0)
        kept.append(best)
        rest = [d for d in rest if iou(best, d) < max_overlap]
    return kept


def relations(a: Detection, b: Detection, position_threshold: float = POSITION_THRESHOLD) -> set[str]:
    """Return how `a` stands to `b`: none, one or two of RELATIONS."""
    boxes = np.array([a.box, b.box], dtype=np.float32).reshape(2, 2, 2)
    center_a, center_b = boxes.mean(axis=-2)
    size_a, size_b = np.abs(np.diff(boxes, axis=-2))[..., 0, :]
    offset = center_a - center_b
    shrunk = np.maximum(np.abs(offset) - position_threshold * (size_a + size_b), 0) * np.sign(offset)
    if np.all(np.abs(shrunk) < 1e-3):
        return set()
    dx, dy = shrunk / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, true in holds.items() if true}


def colored(metadata: Mapping[str, Any], objects: Objects) -> list[Sequence[Detection]]:
    """Return the objects whose colours matter, for each include clause; none if it names no colour or found too few.

    Raises MetadataError for clauses that these rules cannot apply.
    """
    check_clauses(metadata, "GenEval metadata")
    found = [(clause, _found(clause, objects)) for clause in metadata["include"]]
    return [rows if "color" in clause and len(rows) == clause["count"] else [] for clause, rows in found]


def evaluate(
    metadata: Mapping[str, Any],
    objects: Objects,
    colors: Sequence[Sequence[str]],
    *,
    position_threshold: float = POSITION_THRESHOLD,
) -> Verdict:
    """Judge selected objects (by falling score) against a prompt's include and exclude clauses.

    `colors` are those of the objects that `colored` returns, clause by clause. Raises MetadataError for
    clauses that these rules cannot apply.
    """
    check_clauses(metadata, "GenEval metadata")
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause, named in zip(metadata["include"], colors, strict=True):
        found = _found(clause, objects)
        reason = _count_and_color(clause, found, named)
        if not reason and "position" in clause:
            reason = _position(clause, found, groups, position_threshold)
        if reason:
            reasons.append(reason)
        groups.append(None if reason else found)
    for clause in metadata.get("exclude", []):
        found = list(objects.get(clause["class"], []))
        if len(found) >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {len(found)}")
    return Verdict(float(not reasons), not reasons, "\n".join(reasons))


def _found(clause: Mapping[str, Any], objects: Objects) -> list[Detection]:
    """Return the clause's objects, at most as many as it asks for."""
    return list(objects.get(clause["class"], []))[: clause["count"]]


def _count_and_color(clause: Mapping[str, Any], found: Sequence[Detection], colors: Sequence[str]) -> str:
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if "color" not in clause:
        return ""
    color = clause["color"]
    colors = list(colors)
    if colors.count(color) >= count:
        return ""
    others = ", ".join(f"{colors.count(c)} {c}" for c in COLORS if c in colors)
    return f"expected {color} {name}>={count}, found {colors.count(color)} {color}; and {others}"


def _position(
    clause: Mapping[str, Any],
    found: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    position_threshold: float,
) -> str:
    expected, target = clause["position"]
    targets = groups[target]
    if targets is None:
        return f"no target for {clause['class']} to be {expected}"
    for one in found:
        for other in targets:
            true = relations(one, other, position_threshold)
            if expected not in true:
                return (
                    f"expected {clause['class']} {expected} target, found {' and '.join(sorted(true))} target"
                )
    return ""
