"""The teacher that nano's generator learns: a fixed rule from (noise, prompt) to a scene.

One-step models are distilled from a slow teacher. Nano's teacher is a rule instead of a network: it
projects the noise on nine smooth windows, one per grid cell, and reads from those scores which
cells are taken, free colours, offsets and sizes. Where two scores nearly tie, the student's picture
is a blend, so candidates of a prompt differ in correctness by their noise, as best-of-N needs.

Latents have fewer channels than the teacher has features, so a window sees a channel in several modes: feature f
reads channel f mod C with mode f div C, a window times a Hermite polynomial of the place. All are orthonormalised,
so that features stay independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vhsbench.generators.nano.scenes import Scenes
from vhsbench.generators.nano.world import CELL, COLORS, GRID, JITTER, RADIUS, SHAPES

LATENT_SIZE = 8
LATENT_CHANNELS = 4
_SIGMA = 0.9  # width of a window, in latent cells
_FIRST, _SECOND, _RADIUS, _X, _Y, _COLOR = 0, 1, 2, 3, 4, 5  # the features that the teacher reads
FEATURES = _COLOR + len(COLORS)
_MODES = ((0, 0), (0, 1), (1, 0), (1, 1))  # Hermite degrees in y and x
_SPECKLES = 3  # further modes, of fixed random signs, which two channels need
MOST_OBJECTS = 4

Metadata = Mapping[str, Any]


@cache
def modes(count: int) -> NDArray[np.float32]:
    """Return the windows' first `count` modes over the latent plane, orthonormal, [count, 9, 64].

    Mode 0 of a cell is a Gaussian around it; the others are it times a Hermite polynomial of the distance (1, x, y, xy), and
    from the fifth on, which two channels need, times fixed random signs: no more polynomials are independent.
    Modes are made orthogonal to all earlier ones (symmetrically among the nine cells), as far as they overlap; mode 0 keeps
    its overlap, so that neighbouring cells compete.
    """
    axis = np.arange(LATENT_SIZE) + 0.5
    centers = (np.arange(GRID) + 0.5) * LATENT_SIZE / GRID
    away = (axis[None] - centers[:, None]) / _SIGMA
    bump = np.exp(-(away**2) / 2)
    shapes = [np.einsum("iy,jx->ijyx", bump * away**y, bump * away**x) for y, x in _MODES]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_SPECKLES, LATENT_SIZE, LATENT_SIZE))
    shapes += [shapes[0] * speckle for speckle in signs]
    found: list[NDArray[np.float64]] = []
    for planes in shapes[:count]:
        flat = planes.reshape(GRID * GRID, -1)
        if found:
            basis = np.linalg.qr(np.concatenate(found).T)[0]
            flat = flat - (flat @ basis) @ basis.T
            left, _, right = np.linalg.svd(flat, full_matrices=False)
            flat = left @ right  # the nearest orthonormal set
        found.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    return np.asarray(np.stack(found), dtype=np.float32)


@cache
def _modes_on(count: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(modes(count)).to(device)


def scores(noise: torch.Tensor) -> torch.Tensor:
    """Read every feature of noise [B, C, 8, 8] at the nine cells: scores [B, FEATURES, 9], each of unit variance.

    Two channels hold 14 features, and the fifteenth, a colour, reads what the size does.
    """
    channels = noise.shape[1]
    count = min(-(-FEATURES // channels), len(_MODES) + _SPECKLES)
    planes = noise.flatten(2)
    found = torch.einsum("bcp,mkp->bmck", planes, _modes_on(count, noise.device))
    slots = found.flatten(1, 2)
    return torch.cat([slots, slots[:, _RADIUS:]], 1)[:, :FEATURES]


_OFFSETS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
RELATIONS = tuple(_OFFSETS)


@cache
def partner_cells(relation: str) -> tuple[int | None, ...]:
    """Return, for each cell, the neighbour to which it stands in `relation`; None at the grid's edge."""
    dx, dy = _OFFSETS[relation]
    partners: list[int | None] = []
    for cell in range(GRID * GRID):
        x, y = cell % GRID - dx, cell // GRID - dy
        partners.append(y * GRID + x if 0 <= x < GRID and 0 <= y < GRID else None)
    return tuple(partners)


