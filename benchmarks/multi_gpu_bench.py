"""What the parts of multi_gpu.py share: how large all is, and where it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import full_size_training

CLI = ("-m", "vhsbench.harness.cli")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large all is. `rounds` are a sweep's shards a GPU; batches are over all processes."""

    device: str
    training: full_size_training.Sizes
    sweep: Mapping[str, Any]
    data: Mapping[str, Any]
    cell: tuple[str, Mapping[str, Any], str, Mapping[str, Any]]
    rounds: int
    prompts: int  # of a sweep, for each of its seeds
    align_batch: int
    align_steps: int
    batch: int
    steps: int
    micro_batch: int
    save_every: int
    data_images: int  # a process
    reduced_bytes: int


_RANDOM = {"dtype": "bfloat16"}
_BOTH = {"device": "cuda", **_RANDOM}
FULL = Sizes(
    device="cuda",
    training=replace(full_size_training.FULL, samples=512),
    sweep={
        "generators": [{"name": "sana-sprint", "options": {"weights": "random", **_RANDOM}}],
        "verifiers": [{"name": v, "checkpoint": "random", "options": _RANDOM}
                      for v in ("vhs", "mllm-clip", "mllm-ae")],
        "prompts": {"source": "geneval"},
        "detector": {"name": "mask2former", "options": {"checkpoint": "random", "colors": "random"}},
        "pool": 4, "batch_size": 4, "threads": 8,
    },
    data={
        "generator": {"name": "sana-sprint", "options": {"weights": "random", **_RANDOM}},
        "verifier": {"kind": "vhs", "block": 7},
        "data": {
            "detector": {"name": "mask2former", "options": {"checkpoint": "random", "colors": "random"}},
            "labels": {"prompts": "geneval", "draws": 100, "variants": 4, "validation_share": 0.1},
            "batch_size": 16, "shard_size": 16,
        },
    },
    cell=(
        "sana-sprint", {"weights": "random", **_BOTH},
        "vhs", {"checkpoint": "random", "generator": "sana-sprint", **_BOTH},
    ),
    rounds=12, prompts=32, align_batch=512, align_steps=5, batch=64, steps=25, micro_batch=64, save_every=8,
    data_images=192, reduced_bytes=2 * 10**9,
)  # fmt: skip
TINY = Sizes(
    device="cpu",
    training=full_size_training.TINY,
    sweep={
        "generators": [{"name": "nano"}], "verifiers": [{"name": "vhs"}],
        "prompts": {"source": "nano", "split": "validation"}, "pool": 2, "batch_size": 8, "threads": 1,
    },
    data={
        "generator": {"name": "nano"},
        "verifier": {"kind": "vhs", "block": 5, "llm": {"name": "nano"}},
        "data": {
            "detector": {"name": "shapes"}, "labels": {"prompts": "nano", "variants": 1, "validation_share": 0.5},
            "batch_size": 4, "shard_size": 4,
        },
    },
    cell=("nano", {"device": "cpu"}, "vhs", {"generator": "nano", "device": "cpu"}),
    rounds=4, prompts=8, align_batch=32, align_steps=3, batch=16, steps=6, micro_batch=4, save_every=4,
    data_images=16, reduced_bytes=10**6,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where parts work, on how many GPUs, and how large."""

    work: Path
    gpus: int
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        return self.sizes.device == "cuda"

    def cards(self, *indices: int) -> dict[str, str]:
        """Return the environment of a command that sees those GPUs; logical ones of Ray on a CPU."""
        if self.on_gpu:
            return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, indices))}
        return {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": len(indices), "CPU": 2 * len(indices)})}

    @property
    def all_cards(self) -> dict[str, str]:
        return self.cards(*range(self.gpus))

    def folder(self, name: str) -> Path:
        """Make a new, empty folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True)
class Part:
    """`run` ends by the time that it is given (time.monotonic) and returns facts."""

    name: str
    run: Callable[[float], Facts]
    expected_s: float  # it is not begun with less time left
    limit_s: float
