"""Verifier checkpoints: the official LLaVA-Qwen2 folder, and our verifier.json in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vhsbench.generators.protocol import Block, GeneratorError, block_name, read_block
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import (
    check_folder,
    check_model,
    check_type,
    reason,
    weight_files,
)
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.tensors import open_tensors
from vhsbench.harness.common.text import read_json_object
from vhsbench.verifiers import REGISTRY
from vhsbench.verifiers.mllm import CONNECTORS, MLP2X, PAPER_TEMPLATE, Mllm, Question
from vhsbench.verifiers.questions import read_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROJECTOR = "model.mm_projector."
_TOWER = "model.vision_tower."  # a copy of the vision tower, which the official code ignores too
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
_WEIGHTS = "model.safetensors"
_CARD = "verifier.json"
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
_MOST = 1 << 24
STATISTICS = "normalization.safetensors"


class CheckpointError(VhsbenchError):
    """A verifier checkpoint that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class VerifierCard:
    """A checkpoint's description: verifier.json, or what the official config.json implies."""

    kind: str  # "vhs", "mllm-clip" or "mllm-ae"
    generator: str  # whose features it reads; empty where the checkpoint does not say
    block: Block | None
    feature_width: int
    visual_tokens: int  # 0 where the checkpoint does not say
    template: str = PAPER_TEMPLATE
    vision_tower: str | None = None  # of mllm-clip: a hub id, or a folder in the checkpoint


def read_card(folder: Path) -> VerifierCard:
    """Read verifier.json, or without it the mm_* keys of config.json. Raises CheckpointError."""
    config = _json(folder, "config.json")
    if not (folder / _CARD).is_file():
        return _official_card(folder, config)
    try:
        card = VerifierCard(**_json(folder, _CARD))
        _check_card(card, folder / _CARD)
        return replace(card, block=read_block(card.block))
    except (TypeError, GeneratorError) as error:
        raise CheckpointError(f"{folder}/{_CARD} does not describe a verifier: {error}.") from error


def kind_of(folder: Path) -> str:
    """Return which verifier a folder holds, by verifier.json, else by the tower that config.json names.

    Raises CheckpointError if it is not registered.
    """
    card = (folder / _CARD).is_file()
    file = _CARD if card else "config.json"
    said = _json(folder, file)
    kind = str(said.get("kind")) if card else _kind_by_tower(str(said.get("mm_vision_tower") or ""))
    if kind not in REGISTRY:
        raise CheckpointError(
            f"{folder / file} names no known verifier: '{kind}'; {nearest(kind, REGISTRY.names())}"
        )
    return kind


def _kind_by_tower(tower: str) -> str:
    tower = tower.lower()
    return "vhs" if tower.startswith("hidden") else "mllm-clip" if "clip" in tower else "mllm-ae"


def _check_card(card: VerifierCard, file: Path) -> None:
    _check_whole(card.feature_width, 1, f"{file}: 'feature_width'")
    _check_whole(card.visual_tokens, 0, f"{file}: 'visual_tokens'")
    for key in ("kind", "generator", "template"):
        if not isinstance(getattr(card, key), str):
            raise CheckpointError(f"{file}: '{key}' is {getattr(card, key)!r}, not text.")
    if not isinstance(card.vision_tower, (str, NoneType)):
        raise CheckpointError(f"{file}: 'vision_tower' is {card.vision_tower!r}, not text.")


def _check_whole(value: object, least: int, where: str) -> None:
    if type(value) is not int or not least <= value <= _MOST:
        raise CheckpointError(f"{where} is {value!r}, not a whole number from {least} to {_MOST:,}.")