def objects_of(metadata: Metadata) -> tuple[list[tuple[str, str | None]], str | None]:
    """Return (class, colour or None) in the order of the prompt, and the relation of the first to the second."""
    clauses = list(metadata["include"])
    relation = next((c["position"][0] for c in clauses if "position" in c), None)
    if relation is not None:
        clauses.reverse()  # GenEval names the reference object first
    return [(c["class"], c.get("color")) for c in clauses for _ in range(c["count"])], relation


@dataclass(frozen=True)
class Orders:
    """What prompts ask for, as tensors [P] or [P, MOST_OBJECTS]: the teacher draws by rows of it.

    kinds and colors are indices, colour -1 is free; `same` says that all objects are alike, `relation` is an index
    of RELATIONS or -1.
    """

    kinds: torch.Tensor
    colors: torch.Tensor
    present: torch.Tensor
    same: torch.Tensor
    relation: torch.Tensor

    @classmethod
    def of(cls, prompts: Sequence[Metadata], device: str | torch.device = "cpu") -> Orders:
        """Read GenEval metadata of prompts for at most MOST_OBJECTS objects."""
        shape = len(prompts), MOST_OBJECTS
        kinds, colors = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        present, same = torch.zeros(shape, dtype=torch.bool), torch.zeros(len(prompts), dtype=torch.bool)
        relations = torch.full((len(prompts),), -1)
        for i, prompt in enumerate(prompts):
            objects, relation = objects_of(prompt)
            for k, (kind, color) in enumerate(objects):
                kinds[i, k], present[i, k] = SHAPES.index(kind), True
                colors[i, k] = -1 if color is None else COLORS.index(color)
            same[i] = len(prompt["include"]) == 1
            if relation is not None:
                relations[i] = RELATIONS.index(relation)
        return cls(*(t.to(device) for t in (kinds, colors, present, same, relations)))

    def __getitem__(self, rows: torch.Tensor) -> Orders:
        return Orders(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@cache
def _partners_on(device: torch.device) -> torch.Tensor:
    """Return the partner of each cell by relation [4, 9]; -1 where there is none."""
    rows = [[-1 if p is None else p for p in partner_cells(r)] for r in RELATIONS]
    return torch.tensor(rows, device=device)


def _cells(first: torch.Tensor, second: torch.Tensor, orders: Orders) -> torch.Tensor:
    """Choose the grid cells [B, MOST_OBJECTS] of the objects by two features' scores [B, 9]."""
    partners = _partners_on(first.device)[orders.relation.clamp(min=0)]
    related = orders.relation[:, None] >= 0
    ranked = first.masked_fill(related & (partners < 0), -torch.inf).argsort(
        stable=True, dim=1, descending=True
    )
    place = ranked[:, :1]
    beside = second.scatter(1, place, -torch.inf).argmax(1, keepdim=True)
    other = torch.where(related, partners.gather(1, place), beside)
    apart = torch.cat([place, other, place, place], 1)  # two objects at most are not alike
    return torch.where(orders.same[:, None], ranked[:, :MOST_OBJECTS], apart)


def scenes_of(orders: Orders, score: torch.Tensor, doubt: torch.Tensor | None = None) -> Scenes:
    """Return the scenes that the teacher draws for B orders and scores [B, FEATURES, 9].

    `doubt` [B, FEATURES, 9] is added to what chooses cells and free colours: chance that the noise does not decide.
    """
    chooses = score if doubt is None else score + doubt
    cells = _cells(chooses[:, _FIRST], chooses[:, _SECOND], orders)
    at = score.gather(2, cells[:, None].expand(-1, FEATURES, -1))
    free = chooses[:, _COLOR:].gather(2, cells[:, None].expand(-1, len(COLORS), -1)).argmax(1)
    middle, half = (RADIUS[0] + RADIUS[1]) / 2, (RADIUS[1] - RADIUS[0]) / 2
    return Scenes(
        kinds=orders.kinds,
        colors=torch.where(orders.colors < 0, free, orders.colors),
        x=(cells % GRID + 0.5) * CELL + JITTER * at[:, _X].tanh(),
        y=(cells // GRID + 0.5) * CELL + JITTER * at[:, _Y].tanh(),
        radius=middle + half * at[:, _RADIUS].tanh(),
        present=orders.present,
    )
