"""Mask2Former Swin-S as transformers builds it, with the weights that mmdet published for it.

A checkpoint has 649 tensors in mmdet's names; the model takes 757 after renaming, splitting joined
projections and reordering the inputs of Swin's patch merging. Nothing may be missing; only what a training
keeps beside the weights may be left over.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from vhsbench.generators.hub import reachable, refusal
from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.digests import file_digest
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.models import check_weights
from vhsbench.harness.common.torch_files import read_state

State = dict[str, torch.Tensor]

HUB_DATASET = "aimagelab/vhs-checkpoints"
HUB_FILE = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth"

# tensors of the model that inference does not use and mmdet does not have
_UNUSED = {
    "model.pixel_level_module.encoder.swin.layernorm.weight",
    "model.pixel_level_module.encoder.swin.layernorm.bias",
    "criterion.empty_weight",
}
_SWIN, _BLOCK = r"model\.pixel_level_module\.encoder\.", r"swin\.encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_PIXEL, _P = r"model\.pixel_level_module\.decoder\.", "panoptic_head."
_DECODER = r"model\.transformer_module\.decoder\.layers\.(\d+)\."
_ENCODER = _PIXEL + r"encoder\.layers\.(\d+)\."
_TO_BLOCK = r"backbone.stages.\1.blocks.\2."
_TO_ENCODER = _P + r"pixel_decoder.encoder.layers.\1."
_TO_DECODER = _P + r"transformer_decoder.layers.\1."

# start of a name in transformers (a pattern) -> in mmdet 3.x; first match counts
_RULES: tuple[tuple[str, str], ...] = (
    (_SWIN + r"swin\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.projection"),
    (_SWIN + r"swin\.embeddings\.norm", "backbone.patch_embed.norm"),
    (_SWIN + _BLOCK + r"layernorm_before", _TO_BLOCK + "norm1"),
    (_SWIN + _BLOCK + r"layernorm_after", _TO_BLOCK + "norm2"),
    (_SWIN + _BLOCK + r"attention\.[qkv]_proj", _TO_BLOCK + "attn.w_msa.qkv"),
    (_SWIN + _BLOCK + r"attention\.o_proj", _TO_BLOCK + "attn.w_msa.proj"),
    (_SWIN + _BLOCK + r"attention\.relative_position_bias\.", _TO_BLOCK + "attn.w_msa."),
    (_SWIN + _BLOCK + r"mlp\.fc1", _TO_BLOCK + "ffn.layers.0.0"),
    (_SWIN + _BLOCK + r"mlp\.fc2", _TO_BLOCK + "ffn.layers.1"),
    (_SWIN + r"swin\.encoder\.layers\.(\d+)\.downsample", r"backbone.stages.\1.downsample"),
    *((_SWIN + rf"hidden_states_norms\.stage{i + 1}", f"backbone.norm{i}") for i in range(4)),
    (_PIXEL + r"input_projections\.(\d+)\.0", _P + r"pixel_decoder.input_convs.\1.conv"),
    (_PIXEL + r"input_projections\.(\d+)\.1", _P + r"pixel_decoder.input_convs.\1.gn"),
    (_PIXEL + r"level_embed$", _P + "pixel_decoder.level_encoding.weight"),
    (_ENCODER + r"self_attn_layer_norm", _TO_ENCODER + "norms.0"),
    (_ENCODER + r"final_layer_norm", _TO_ENCODER + "norms.1"),
    (_ENCODER + r"self_attn\.", _TO_ENCODER + "self_attn."),
    (_ENCODER + r"fc1", _TO_ENCODER + "ffn.layers.0.0"),
    (_ENCODER + r"fc2", _TO_ENCODER + "ffn.layers.1"),
    (_PIXEL + r"adapter_1\.0", _P + "pixel_decoder.lateral_convs.0.conv"),
    (_PIXEL + r"adapter_1\.1", _P + "pixel_decoder.lateral_convs.0.gn"),
    (_PIXEL + r"layer_1\.0", _P + "pixel_decoder.output_convs.0.conv"),
    (_PIXEL + r"layer_1\.1", _P + "pixel_decoder.output_convs.0.gn"),
    (_PIXEL + r"mask_projection", _P + "pixel_decoder.mask_feature"),
    (r"model\.transformer_module\.queries_embedder", _P + "query_embed"),
    (r"model\.transformer_module\.queries_features", _P + "query_feat"),
    (r"model\.transformer_module\.level_embed", _P + "level_embed"),
    (_DECODER + r"cross_attn_layer_norm", _TO_DECODER + "norms.0"),
    (_DECODER + r"self_attn_layer_norm", _TO_DECODER + "norms.1"),
    (_DECODER + r"final_layer_norm", _TO_DECODER + "norms.2"),
    (_DECODER + r"cross_attn\.", _TO_DECODER + "cross_attn.attn."),
    (_DECODER + r"self_attn\.[qkv]_proj\.", _TO_DECODER + "self_attn.attn.in_proj_"),
    (_DECODER + r"self_attn\.", _TO_DECODER + "self_attn.attn."),
    (_DECODER + r"fc1", _TO_DECODER + "ffn.layers.0.0"),
    (_DECODER + r"fc2", _TO_DECODER + "ffn.layers.1"),
    (r"model\.transformer_module\.decoder\.layernorm", _P + "transformer_decoder.post_norm"),
    *(
        (
            rf"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.{i}\.0",
            f"{_P}mask_embed.{2 * i}",
        )
        for i in range(3)
    ),
    (r"class_predictor", _P + "cls_embed"),
)
_RENAMES_2X = (
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"((?:encoder|transformer_decoder)\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
)
# what a training keeps in a state beside the weights: not used by inference
_OF_TRAINING = re.compile(r"(module\.)?(data_preprocessor\..*|.*\.class_weight)")
_WRAPPER = "module."  # before each name, if a training on several GPUs saved its wrapper
_CLASSES = 80
_CLASS_WEIGHT = _P + "cls_embed.weight"  # [classes + 1, 256]; the last is no object


class DetectorWeightsError(VhsbenchError):
    """A detector checkpoint that cannot be used; the message is one sentence for a user."""


def build() -> Mask2FormerForUniversalSegmentation:
    """Build the architecture (Swin-S, 100 queries, 80 classes) with undefined weights."""
    # transformers annotates no option that all its configurations share
    swin = SwinConfig(  # type: ignore[call-arg]
        embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], window_size=7,
        drop_path_rate=0.0, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(backbone_config=swin, num_labels=_CLASSES)  # type: ignore[call-arg]
    return Mask2FormerForUniversalSegmentation(config)


def sources(shapes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Map mmdet 3.x names to the model's names (three for a joined projection, in the order q, k, v)."""
    found: dict[str, list[str]] = {}
    for name in shapes:
        if name in _UNUSED:
            continue
        for pattern, replacement in _RULES:
            if match := re.match(pattern, name):
                found.setdefault(match.expand(replacement) + name[match.end() :], []).append(name)
                break
        else:
            raise DetectorWeightsError(
                f"this transformers names a Mask2Former tensor '{name}', which is not in the mapping; "
                "install transformers 5.23 or a release that keeps its names."
            )
    return {k: sorted(v, key=lambda n: "qkv".find(n.rpartition("_proj")[0][-1:])) for k, v in found.items()}


