"""Room on the disk: what a run and a report take at most, and whether it is there before they begin."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.harness.store.keys import POOL, distinct

if TYPE_CHECKING:
    from vhsbench.harness.config.entries import GeneratorConfig
    from vhsbench.harness.config.run import RunConfig
    from vhsbench.harness.store.tables import Run

# of a kept PNG, at most
_IMAGE_MB, _OTHER_IMAGE_MB = 2.0, {"nano": 0.02}
_ROW_BYTES = 64  # of one candidate or score in Parquet: once in its shard, once in the whole table
_CSV_ROW_BYTES = 64  # of one score in the report's CSV
_POOL_MB = 15.0  # of the figures of one generator


def candidates(config: RunConfig, entry: GeneratorConfig, prompts: int) -> int:
    """Count the images that a generator makes for that many prompts."""
    return prompts * len(config.seeds) * config.pool_of(entry)


def run_gb(config: RunConfig, prompts: int) -> float:
    """Return what a run directory takes at most, without its report."""
    rows = sum(
        candidates(config, entry, prompts) * (1 + len(config.verifiers_of(entry)))
        for entry in config.generators
    )
    images_mb = sum(
        min(config.gallery_prompts, prompts)
        * config.pool_of(entry)
        * _OTHER_IMAGE_MB.get(entry.name, _IMAGE_MB)
        for entry in config.generators
    )
    return math.fsum([2 * rows * _ROW_BYTES / 1e9, images_mb / 1e3])


def report_gb(run: Run, page_mb: float) -> float:
    """Return what a report takes at most, with a page of `page_mb`."""
    pools = len(distinct(run.candidates, POOL))
    return math.fsum([(page_mb + _POOL_MB * max(1, pools)) / 1e3, len(run.scores) * _CSV_ROW_BYTES / 1e9])


def check_room(
    folder: Path, need_gb: float, what: str, resumes: bool = False, elsewhere: str = "another --out"
) -> None:
    """Refuse to begin what the disk of `folder` has no room for; what is in the folder counts if it `resumes`.

    Raises DiskFullError.
    """
    there = folder
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    left_gb = need_gb - (_used_gb(folder) if resumes else 0.0)
    free_gb = usage.free / 1e9
    if usage.total and left_gb > free_gb:  # some file systems tell nothing
        raise DiskFullError(
            f"{what} may write {left_gb:.3g} GB, but the disk of {folder} "
            f"has {free_gb:.3g} GB free; make room, or choose {elsewhere}."
        )


def _used_gb(folder: Path) -> float:
    files = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files) / 1e9