def _official_card(folder: Path, config: dict[str, Any]) -> VerifierCard:
    tower = str(config.get("mm_vision_tower") or "")
    width = config.get("mm_hidden_size")
    if not tower or type(width) is not int:
        missing = "mm_hidden_size" if tower else "mm_vision_tower"
        raise CheckpointError(
            f"{folder}/config.json has no usable '{missing}': it is no LLaVA-Qwen2 checkpoint."
        )
    projector = config.get("mm_projector_type", MLP2X)
    if projector not in CONNECTORS:
        known = " or ".join(f"'{c}'" for c in CONNECTORS)
        raise CheckpointError(f"{folder}/config.json: 'mm_projector_type' is '{projector}', not {known}.")
    kind = _kind_by_tower(tower)
    if kind == "vhs":
        feature = str(config.get("mm_vision_select_feature") or "")
        try:
            numbers = feature.removeprefix("block_").split("_")
            block = read_block([int(n) if n.isdigit() else n for n in numbers])
        except ValueError:
            raise CheckpointError(
                f"{folder}/config.json: 'mm_vision_select_feature' is '{feature}', not 'block_' and a number."
            ) from None
        return VerifierCard(kind, "", block, width, 0)
    if kind == "mllm-clip":
        layer, feature = (
            config.get("mm_vision_select_layer", -2),
            config.get("mm_vision_select_feature", "patch"),
        )
        if (layer, feature) != (-2, "patch"):
            raise CheckpointError(
                f"{folder}/config.json wants '{feature}' features of CLIP's layer {layer}, not 'patch' of layer -2."
            )
        return VerifierCard(kind, "", None, width, 0, vision_tower=tower)
    return VerifierCard(kind, "", None, width, 0)


def load_model(
    folder: Path, card: VerifierCard, device: torch.device, dtype: torch.dtype
) -> tuple[Mllm, Question]:
    """Load the model in `folder` straight to `device` as `dtype`, and its question.

    Raises CheckpointError with the file, or the key and what is wrong with it: its shape, its type, or numbers that
    are not finite. Refuses links out of the folder, and runs no code from it.
    """
    with read_errors_as(CheckpointError):
        check_folder(folder)
    config = _json(folder, "config.json")
    for key in _SIZES:
        _check_whole(config.get(key, 1), 1, f"{folder}/config.json: '{key}'")
    try:
        with torch.device("meta"):
            model = empty_model(config, card.feature_width)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged configuration can raise anything
        raise CheckpointError(f"{folder}/config.json describes no Qwen2: {reason(error)}.") from error
    with ExitStack() as stack:
        tensors = _Tensors(folder, device, stack)
        _fill(model.connector, tensors, _PROJECTOR, {}, dtype)
        optional = {_HEAD: _EMBEDDINGS} if model.llm.config.tie_word_embeddings else {}
        _fill(model.llm, tensors, "", optional, dtype)
        with read_errors_as(CheckpointError):
            check_model(model, tensors.files, tensors.name)
    embeddings = model.llm.config.vocab_size
    with read_errors_as(CheckpointError):
        question = read_question(folder, card.template, embeddings)
    return ready(model, device), question


def empty_model(config: Mapping[str, Any], feature_width: int) -> Mllm:
    """Build a model of the sizes in a config.json, with torch's default weights. Raises CheckpointError."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    known = {k: v for k, v in config.items() if not k.startswith("mm_") and k != "model_type"}
    qwen = Qwen2Config(**known | {"attn_implementation": "sdpa"})
    if set(qwen.layer_types or ()) != {"full_attention"}:
        raise CheckpointError(
            "a verifier's LLM must have full attention in all layers, not a sliding window."
        )
    return Mllm(Qwen2ForCausalLM(qwen), feature_width, config.get("mm_projector_type", MLP2X))


def ready(model: Mllm, device: torch.device) -> Mllm:
    """Finish a model built on meta: rotary frequencies, tied embeddings, evaluation without gradients.

    The frequencies stay float32 whatever the model's dtype: rounding them moves P(yes) by up to 0.05.
    """
    llm: Any = model.llm
    with torch.device(device):
        llm.model.rotary_emb = type(llm.model.rotary_emb)(config=llm.config)
    if llm.config.tie_word_embeddings:
        llm.lm_head.weight = llm.model.embed_tokens.weight
    return model.eval().requires_grad_(False)


class _Tensors:
    """The tensors of model.safetensors, or of the shards that its index names, read one at a time."""

    def __init__(self, folder: Path, device: torch.device, stack: ExitStack) -> None:
        self.name = str(folder / _WEIGHTS)
        with read_errors_as(CheckpointError):
            self.files = weight_files(folder, _WEIGHTS)
        if not self.files:
            raise CheckpointError(f"verifier checkpoint {folder} has no {_WEIGHTS}.")
        self._opened: dict[str, Any] = {}
        self._file: dict[str, Path] = {}
        for file in self.files:
            with read_errors_as(CheckpointError):
                opened = stack.enter_context(open_tensors(file, str(device)))
            for key in opened.keys():  # noqa: SIM118
                if key in self._file:
                    raise CheckpointError(f"{self._file[key]} and {file.name} both have the key '{key}'.")
                self._opened[key], self._file[key] = opened, file

    def keys(self) -> set[str]:
        return set(self._opened)

    def shape(self, key: str) -> list[int]:
        """Return a tensor's shape. Raises CheckpointError unless it holds floating-point numbers."""
        part = self._opened[key].get_slice(key)
        with read_errors_as(CheckpointError):
            check_type(part.get_dtype(), f"{self._file[key]}: '{key}'")
        return list(part.get_shape())

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._opened[key].get_tensor(key)
        return tensor


