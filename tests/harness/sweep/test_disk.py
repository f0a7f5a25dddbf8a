"""Where the disk has no room for a run or a report, it is refused before it begins."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from vhsbench import generators
from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.harness.sweep import disk
from vhsbench.harness.sweep.dry_run import dry_run
from vhsbench.harness.sweep.run import local, run

Usage = namedtuple("Usage", "total used free")
LIMIT = 48


@pytest.fixture
def free(monkeypatch):
    """Sets the bytes that every disk has free."""

    def set_free(size, total=10**12):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, 0, size))

    return set_free


def test_a_run_that_has_no_room_is_refused_before_a_model_is_loaded(faults, tmp_path, free, monkeypatch):
    config = faults.config(limit=LIMIT)
    need = disk.run_gb(config, LIMIT)
    assert dry_run(config)["disk_gb"] == round(need, 2) == 0.01
    monkeypatch.setattr(generators, "create", lambda *_, **__: pytest.fail("a generator was loaded"))
    free(int(need * 1e9 / 2))
    out = tmp_path / "runs" / "r"
    with pytest.raises(DiskFullError) as refused:
        run(config, out)
    assert str(refused.value) == (
        f"this run may write {need:.3g} GB, but the disk of {out} has {need / 2:.3g} GB free; "
        "make room, or choose another --out."
    )
    assert not out.parent.exists()
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DiskFullError):
        run(config, out)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_what_is_there_counts_when_a_run_goes_on(faults, tmp_path, free):
    def half(config, prompts, todo):
        yield from local(config, prompts, todo[: len(todo) // 2])
        raise KeyboardInterrupt

    config, out = faults.config(limit=LIMIT), tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(config, out, engine=half)
    used = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    need = int(disk.run_gb(config, LIMIT) * 1e9)
    free(need - used - 10_000)
    with pytest.raises(DiskFullError, match=r"^this run may write 0\.\d+ GB, but the disk of "):
        run(config, out)
    free(need - used + 10_000)
    run(config, out)
    free(0)
    run(config, out)  # it is done


@pytest.mark.parametrize("total", [0, 10**12])
def test_a_disk_that_tells_nothing_refuses_nothing(tmp_path, free, total):
    free(0, total)
    if total:
        with pytest.raises(DiskFullError, match="has 0 GB free"):
            disk.check_room(tmp_path / "not" / "there", 0.1, "this")
    else:
        disk.check_room(tmp_path / "not" / "there", 0.1, "this")


def test_a_run_takes_no_more_than_is_said(faults, tmp_path):
    config = faults.config(limit=LIMIT, pool=12, seeds="[0]")
    run(config, tmp_path / "r")
    sizes = [f.stat().st_size for f in (tmp_path / "r").rglob("*") if f.suffix in (".parquet", ".png")]
    assert sum(sizes) < disk.run_gb(config, LIMIT) * 1e9
