"""The detector's weights, its two pipelines and its post-processing."""

from __future__ import annotations

import copy
import hashlib
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench.harness.geneval import mask2former_weights as weights
from vhsbench.harness.geneval.detector import DetectorError, judge
from vhsbench.harness.geneval.judge import GenevalJudge
from vhsbench.harness.geneval.mask2former import Mask2FormerDetector, _normalised, instances, prepare
from vhsbench.harness.geneval.mask2former_weights import DetectorWeightsError
from vhsbench.harness.geneval.prompts import single


@pytest.fixture(scope="module")
def shapes(detector):
    return {name: tensor.shape for name, tensor in detector.model.state_dict().items()}


@pytest.fixture(scope="module")
def state(shapes):
    return weights.random_state(shapes)


def picture(seed: int, height: int = 64, width: int = 96) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1))


def as_2x(name: str) -> str:
    """An mmdet 3.x name in mmdet 2.x."""
    if "pixel_decoder.encoder" in name or "transformer_decoder.layers" in name:
        first = "cross_attn" if "transformer_decoder" in name else "self_attn"
        for new, old in ((first, "attentions.0"), ("self_attn", "attentions.1"), ("ffn", "ffns.0")):
            name = name.replace(f".{new}.", f".{old}.")
    return name


def test_mmdet_2x_and_3x_names_give_the_same_757_tensors(state, shapes):
    old = {as_2x(name): tensor for name, tensor in state.items()}
    assert sum(a != b for a, b in zip(old, state, strict=True)) == 180
    old["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(49, 49)
    converted, new = weights.convert(old, shapes, "old"), weights.convert(state, shapes, "new")
    assert len(state) == 625
    assert len(converted) == 757
    assert all(torch.equal(converted[name], tensor) for name, tensor in new.items())


def test_restoring_undoes_converting(state, shapes):
    restored = weights.restore(weights.convert(state, shapes, "x"))
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in state.items())


def test_projections_are_split_in_the_order_q_k_v_and_merging_is_reordered(state, shapes):
    converted = weights.convert(state, shapes, "x")
    block = "model.pixel_level_module.encoder.swin.encoder.layers.0."
    joined = state["backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"]
    for part, letter in enumerate("qkv"):
        split = converted[f"{block}blocks.0.attention.{letter}_proj.weight"]
        assert torch.equal(split, joined[part * 96 : (part + 1) * 96])
    merging, old = (
        converted[block + "downsample.reduction.weight"],
        state["backbone.stages.0.downsample.reduction.weight"],
    )
    # transformers: channels of neighbour (0, 0), then (1, 0), ...; mmdet: neighbours of channel 0, then 1, ...
    assert torch.equal(merging[:, 1], old[:, 4])
    assert torch.equal(merging[:, 96], old[:, 2])
    assert torch.equal(merging[:, 2 * 96 + 5], old[:, 5 * 4 + 1])


@pytest.mark.parametrize("name", ["panoptic_head.cls_embed.weight", "backbone.norm3.bias"])
def test_missing_left_over_and_ill_shaped_tensors_are_named(state, shapes, name):
    without = {k: v for k, v in state.items() if k != name}
    with pytest.raises(DetectorWeightsError, match=f"file: tensor '{name}' is missing"):
        weights.convert(without, shapes, "file")
    with pytest.raises(DetectorWeightsError, match=r"file: tensor 'bbox_head\.weight' is left over"):
        weights.convert({**state, "bbox_head.weight": torch.zeros(1)}, shapes, "file")
    with pytest.raises(DetectorWeightsError, match=f"file: tensor '{name}' is .* does not fit"):
        weights.convert({**state, name: torch.zeros(3)}, shapes, "file")


def test_a_checkpoint_from_a_file_is_the_state_it_holds(tmp_path, state, detector):
    file = tmp_path / "model.pth"
    torch.save({"meta": {"epoch": 50}, "state_dict": {as_2x(k): v for k, v in state.items()}}, file)
    model, sha256, _ = weights.load(str(file))
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    mine = model.state_dict()
    used = {k: v for k, v in detector.model.state_dict().items() if k not in weights._UNUSED}
    assert all(torch.equal(mine[name], tensor) for name, tensor in used.items())


def test_a_checkpoint_of_a_training_is_the_state_in_it(tmp_path, state, detector, monkeypatch):
    engine = types.ModuleType("foreign_engine")  # gone when the checkpoint is read
    engine.History = type("History", (), {"__module__": engine.__name__})
    history = engine.History()
    history.values = np.arange(4.0)
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    kept = {
        "data_preprocessor.mean": torch.zeros(3, 1, 1),
        "panoptic_head.loss_cls.class_weight": torch.full((81,), float("inf")),
    }
    content = {
        "meta": {"epoch": np.int64(1)},
        "state_dict": OrderedDict({f"module.{k}": v for k, v in (state | kept).items()}),
        "message_hub": {"log_scalars": {"loss": history, "lr": np.float64(1e-4)}},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float32(1e-4)}]},
    }
    file = tmp_path / "epoch_1.pth"
    torch.save(content, file)
    monkeypatch.delitem(sys.modules, engine.__name__)
    trained = Mask2FormerDetector(str(file))
    mine = trained.model.state_dict()
    used = {k: v for k, v in detector.model.state_dict().items() if k not in weights._UNUSED}
    assert all(torch.equal(mine[name], tensor) for name, tensor in used.items())
    assert trained.info()["ignored"] == 4
    assert engine.__name__ not in sys.modules