def _fill(
    module: nn.Module, tensors: _Tensors, prefix: str, tied: Mapping[str, str], dtype: torch.dtype
) -> None:
    """Give `module` the tensors under `prefix`, refusing missing, misshapen and unknown ones by name.

    A key of `tied` may be absent; where present, it must equal the tensor it is tied to.
    """
    expected = {prefix + name: like for name, like in module.state_dict().items()}
    given = {key for key in tensors.keys() if _is_of(key, prefix)}  # noqa: SIM118
    values = {}
    for key, like in expected.items():
        if key in given:
            _check_shape(tensors, key, like)
        elif key not in tied:
            shape = list(like.shape)
            raise CheckpointError(
                f"{tensors.name} lacks the key '{key}', of shape {shape} by the configuration."
            )
        if key not in tied:
            values[key.removeprefix(prefix)] = tensors[key].to(dtype)
        elif key in given and not torch.equal(tensors[key], tensors[tied[key]]):
            raise CheckpointError(f"{tensors.name}: '{key}' differs from '{tied[key]}', to which it is tied.")
    if unknown := sorted(given - set(expected)):
        raise CheckpointError(f"{tensors.name} has an unknown key '{unknown[0]}'.")
    module.load_state_dict(values, strict=not tied, assign=True)


def _is_of(key: str, prefix: str) -> bool:
    """Tell whether a key belongs to the connector, or, without a prefix, to the LLM."""
    return key.startswith(prefix) if prefix else not key.startswith((_TOWER, _PROJECTOR))


def _check_shape(tensors: _Tensors, key: str, like: torch.Tensor) -> None:
    if (found := tensors.shape(key)) != list(like.shape):
        raise CheckpointError(
            f"{tensors.name}: '{key}' has shape {found}, but the configuration says {list(like.shape)}."
        )


def save_checkpoint(
    folder: Path,
    model: Mllm,
    tokenizer: PreTrainedTokenizerBase,
    card: VerifierCard,
    normalization: tuple[torch.Tensor, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the official layout (config.json, model.safetensors, tokenizer files), and verifier.json.

    `normalization` (mean, variance) [C] goes to normalization.safetensors, and as [1, C] to
    block_<n>_mean.pt and block_<n>_variance.pt, which the official code reads.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PROJECTOR}{k}": v for k, v in model.connector.state_dict().items()}
    llm: Any = model.llm
    tensors |= llm.state_dict()
    if llm.config.tie_word_embeddings:
        tensors.pop(_HEAD, None)
    save_file(
        {k: v.detach().to(dtype).contiguous() for k, v in tensors.items()},
        folder / _WEIGHTS,
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(
        json.dumps(_config(llm.config, card, model.projector, dtype), indent=1, sort_keys=True) + "\n",
        encoding="utf-8",
    )
    (folder / _CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    if normalization is not None:
        mean, variance = (t.detach().cpu().contiguous() for t in normalization)
        save_file({"mean": mean, "variance": variance}, folder / STATISTICS)
        assert card.block is not None
        torch.save(mean[None], folder / f"block_{block_name(card.block)}_mean.pt")
        torch.save(variance[None], folder / f"block_{block_name(card.block)}_variance.pt")


def _config(llm_config: Any, card: VerifierCard, projector: str, dtype: torch.dtype) -> dict[str, Any]:
    config: dict[str, Any] = llm_config.to_dict()
    towers = {"vhs": "hidden", "mllm-ae": "latents"}
    return config | {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "torch_dtype": str(dtype).removeprefix("torch."),
        # transformers before 5, which the official code uses, looks for it only here
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "mm_projector_type": projector,
        "mm_hidden_size": card.feature_width,
        "mm_vision_tower": towers.get(card.kind, card.vision_tower or "clip"),
        "mm_vision_select_feature": "patch" if card.block is None else f"block_{block_name(card.block)}",
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
    }


def _json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise CheckpointError(f"verifier checkpoint {folder} has no {name}.")
    with read_errors_as(CheckpointError):
        return read_json_object(folder / name)