def to_3x(state: Mapping[str, torch.Tensor]) -> State:
    """Rename an mmdet state of 2.x or 3.x to 3.x, without a wrapper's prefix or position indices (recomputed)."""
    wrapped = all(name.startswith(_WRAPPER) for name in state)
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix(_WRAPPER) if wrapped else name
        for pattern, replacement in _RENAMES_2X:
            name = re.sub(pattern, replacement, name)
        if not name.endswith("relative_position_index"):
            renamed[name] = tensor
    return renamed


def convert(state: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], file: str) -> State:
    """Convert an mmdet state to the model's names and order. Raises DetectorWeightsError with the wrong tensor's name."""
    rest, converted = to_3x(state), {}
    _check_classes(rest, file)
    for source, targets in sources(shapes).items():
        if source not in rest:
            raise DetectorWeightsError(
                f"{file}: tensor '{source}' is missing: not Mask2Former Swin-S of mmdet."
            )
        tensor = rest.pop(source)
        first, *others = shapes[targets[0]]
        if tensor.shape != (first * len(targets), *others):  # before anything is copied
            raise DetectorWeightsError(
                f"{file}: tensor '{source}' is {tuple(tensor.shape)}, "
                f"which does not fit Swin-S with {_CLASSES} classes."
            )
        if "downsample" in source:
            tensor = tensor[..., _merging_order(tensor.shape[-1])]
        for target, part in zip(targets, tensor.chunk(len(targets)), strict=True):
            converted[target] = part.contiguous()
    if rest:
        raise DetectorWeightsError(
            f"{file}: tensor '{next(iter(rest))}' is left over: not Mask2Former Swin-S of mmdet."
        )
    return converted


def _check_classes(state: Mapping[str, torch.Tensor], file: str) -> None:
    weight = state.get(_CLASS_WEIGHT)
    if weight is not None and weight.dim() == 2 and len(weight) != _CLASSES + 1:
        raise DetectorWeightsError(
            f"{file} was trained for {len(weight) - 1} classes; this detector has the {_CLASSES} of COCO."
        )


def restore(state: Mapping[str, torch.Tensor]) -> State:
    """Convert the model's state back to mmdet 3.x names and order: the inverse of `convert`."""
    restored = {}
    for source, targets in sources(state).items():
        tensor = torch.cat([state[t] for t in targets]) if len(targets) > 1 else state[targets[0]]
        if "downsample" in source:
            tensor = tensor[..., np.argsort(_merging_order(tensor.shape[-1]))]
        restored[source] = tensor
    return restored