def test_another_number_of_classes_is_said(state, shapes):
    fewer = {
        "panoptic_head.cls_embed.weight": torch.zeros(21, 256),
        "panoptic_head.cls_embed.bias": torch.zeros(21),
    }
    with pytest.raises(
        DetectorWeightsError, match=r"^file was trained for 20 classes; this detector has the 80 of COCO\.$"
    ):
        weights.convert(state | fewer, shapes, "file")


def test_a_shape_is_refused_before_anything_is_copied(state, shapes):
    name = "backbone.stages.0.downsample.reduction.weight"
    huge = torch.zeros(1).expand(1 << 20, 1 << 22)  # 16 TiB if it were
    with pytest.raises(DetectorWeightsError, match=f"file: tensor '{name}' is .* does not fit"):
        weights.convert(state | {name: huge}, shapes, "file")


def test_a_name_that_promises_another_hash_is_refused(tmp_path):
    content = tmp_path / "content"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, content)
    sha256 = hashlib.sha256(content.read_bytes()).hexdigest()
    right = content.rename(tmp_path / f"mask2former_20220504_001756-{sha256[:8]}.pth")
    assert weights.read(right)[1] == sha256
    wrong = right.rename(tmp_path / "mask2former_20220504_001756-743b7d99.pth")
    with pytest.raises(DetectorWeightsError, match=f"begins with {sha256[:8]}, not 743b7d99"):
        weights.read(wrong)


def test_unusable_checkpoints_are_one_sentence(tmp_path):
    with pytest.raises(DetectorWeightsError, match=r"absent\.pth does not exist"):
        weights.read(tmp_path / "absent.pth")
    for name, content in {"text.pth": b"no checkpoint", "list.pth": None}.items():
        file = tmp_path / name
        file.write_bytes(content) if content else torch.save([1, 2], file)
        with pytest.raises(DetectorWeightsError, match=f"{name}: holds no"):
            weights.read(file)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "run": print}, tmp_path / "code.pth")
    with pytest.raises(DetectorWeightsError, match=r"code\.pth: holds no plain tensors"):
        weights.read(tmp_path / "code.pth")


def test_an_unknown_pipeline_is_one_sentence():
    with pytest.raises(DetectorError, match="geneval and mmdet3"):
        Mask2FormerDetector("random", pipeline="mmdet2")


def test_finds_classes_boxes_scores_and_masks(detector):
    image = picture(0)
    (objects,) = detector.detect([image])
    assert set(objects) <= set(detector.classes)
    assert list(objects) == [c for c in detector.classes if c in objects]
    found = [d for rows in objects.values() for d in rows]
    assert len(found) == 100
    assert len(objects) > 10
    assert sum(d.score > 0.3 for d in found) > 50
    for d in found:
        assert (d.mask is not None) is (d.score > 0.3)
        if d.mask is not None:
            assert d.mask.shape == (image.height, image.width)
            rows, columns = np.nonzero(d.mask.numpy())
            assert d.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_batch_of_several_sizes_is_each_image_alone(detector):
    images = [picture(0), picture(1, 96, 64), picture(2), picture(3, 64, 64)]
    together = detector.detect(images)
    for image, objects in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert {k: len(v) for k, v in alone.items()} == {k: len(v) for k, v in objects.items()}
        pairs = [(a, b) for k in alone for a, b in zip(alone[k], objects[k], strict=True)]
        assert np.allclose([a.score for a, _ in pairs], [b.score for _, b in pairs], atol=1e-4)


