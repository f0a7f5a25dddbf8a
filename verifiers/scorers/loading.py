"""Build a scorer: from a folder, from its published checkpoint on the hub, or full-size with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from vhsbench.generators.checks import as_device
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import folder_sha256
from vhsbench.harness.common.questions import Combine
from vhsbench.harness.common.registry import Factory, nearest
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.clip import PICKLED
from vhsbench.verifiers.hub import model_folder
from vhsbench.verifiers.loading import RANDOM, as_dtype
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.scorers import reward, towers, vlm
from vhsbench.verifiers.scorers.asking import SoftTifa, VqaScore
from vhsbench.verifiers.scorers.scorer import Scorer
from vhsbench.verifiers.scorers.similarity import ClipScore, PickScore, Similarity

if TYPE_CHECKING:
    from vhsbench.verifiers.protocol import VerifierInfo

_HPS_FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


@dataclass(frozen=True)
class Options:
    """How to build a scorer.

    checkpoint: a folder or hub id (owner/name[@revision]); "random" for the full-size model with random weights; None
    for the published one, or nano's own CLIP for "clip-score" on nano. generator: whose images it scores. dtype: None
    for float32 on the CPU and for nano, else bfloat16.
    """

    checkpoint: str | Path | None = None
    generator: str | None = None
    device: str | torch.device = "cpu"
    dtype: str | torch.dtype | None = None


@dataclass(frozen=True)
class HpsOptions(Options):
    """As Options; version: which of the published weights, "2.0" or "2.1"."""

    version: str = "2.0"

    def __post_init__(self) -> None:
        """Check the version. Raises CheckpointError."""
        if str(self.version) not in _HPS_FILES:
            raise CheckpointError(
                f"there is no version '{self.version}' of HPS v2; {nearest(str(self.version), list(_HPS_FILES))}"
            )


@dataclass(frozen=True)
class SoftTifaOptions(Options):
    """As Options; combine: how a prompt's answers become its score: "geometric", "arithmetic" or "share"."""

    combine: Combine = "geometric"


O = TypeVar("O", bound=Options)  # noqa: E741 - of options


@dataclass(frozen=True)
class Kind(Generic[O]):
    """A published scorer: the hub id of its checkpoint, pinned, and how its model is loaded or made at random.

    `pickled` names the file of torch's that it is read from where there are no safetensors; `settings` are what else
    `make` takes, `beside` other files that are read with a folder; `bundled` is nano's folder.
    """

    name: str
    published: str
    make: Callable[..., Scorer]
    load: Callable[[Path, torch.device, torch.dtype, O], Any]
    random: Callable[[torch.device, torch.dtype], Any]
    pickled: Callable[[O], str] = lambda _: PICKLED
    settings: Callable[[O], dict[str, Any]] = lambda _: {}
    beside: Callable[[Path], list[Path]] = lambda _: []
    bundled: Path | None = None

    def open(self, options: O) -> Scorer:
        """Build it by the options. Raises CheckpointError."""
        device = as_device(options.device)
        if options.checkpoint == RANDOM:
            dtype = as_dtype(options.dtype, device)
            return self.make(self.name, self.random(device, dtype), source=RANDOM, **self.settings(options))
        folder, source = self._find(options)
        model = self.load(folder, device, self._dtype(options, folder, device), options)
        digest = self._sha256(folder, options)
        return self.make(self.name, model, checkpoint_sha256=digest, source=source, **self.settings(options))

    def identity(self, options: O) -> dict[str, Any]:
        """Return what decides its scores; downloads what is on the hub, loads nothing. Raises CheckpointError."""
        place = torch.device(str(options.device).partition(":")[0])
        checkpoint, dtype = RANDOM, as_dtype(options.dtype, place)
        if options.checkpoint != RANDOM:
            folder, _ = self._find(options)
            checkpoint, dtype = self._sha256(folder, options), self._dtype(options, folder, place)
        known = {"device": place.type, "checkpoint": checkpoint, "dtype": str(dtype).removeprefix("torch.")}
        return known | self.settings(options)

    def _find(self, options: O) -> tuple[Path, str]:
        """Return the folder, downloaded if necessary, and what `list` shows of it."""
        if options.checkpoint is None and self.bundled is not None and options.generator in (None, "nano"):
            return self.bundled, "bundled"
        name = str(options.checkpoint or self.published)
        folder = model_folder(name)
        if not any(folder.glob("*.safetensors")):
            folder = model_folder(name, also=(self.pickled(options),))
        return folder, name if folder == Path(name) else f"{name.partition('@')[0]}@{folder.name}"

    def _dtype(self, options: O, folder: Path, device: torch.device) -> torch.dtype:
        small = options.dtype is None and folder == self.bundled
        return torch.float32 if small else as_dtype(options.dtype, device)

    def _sha256(self, folder: Path, options: O) -> str:
        pickled = folder / self.pickled(options)
        with read_errors_as(CheckpointError):
            return folder_sha256(folder, [*([pickled] if pickled.is_file() else []), *self.beside(folder)])


