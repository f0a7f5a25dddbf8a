"""Build a verifier: from a checkpoint in the official format, or full-size with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators import specs
from vhsbench.generators.checks import as_device
from vhsbench.generators.protocol import Block, GeneratorError, blocks_of, read_block
from vhsbench.generators.specs import GeneratorSpec
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import files_read, folder_sha256, plain_name
from vhsbench.harness.common.registry import Factory, nearest
from vhsbench.verifiers.checkpoint import (
    CheckpointError,
    VerifierCard,
    empty_model,
    load_model,
    read_card,
    ready,
)
from vhsbench.verifiers.clip import (
    OFFICIAL,
    ClipPatches,
    OpenClipPatches,
    empty_tower,
    load_tower,
    tower_folder,
)
from vhsbench.verifiers.features import Normalize, flatten_latents, read_statistics
from vhsbench.verifiers.hub import dataset_files, is_hub_id, model_folder
from vhsbench.verifiers.mllm import StandInQuestion
from vhsbench.verifiers.nano import EARLY, WEIGHTS
from vhsbench.verifiers.verifier import MllmVerifier

RANDOM = "random"
PAPER_BLOCK = 7  # l*, 0-based, of every full-size generator
# The authors' release: verifiers of SANA-Sprint, and the statistics of its hidden states.
_OFFICIAL = {"vhs": "aimagelab/vhs-hidden-verifier", "mllm-clip": "aimagelab/vhs-mllm-clip-verifier"}
_STATISTICS = ("aimagelab/vhs-checkpoints", ("block_7_mean_bf16.pt", "block_7_variance_bf16.pt"))
QWEN_0_5B = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 1e-6,
}  # fmt: skip
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Options:
    """How to build a verifier.

    checkpoint: a folder or hub id (owner/name[@revision]) in the official format; "random" for the
    full-size model with random weights; None for nano's bundled one (of `block`: two are), or for "sana-sprint" the authors'.
    normalization: (mean, variance), two .pt files; None for the checkpoint's own. generator: None
    for the one that the checkpoint names, or the only one that it fits. dtype: None for float32 on the CPU and
    for nano, else bfloat16. clip: the vision tower's folder or hub id; None for the checkpoint's own.
    """

    checkpoint: str | Path | None = None
    normalization: tuple[str | Path, str | Path] | None = None
    generator: str | None = None
    block: Block | None = None
    device: str | torch.device = "cpu"
    dtype: str | torch.dtype | None = None
    clip: str | Path | None = None


def open_verifier(kind: str, options: Options) -> MllmVerifier:
    """Load the verifier `kind` ("vhs", "mllm-clip" or "mllm-ae") by the options.

    Raises CheckpointError, or RegistryError for an unknown generator.
    """
    device = as_device(options.device)
    if options.checkpoint == RANDOM:
        block, spec = _as_block(kind, options.block), specs.get(options.generator or "nano")
        return random_verifier(kind, spec, block, device, as_dtype(options.dtype, device))
    made_of = _find(kind, options)
    folder, card = made_of.folder, made_of.card
    dtype = made_of.dtype(options.dtype, device)
    model, question = load_model(folder, card, device, dtype)
    tokens: Callable[[Any], torch.Tensor] = flatten_latents
    reads_with: dict[str, torch.nn.Module] = {}
    if card.kind == "vhs":
        statistics = read_statistics(made_of.statistics or folder, card.feature_width, card.visual_tokens)
        tokens = reads_with["normalization"] = statistics.to(device)
    elif made_of.tower is not None:
        tokens = tower = _tower(made_of.tower, card, device, dtype)
        reads_with["clip"] = tower.model
        card = replace(card, visual_tokens=tower.tokens)
    return MllmVerifier(
        kind, model, question, card, tokens,
        checkpoint_sha256=made_of.sha256, reads_with=reads_with, source=made_of.source,
    )  # fmt: skip


def identity(kind: str, options: Options) -> dict[str, Any]:
    """Return what decides the scores of the verifier that `open_verifier` would load, identified by content.

    Downloads files from the hub, and loads nothing. Raises CheckpointError.
    """
    place = torch.device(str(options.device).partition(":")[0])
    if options.checkpoint == RANDOM:
        checkpoint, block = RANDOM, _as_block(kind, options.block)
        dtype = as_dtype(options.dtype, place)
    else:
        made_of = _find(kind, options)
        checkpoint, block = made_of.sha256, made_of.card.block
        dtype = made_of.dtype(options.dtype, place)
    return {
        "device": place.type,
        "generator": options.generator,
        "checkpoint": checkpoint,
        "block": block,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _as_block(kind: str, block: Block | None) -> Block | None:
    try:
        return read_block(block)
    except GeneratorError as error:
        raise CheckpointError(f"verifier '{kind}', block: {error}.") from None


@dataclass(frozen=True)
class _Found:
    """The parts of a verifier: its folder, separate statistics, and the folder of its vision tower."""

    checkpoint: str | Path  # as it was asked for
    folder: Path
    card: VerifierCard
    statistics: tuple[Path, Path] | None
    tower: Path | None

    @property
    def sha256(self) -> str:
        """The SHA-256 over all that is read of them."""
        tower = files_read(self.tower, pickles=True) if self.tower else []
        return folder_sha256(self.folder, [*(self.statistics or ()), *tower])

    @property
    def source(self) -> str:
        """What `list` shows: "bundled", a path, or a hub id at the commit that was loaded."""
        if self.folder.is_relative_to(WEIGHTS):
            return "bundled"
        if self.folder == Path(self.checkpoint):
            return str(self.checkpoint)
        return f"{str(self.checkpoint).partition('@')[0]}@{self.folder.name}"

    def dtype(self, asked: str | torch.dtype | None, device: torch.device) -> torch.dtype:
        small = self.card.generator == "nano"
        return torch.float32 if asked is None and small else as_dtype(asked, device)


def _find(kind: str, options: Options) -> _Found:
    """Find all parts; download those on the hub. Raises CheckpointError."""
    block = _as_block(kind, options.block)
    checkpoint, normalization, generator = options.checkpoint, options.normalization, options.generator
    if checkpoint is None:
        generator = generator or "nano"
        checkpoint, normalization = _default(kind, generator, block, normalization)
    folder = model_folder(checkpoint)
    card = _fitted(kind, folder, read_card(folder), generator, block)
    statistics = (Path(normalization[0]), Path(normalization[1])) if normalization else None
    tower = _tower_folder(folder, card, options.clip) if card.kind == "mllm-clip" else None
    return _Found(checkpoint, folder, card, statistics, tower)


def _default(
    kind: str, generator: str, block: Block | None, normalization: tuple[str | Path, str | Path] | None
) -> tuple[str | Path, tuple[str | Path, str | Path] | None]:
    """Return the checkpoint and the statistics to use if no checkpoint is named. Raises CheckpointError."""
    if generator == "nano":
        early = kind == "vhs" and block is not None and block == read_card(WEIGHTS / EARLY).block
        return WEIGHTS / (EARLY if early else kind), normalization
    specs.get(generator)
    if generator != "sana-sprint" or kind not in _OFFICIAL:
        advice = "give a checkpoint"
        if kind in _OFFICIAL and kind != "vhs":
            advice += f", for example the one of SANA-Sprint, '{_OFFICIAL[kind]}'"
        raise CheckpointError(f"no '{kind}' verifier for generator '{generator}' is published: {advice}.")
    if kind == "vhs" and normalization is None:
        mean, variance = dataset_files(*_STATISTICS)
        normalization = (mean, variance)
    return _OFFICIAL[kind], normalization


def _fitted(
    kind: str, folder: Path, card: VerifierCard, generator: str | None, block: Block | None
) -> VerifierCard:
    """Return the card with its generator filled in. Raises CheckpointError if the options do not fit it."""
    if card.kind != kind:
        raise CheckpointError(f"checkpoint {folder} holds a '{card.kind}' verifier, not '{kind}'.")
    if block is not None and block != card.block:
        raise CheckpointError(f"checkpoint {folder} reads block {card.block}, not block {block}.")
    if kind == "mllm-clip":  # reads pixels, whoever made them
        return card
    if card.generator and generator in (None, card.generator):
        return card
    if card.generator and kind == "vhs":
        raise CheckpointError(
            f"checkpoint {folder} reads hidden states of '{card.generator}', not of '{generator}': "
            "a VHS is trained for one generator."
        )
    spec = specs.get(generator) if generator else _only_fit(kind, folder, card)
    if _width(kind, spec) != card.feature_width:
        raise CheckpointError(
            f"{folder}: 'model.mm_projector.0.weight' has shape [H, {card.feature_width}], but generator "
            f"'{spec.name}' needs [H, {_width(kind, spec)}] (its {_READS[kind]})."
        )
    if card.block is not None and blocks_of(card.block)[-1] >= spec.blocks:
        raise CheckpointError(
            f"checkpoint {folder} reads block {card.block}, but '{spec.name}' has blocks 0 to {spec.blocks - 1}."
        )
    return replace(card, generator=spec.name, visual_tokens=_tokens(kind, spec))


def _block(spec: GeneratorSpec) -> Block:
    """Return the block that a VHS of this generator reads by default: the bundled one's for nano, else the paper's."""
    bundled = read_card(WEIGHTS / "vhs").block if spec.name == "nano" else None
    return PAPER_BLOCK if bundled is None else bundled


_READS = {"vhs": "hidden width", "mllm-ae": "latent channels"}


def _width(kind: str, spec: GeneratorSpec) -> int:
    return spec.hidden_width if kind == "vhs" else spec.latent_channels


def _tokens(kind: str, spec: GeneratorSpec) -> int:
    return spec.tokens if kind == "vhs" else spec.latent_size**2


def _only_fit(kind: str, folder: Path, card: VerifierCard) -> GeneratorSpec:
    # nano's checkpoints say that they are of nano: the official layout, which does not, is of full size
    full_size = (s for s in specs.SPECS.values() if s.hub_id and s.steps == 1)
    fits = [s for s in full_size if _width(kind, s) == card.feature_width]
    if len(fits) == 1:
        return fits[0]
    names = ", ".join(f"'{s.name}'" for s in fits) or "none that is known"
    raise CheckpointError(
        f"checkpoint {folder} does not say which generator it reads; width {card.feature_width} fits {names}: "
        "give generator=."
    )


def _tower_folder(folder: Path, card: VerifierCard, clip: str | Path | None) -> Path:
    """Return the vision tower's folder: the user's choice, else what the checkpoint names, in its folder or on the hub."""
    if clip or card.vision_tower is None:
        return tower_folder(clip or WEIGHTS / "clip")
    if (folder / card.vision_tower).is_dir():
        with read_errors_as(CheckpointError):
            return folder / plain_name(card.vision_tower, f"{folder}: its vision tower")
    if not is_hub_id(card.vision_tower) or Path(card.vision_tower).is_dir():
        raise CheckpointError(
            f"{folder}: its vision tower is '{card.vision_tower}', neither a folder in the checkpoint nor a hub id "
            "(owner/name[@revision]); give clip=."
        )
    return tower_folder(card.vision_tower)


def _tower(
    folder: Path, card: VerifierCard, device: torch.device, dtype: torch.dtype
) -> ClipPatches | OpenClipPatches:
    tower = load_tower(folder, device, dtype)
    if tower.width != card.feature_width:
        raise CheckpointError(
            f"the CLIP model's features are {tower.width} wide, but the checkpoint's "
            f"'model.mm_projector.0.weight' has shape [H, {card.feature_width}]."
        )
    return tower


def as_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return that dtype; for None float32 on the CPU, else bfloat16. Raises CheckpointError for an unknown name."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise CheckpointError(f"unknown dtype '{dtype}'; {nearest(dtype, list(_DTYPES))}")
    return _DTYPES[dtype]


def random_verifier(
    kind: str,
    spec: GeneratorSpec,
    block: Block | None,
    device: torch.device,
    dtype: torch.dtype,
    llm: dict[str, Any] = QWEN_0_5B,
    seed: int = 0,
) -> MllmVerifier:
    """Build a verifier of the true architecture for `spec`, with random weights in `dtype` on `device`.

    For costs: its answers mean nothing. `llm` holds the LLM's sizes, by default Qwen2.5-0.5B's.
    """
    if kind == "vhs":
        block = _block(spec) if block is None else block
        if blocks_of(block)[-1] >= spec.blocks:
            raise CheckpointError(f"'{spec.name}' has blocks 0 to {spec.blocks - 1}, not block {block}.")
    tokens: Callable[[Any], torch.Tensor] = flatten_latents
    reads_with: dict[str, torch.nn.Module] = {}
    if kind == "mllm-clip":
        with torch.device("meta"):
            tower: Any = empty_tower()
        tokens = patches = ClipPatches(_randomize(tower, device, dtype, seed))
        reads_with["clip"] = patches.model
        tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions, device=device)[None]
        card = VerifierCard(kind, spec.name, None, patches.width, patches.tokens, vision_tower=OFFICIAL)
    else:
        at = block if kind == "vhs" else None
        card = VerifierCard(kind, spec.name, at, _width(kind, spec), _tokens(kind, spec))
        if kind == "vhs":
            zeros = torch.zeros(card.feature_width, device=device)
            tokens = reads_with["normalization"] = Normalize(zeros, zeros + 1)
    with torch.device("meta"):
        model = empty_model(llm, card.feature_width)
    model = ready(_randomize(model, device, dtype, seed), device)
    return MllmVerifier(kind, model, StandInQuestion(), card, tokens, reads_with=reads_with, source=RANDOM)


def _randomize(module: Any, device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    """Give a module on meta weights in `dtype` on `device`, with no float32 copy: norms 1, biases 0, else normal."""
    module.to(dtype).to_empty(device=device)
    if device.type == "meta":
        return module
    random = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1 or name.endswith("class_embedding"):
                weight.normal_(0, 0.02, generator=random)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return module


def _factory(kind: str) -> Factory[MllmVerifier]:
    return Factory(Options, partial(open_verifier, kind), partial(identity, kind))


vhs = _factory("vhs")
mllm_clip = _factory("mllm-clip")
mllm_ae = _factory("mllm-ae")