def test_all_levels_are_normalised_as_mmcv_does():
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 1, 3)
    mean, std = (np.array(v, np.float32) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    theirs = (np.arange(256, dtype=np.float32)[:, None] - mean) * (1 / std.astype(np.float64))
    assert np.array_equal(_normalised(levels)[0, :, :, 0].numpy().T, theirs.astype(np.float32))
    for pixels in (levels, levels.float()):  # in another layout a GPU would compute with other kernels
        assert _normalised(pixels.contiguous()).is_contiguous()


def test_half_precision_is_near_says_so_and_has_full_precision_as_its_reference(detector):
    pixels = prepare(picture(0), "geneval", (128, 64))[0][None]
    half = copy.copy(detector)
    half.dtype = "float16"
    exact, near = detector.logits(pixels), half.logits(pixels)
    for one, other in zip(exact, near, strict=True):
        assert other.dtype == torch.float32
        assert 0 < (one - other).norm() / one.norm() < 0.01
    back = GenevalJudge(half).reference().detector
    assert all(torch.equal(*pair) for pair in zip(exact, back.logits(pixels), strict=True))
    plain = GenevalJudge(detector)
    assert plain.reference() is plain
    assert half.info() == detector.info() | {"dtype": "float16"}
    known = Mask2FormerDetector.identity("random")
    assert Mask2FormerDetector.identity("random", dtype="float16") == known | {"dtype": "float16"}
    assert "dtype" not in Mask2FormerDetector.identity("random", dtype="float32")
    with pytest.raises(DetectorError, match="no detector dtype 'int8'; there are float32 and float16"):
        Mask2FormerDetector("random", dtype="int8")


def test_verdicts_come_out_of_it(detector):
    (objects,) = detector.detect([picture(0)])
    best = max(objects, key=lambda name: max(d.score for d in objects[name]))
    absent = next(name for name in detector.classes if name not in objects)
    verdicts = judge(detector, [picture(0)] * 2, [single(best), single(absent)])
    assert [v.correct for v in verdicts] == [True, False]


def test_the_record_names_pipeline_and_checkpoint(detector):
    assert detector.info() == {
        "name": "mask2former",
        "pipeline": "geneval",
        "checkpoint_sha256": "random",
        "colors": "openai",
        "scale": [128, 64],
    }


def test_official_input_pads_with_grey_before_normalising():
    image = Image.new("RGB", (100, 60), (10, 20, 30))
    pixels, size = prepare(image, "geneval", (150, 90))
    assert size == (90, 150)
    assert pixels.shape == (3, 96, 160)
    red, green, blue = pixels[:, 0, 0].tolist()
    assert (red, green, blue) == pytest.approx(
        ((10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375), abs=1e-5
    )
    assert pixels[0, -1, -1].item() == pytest.approx((128 - 123.675) / 58.395, abs=1e-5)


def test_the_other_pipeline_pads_with_zero_after_and_resizes_in_float():
    image = picture(4, 64, 96)
    pixels, size = prepare(image, "mmdet3", (150, 90))
    official, _ = prepare(image, "geneval", (150, 90))
    assert pixels.shape == official.shape
    assert pixels[:, size[0] :].abs().max() == 0
    inside = (pixels - official)[:, : size[0], : size[1]].abs()
    assert 0 < inside.max() < 1 / 57  # less than one of 256 steps


def test_the_default_size_is_the_official_one():
    assert prepare(Image.new("RGB", (1024, 1024)), "geneval")[1] == (800, 800)
    assert prepare(Image.new("RGB", (1600, 400)), "geneval")[1] == (333, 1333)


def test_instances_of_made_up_logits():
    classes = torch.full((3, 4), -20.0)
    classes[0, 1] = classes[1, 2] = 20.0  # certain of labels 1 and 2
    classes[2, 3] = 20.0  # no object
    masks = torch.full((3, 8, 8), -10.0)
    masks[0, 2:4, 1:5] = 10.0
    labels, scores, boxes, binary = instances(classes, masks, (8, 8), (6, 8), (6, 8))
    by_score = scores.argsort(descending=True)
    first = by_score[0]
    assert labels[first] == 1
    assert boxes[first].tolist() == [1, 2, 5, 4]
    assert scores[first].item() == pytest.approx(1, abs=1e-3)
    assert binary[first].sum() == 8
    # certain of its class, but with an empty mask: no score and no box
    assert all(
        s == 0 and b.tolist() == [0] * 4 for s, b, m in zip(scores, boxes, binary, strict=True) if not m.any()
    )
    assert len(labels) == 9


def test_masks_are_resized_through_the_padded_size():
    classes = torch.full((1, 2), 0.0)
    masks = torch.full((1, 4, 4), -1.0)
    masks[0, :2, :2] = 1.0
    _, _, boxes, binary = instances(classes, masks, (16, 16), (16, 12), (8, 6))
    assert binary.shape == (1, 8, 6)
    assert boxes.tolist() == [[0, 0, 4, 4]]


def test_weights_from_the_hub_are_asked_for_as_it_answers(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("vhsbench.harness.geneval.mask2former_weights.reachable", lambda: False)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, file, **o: asked.update(o) or str(tmp_path / file)
    )
    assert weights._download().name == weights.HUB_FILE
    assert asked == {"repo_type": "dataset", "local_files_only": True}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t: t.fill_(float("nan")), "holds NaN or infinite numbers"),
        (lambda t: t.fill_(float("-inf")), "holds NaN or infinite numbers"),
        (lambda t: t.long(), "holds int64, but weights are"),
        (lambda t: t.to(torch.complex64), "holds complex64, but weights are"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused_by_file_and_key(tmp_path, state, wrong, said):
    file, key = tmp_path / "model.pth", "panoptic_head.cls_embed.bias"
    torch.save({"state_dict": state | {key: wrong(state[key].clone())}}, file)
    with pytest.raises(DetectorWeightsError, match=f"model.pth: '{key}' {said}"):
        weights.load(str(file))