class ScorerFactory(Factory[Scorer]):
    """A scorer's entry in the registry."""

    def __init__(self, kind: Kind[Any], options: type[Options] = Options) -> None:
        super().__init__(options, kind.open, kind.identity)
        self._kind = kind

    def describe(self) -> VerifierInfo:
        """Describe the bundled one, or else the architecture of the published one: nothing is downloaded."""
        if self._kind.bundled is not None:
            return self().info()
        return replace(self(checkpoint=RANDOM, device="meta").info(), source=self._kind.published)


def _load_towers(folder: Path, device: torch.device, dtype: torch.dtype, _: Options) -> Any:
    return towers.load_towers(folder, device, dtype)


def _load_hps(folder: Path, device: torch.device, dtype: torch.dtype, options: HpsOptions) -> Any:
    return towers.load_hps(folder, device, dtype, _hps_file(options))


def _load_vlm(folder: Path, device: torch.device, dtype: torch.dtype, _: Options) -> Any:
    return vlm.load_vlm(folder, device, dtype)


def _load_reward(folder: Path, device: torch.device, dtype: torch.dtype, _: Options) -> Any:
    return reward.load_reward(folder, device, dtype)


def _hps_file(options: HpsOptions) -> str:
    return _HPS_FILES[str(options.version)]


clip_score = ScorerFactory(
    Kind(
        "clip-score",
        "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
        ClipScore,
        _load_towers,
        partial(towers.random_towers, towers.LARGE),
        bundled=WEIGHTS / "clip",
    )
)
pick_score = ScorerFactory(
    Kind(
        "pick-score",
        "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800",
        PickScore,
        _load_towers,
        partial(towers.random_towers, towers.HUGE),
    )
)
hps_v2 = ScorerFactory(
    Kind(
        "hps-v2",
        "xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a",
        Similarity,
        _load_hps,
        towers.random_hps,
        pickled=_hps_file,
    ),
    HpsOptions,
)
vqa_score = ScorerFactory(
    Kind(
        "vqa-score",
        "Qwen/Qwen2.5-VL-7B-Instruct@cc594898137f460bfe9f0759e9844b3ce807cfb5",
        VqaScore,
        _load_vlm,
        partial(vlm.random_vlm, "Qwen2_5_VLForConditionalGeneration", vlm.QWEN2_5_VL_7B),
    )
)
soft_tifa = ScorerFactory(
    Kind(
        "soft-tifa",
        "Qwen/Qwen3-VL-8B-Instruct@0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
        SoftTifa,
        _load_vlm,
        partial(vlm.random_vlm, "Qwen3VLForConditionalGeneration", vlm.QWEN3_VL_8B),
        settings=lambda options: {"combine": options.combine},
    ),
    SoftTifaOptions,
)
image_reward = ScorerFactory(
    Kind(
        "image-reward",
        "zai-org/ImageReward@5736be03b2652728fb87788c9797b0570450ab72",
        reward.ImageReward,
        _load_reward,
        reward.random_reward,
        pickled=lambda _: reward.WEIGHTS,
        beside=lambda folder: [reward.vocabulary(folder)],
    )
)