def _merging_order(width: int) -> list[int]:
    """Reorder patch merging's inputs: mmdet unfolds by channel, transformers concatenates the four neighbours."""
    neighbours = ((0, 0), (1, 0), (0, 1), (1, 1))
    return [c * 4 + y * 2 + x for y, x in neighbours for c in range(width // 4)]


def load(checkpoint: str | None, seed: int = 0) -> tuple[Mask2FormerForUniversalSegmentation, str, int]:
    """Load the model; also return the SHA-256 of its checkpoint ("random" for random weights), and `ignored` of `read`.

    checkpoint is a file, "random", or None for the published one from the hub. Raises DetectorWeightsError.
    """
    model = build()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if checkpoint == "random":
        state, sha256, ignored, file = random_state(shapes, seed), "random", 0, "random"
    else:
        path = Path(checkpoint) if checkpoint else _download()
        state, sha256, ignored, file = *read(path), str(path)
    absent = model.load_state_dict(convert(state, shapes, file), strict=False)
    assert set(absent.missing_keys) <= _UNUSED
    assert not absent.unexpected_keys
    return model.eval(), sha256, ignored


def identity(checkpoint: str | None, seed: int = 0) -> dict[str, Any]:
    """Identify what `load` would read, by content; load nothing. Raises DetectorWeightsError for an unreadable file."""
    if checkpoint == "random":
        return {"random": seed}
    if checkpoint is None:
        return {"hub": f"{HUB_DATASET}/{HUB_FILE}"}  # its name has its SHA-256, which `read` checks
    with read_errors_as(DetectorWeightsError):
        return {"sha256": file_digest(Path(checkpoint))}


def read(path: Path) -> tuple[State, str, int]:
    """Read a checkpoint's tensors, its SHA-256, which must begin as its name says, and what was ignored.

    Tensors must be finite floats. Ignored is what a training keeps beside the weights: tensors (class weights) and
    other parts of the file (optimizer), with their counts. Raises DetectorWeightsError.
    """
    if not path.is_file():
        raise DetectorWeightsError(
            f"detector checkpoint {path} does not exist; give mmdet's .pth file, or 'random' to try without."
        )
    sha256 = file_sha256(path)
    promised = re.search(r"-([0-9a-f]{8})\.\w+$", path.name)
    if promised and not sha256.startswith(promised[1]):
        raise DetectorWeightsError(
            f"{path}: its SHA-256 begins with {sha256[:8]}, not {promised[1]} as its name says; download it again."
        )
    with read_errors_as(DetectorWeightsError):
        state, others = read_state(path)
        used = {name: tensor for name, tensor in state.items() if not _OF_TRAINING.fullmatch(name)}
        check_weights(used, path)
    return used, sha256, len(state) - len(used) + len(others)


def _download() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(HUB_DATASET, HUB_FILE, repo_type="dataset", local_files_only=not reachable())
        )
    except Exception as error:
        instead = "give a downloaded file as checkpoint, or 'random' to try without"
        said = refusal(HUB_DATASET, error, None, instead)
        if said is None:
            raise
        raise DetectorWeightsError(f"the detector's weights ({HUB_FILE}): {said}") from error


def random_state(shapes: Mapping[str, torch.Size], seed: int = 0) -> State:
    """Draw random weights in mmdet 3.x names, each tensor from its own stream, so that any swap shows.

    Calibrated so that an image gets about 100 detections above 0.3, of 20 to 30 classes, in dozens of boxes.
    """
    state = {}
    for name, targets in sources(shapes).items():
        first, *others = shapes[targets[0]]
        shape = (first * len(targets), *others)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        tensor = rng.standard_normal(shape, dtype=np.float32) * np.float32(_spread(name, shape))
        if len(shape) == 1 and name.endswith("weight"):
            tensor += 1  # a normalisation's
        state[name] = torch.from_numpy(tensor)
    # masks without a common part, then lowered through a constant channel: most of a mask is background
    for name in ("pixel_decoder.mask_feature", "mask_embed.2", "mask_embed.4"):
        weight = state[f"{_P}{name}.weight"]
        weight -= weight.mean(1, keepdim=True)
    for name, constant in (("pixel_decoder.mask_feature", 1.0), ("mask_embed.4", -12.0)):
        state[f"{_P}{name}.weight"][0] = 0
        state[f"{_P}{name}.bias"][0] = constant
    return state


def _spread(name: str, shape: tuple[int, ...]) -> float:
    if len(shape) == 1:
        return 2.0 if "sampling_offsets" in name else 0.1
    if re.search(r"(query_embed|query_feat|level_embed|level_encoding)\.", name):
        return 1.0
    # weak residual branches keep the queries different; large outputs make them confident
    gains = {
        r"cls_embed": 8.0,
        r"mask_embed\.4": 3.0,
        r"transformer_decoder.*(out_proj|ffn\.layers\.1)\.": 0.1,
    }
    gain = next((g for pattern, g in gains.items() if re.search(pattern, name)), 1.0)
    return gain / float(np.prod(shape[1:])) ** 0.5
