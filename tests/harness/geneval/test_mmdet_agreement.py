"""The detector against mmdet itself: logits in float64, boxes, and the prepared input.

mmdet 3.3.0's answers for a small seeded input lie in tests/data; where mmdet is installed (vhsbench[mmdet])
it is asked anew as well. To renew the file: `PYTHONPATH=. python tests/harness/geneval/test_mmdet_agreement.py`.
"""

from __future__ import annotations

import hashlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vhsbench.harness.geneval.mask2former import Mask2FormerDetector, instances, prepare

GOLDEN = Path(__file__).parents[2] / "data" / "mask2former_mmdet.safetensors"
SCALE = (150, 90)
KEPT = slice(None, None, 10)  # of the 100 queries' masks, to keep the file small
REFERENCES = ["golden", *(["mmdet"] if find_spec("mmdet") else [])]


def picture() -> Image.Image:
    """60x100 blocks of random colours: resized by 1.5 and padded to 96x160."""
    blocks = np.random.default_rng(5).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(5, 0).repeat(5, 1))


def from_mmdet() -> dict[str, torch.Tensor]:
    """mmdet's logits and instances in float64, on the input of its 2.x pipeline."""
    from vhsbench.harness.geneval.mmdet_backend import MMDetDetector

    model = MMDetDetector("random", scale=SCALE).model.double()
    # only now: without mmcv's compiled module mmdet imports after the backend has stood in for it
    import mmdet.models.layers.positional_encoding as encoding
    from mmdet.structures import DetDataSample

    pixels = from_mmcv()
    resized, original = (90, 150), (60, 100)
    info = {"batch_input_shape": tuple(pixels.shape[-2:]), "img_shape": resized, "ori_shape": original}
    sample = DetDataSample(metainfo=info)
    # mmdet keeps two things in float32: its sine encoding, and the grid of reference points
    grid = model.panoptic_head.pixel_decoder.point_generator
    grid.single_level_grid_priors = partial(grid.single_level_grid_priors, dtype=torch.float64)
    encoding.torch = _Double()
    try:
        with torch.inference_mode():
            features = model.backbone(pixels[None].double())
            classes, masks = model.panoptic_head(features, [sample])
            whole = model.panoptic_head.predict(features, [sample])
            found = model.panoptic_fusion_head.predict(*whole, [sample], rescale=True)[0]["ins_results"]
    finally:
        encoding.torch = torch
    return {
        "class_logits": classes[-1][0],
        "mask_logits": masks[-1][0, KEPT].contiguous(),
        "labels": found.labels,
        "scores": found.scores,
        "boxes": found.bboxes,
        "input_sha256": _digest(pixels),
    }


class _Double:
    """torch, for a module that insists on float32 where the comparison needs float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def from_mmcv() -> torch.Tensor:
    """mmdet 2.x's test pipeline by mmcv's functions: resize, pad with 128, normalise."""
    import mmcv

    bgr = np.asarray(picture())[:, :, ::-1]
    resized = mmcv.imrescale(np.ascontiguousarray(bgr), SCALE)
    padded = mmcv.impad_to_multiple(resized, 32, pad_val=(128, 128, 128))
    mean = np.array([123.675, 116.28, 103.53], dtype=np.float32)
    std = np.array([58.395, 57.12, 57.375], dtype=np.float32)
    return torch.from_numpy(mmcv.imnormalize(padded, mean, std, to_rgb=True)).permute(2, 0, 1).contiguous()


def _digest(pixels: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(hashlib.sha256(pixels.numpy().tobytes()).digest()), dtype=torch.uint8)


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN) if request.param == "golden" else from_mmdet()


@pytest.fixture(scope="module")
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    detector = Mask2FormerDetector("random", scale=SCALE)
    detector.model.double()
    pixels, _ = prepare(picture(), "geneval", SCALE)
    classes, masks = detector.logits(pixels[None])
    return classes[0], masks[0]


def test_the_prepared_input_is_equal_bit_for_bit(reference):
    pixels, size = prepare(picture(), "geneval", SCALE)
    assert size == (90, 150)
    assert pixels.shape == (3, 96, 160)
    assert torch.equal(_digest(pixels), reference["input_sha256"])


def test_logits_agree_to_1e_10_in_float64(reference, logits):
    classes, masks = logits
    assert (classes - reference["class_logits"]).abs().max() < 1e-10
    assert (masks[KEPT] - reference["mask_logits"]).abs().max() < 1e-10
    # the bar means something: the logits are of another order
    assert classes.std() > 1
    assert masks.std() > 1


def test_instances_are_equal(reference, logits):
    labels, scores, boxes, masks = instances(*logits, (96, 160), (90, 150), (60, 100))
    mine = sorted(zip(labels.tolist(), boxes.tolist(), scores.tolist(), strict=True))
    theirs = sorted(zip(*(reference[k].tolist() for k in ("labels", "boxes", "scores")), strict=True))
    assert [(label, box) for label, box, _ in mine] == [(label, box) for label, box, _ in theirs]
    assert np.allclose([s for *_, s in mine], [s for *_, s in theirs], atol=1e-10, rtol=0)
    assert len({tuple(box) for _, box, _ in mine}) > 20
    assert masks.shape == (100, 60, 100)


@pytest.mark.skipif(
    "mmdet" not in REFERENCES, reason="mmdet is not installed: its golden answers are compared"
)
def test_whole_detectors_agree_from_image_to_boxes():
    from vhsbench.harness.geneval.mmdet_backend import MMDetDetector

    images = [picture(), picture().rotate(90, expand=True), picture().crop((0, 0, 60, 60))]
    mine = Mask2FormerDetector("random", pipeline="mmdet3", scale=SCALE).detect(images)
    theirs = MMDetDetector("random", scale=SCALE).detect(images)
    for a, b in zip(mine, theirs, strict=True):
        assert {k: sorted(d.box for d in v) for k, v in a.items()} == {
            k: sorted(d.box for d in v) for k, v in b.items()
        }


if __name__ == "__main__":
    save_file(from_mmdet(), GOLDEN)
