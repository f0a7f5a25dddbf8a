"""The same detector in mmdet 3 itself, as an independent check, without compiled code, on CPU or CUDA.

mmcv-lite has no compiled operators. The one that Mask2Former needs, multi-scale deformable attention, is in mmcv
in plain PyTorch too, and a stand-in for the compiled module sends the calls there.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vhsbench.harness.geneval import mask2former_weights
from vhsbench.harness.geneval.colors import ColorNamer
from vhsbench.harness.geneval.detector import DetectorError
from vhsbench.harness.geneval.mask2former import SCALE, Mask2FormerDetector
from vhsbench.harness.geneval.rules import Objects

if TYPE_CHECKING:
    from PIL import Image

CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


class MMDetDetector(Mask2FormerDetector):
    """mmdet's own network and pipeline (`mmdet3`), one image at a time. Options as Mask2FormerDetector."""

    name = "mmdet"

    def __init__(
        self,
        checkpoint: str | None = None,
        pipeline: str = "mmdet3",
        colors: str | ColorNamer = "openai",
        device: str = "cpu",
        batch_size: int = 8,
        scale: tuple[int, int] = SCALE,
        seed: int = 0,
    ) -> None:
        if pipeline != "mmdet3":
            raise DetectorError(f"the mmdet detector's pipeline is 'mmdet3', not '{pipeline}'.")
        mmdet = _mmdet()
        super().__init__(checkpoint, pipeline, colors, "cpu", batch_size, scale, seed)
        from mmdet.apis import init_detector
        from mmengine import Config

        config = Config.fromfile(str(Path(mmdet.__file__).parent / CONFIG))
        config.model.backbone.init_cfg = None
        for step in config.test_dataloader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = self.scale
        model = init_detector(config, checkpoint=None, palette="coco", device="cpu")
        absent = model.load_state_dict(mask2former_weights.restore(self.model.state_dict()), strict=False)
        left = [k for k in absent.missing_keys if not k.endswith("relative_position_index")]
        if left or absent.unexpected_keys:
            raise DetectorError(f"this mmdet names tensors otherwise: {[*left, *absent.unexpected_keys][0]}.")
        self.model = model.to(device)

    def detect(self, images: Sequence[Image.Image]) -> list[Objects]:
        """See Detector.detect."""
        from mmdet.apis import inference_detector

        found = []
        for image in images:
            bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
            rows = inference_detector(self.model, bgr).pred_instances
            found.append(self._objects(rows.labels, rows.scores, rows.bboxes, rows.masks))
        return found

    def logits(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Mask2FormerDetector.logits."""
        from mmdet.structures import DetDataSample

        parameter = next(self.model.parameters())
        pixels = pixels.to(parameter.device, parameter.dtype)
        size = tuple(pixels.shape[-2:])
        samples = [DetDataSample(metainfo={"batch_input_shape": size, "img_shape": size}) for _ in pixels]
        with torch.inference_mode():
            classes, masks = self.model.panoptic_head(self.model.backbone(pixels), samples)
        return classes[-1], masks[-1]


def _mmdet() -> Any:
    """Import mmdet, with a stand-in for mmcv's compiled module if that is missing. Raises DetectorError."""
    name = "mmcv._ext"
    try:
        import mmcv

        if name not in sys.modules and not list(Path(mmcv.__file__).parent.glob("_ext.*")):
            sys.modules[name] = _Operators(name)
        import mmdet
    except ImportError as error:
        raise DetectorError(
            f"the mmdet detector needs mmdet, mmcv-lite and mmengine ({error}): pip install 'vhsbench[mmdet]'."
        ) from error
    return mmdet


class _Operators(types.ModuleType):
    """Stands in for mmcv's compiled module: deformable attention in PyTorch; nothing else can be called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def ms_deform_attn_forward(
        self, value: Any, shapes: Any, _start: Any, locations: Any, weights: Any, im2col_step: Any = None
    ) -> Any:
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)

    def __getattr__(self, operator: str) -> Any:
        if operator.startswith("__"):
            raise AttributeError(operator)

        def absent(*_: Any, **__: Any) -> Any:
            raise DetectorError(f"mmcv's compiled operator '{operator}' is not there: this is mmcv-lite.")

        return absent
