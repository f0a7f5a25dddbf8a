"""Log the statistics of a stage: one CSV, and TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vhsbench.harness.common.atomic import write_atomic

CSV = "statistics.csv"
COLUMNS = ("stage", "step", "split", "loss", "auc", "accuracy", "ece", "learning_rate", "samples_per_s")


class Log:
    """Rows of one stage, from `step` on; later rows, written by an interrupted run, are removed."""

    def __init__(self, out: Path, stage: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._file, self._stage = out / CSV, stage
        kept = [r for r in read(out) if r["stage"] != stage or int(r["step"]) <= step]
        write_atomic(self._file, (_text([dict(zip(COLUMNS, COLUMNS, strict=True))]) + _text(kept)).encode())
        self._board: Any = SummaryWriter(str(out / "tensorboard" / stage), purge_step=step + 1)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write one row by the names of COLUMNS; values not given stay empty."""
        row: dict[str, Any] = {"stage": self._stage, "step": step, "split": split}
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(_text([row | {k: f"{v:.6g}" for k, v in values.items()}]))
        for key, value in values.items():
            self._board.add_scalar(f"{key}/{split}", value, step)

    def close(self) -> None:
        self._board.close()


def read(out: Path) -> list[dict[str, str]]:
    """Read the rows of a training's CSV; none if there is no file yet."""
    file = out / CSV
    if not file.exists():
        return []
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def _text(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerows(rows)
    return stream.getvalue()
