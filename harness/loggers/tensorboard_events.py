"""TensorBoard: event files in the run's folder, `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vhsbench.harness.common.images import read_image
from vhsbench.harness.loggers.protocol import LoggerDefaults


class TensorBoard(LoggerDefaults):
    """Scalars, figures as pictures, tables as text."""

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(f"{folder}/tensorboard")

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def keep(self, folder: Path, files: Sequence[Path]) -> None:
        for file in files:
            tag = file.relative_to(folder).as_posix().removesuffix(file.suffix)
            if file.suffix == ".png":
                picture = np.asarray(read_image(file))
                self._writer.add_image(tag, picture, dataformats="HWC")
            elif file.suffix == ".md":
                self._writer.add_text(tag, file.read_text(encoding="utf-8"))

    def close(self, ok: bool) -> None:
        self._writer.close()
