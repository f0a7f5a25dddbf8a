"""Where a report goes: into the run, a folder, or a URL."""

from __future__ import annotations

import gc
import json
import shutil
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.harness.report import build as building
from vhsbench.harness.report.page_candidates import PAGE_MB
from vhsbench.harness.store.folder import Folder, StorageError
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.disk import report_gb


class Kept(MemoryFileSystem):
    """A store that outlives the process, as far as vhsbench knows."""

    protocol = "kept"
    store: ClassVar[dict[str, object]] = {}


@pytest.fixture
def url():
    fsspec.register_implementation("kept", Kept, clobber=True)
    Kept.store.clear()
    return "kept://bucket/folder"


@pytest.fixture
def quick(monkeypatch):
    """A report without figures, which take their time."""
    monkeypatch.setattr(building, "_figures", lambda *_: None)
    monkeypatch.setattr(building, "draw_captions", lambda *_: None)


def report(*arguments):
    return CliRunner().invoke(app, ["report", "--json", *map(str, arguments)], catch_exceptions=False)


def test_a_report_goes_to_a_url(made, url, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "run")
    found = json.loads(report("run", "--out", f"{url}/").stdout)
    assert (found["run"], found["report"]) == (url, f"{url}/report.html")
    assert b"</html>" in Folder(url).read("report.html")
    report("run", "--out", "local")
    local = tmp_path / "local"
    written = {f.relative_to(local).as_posix() for f in local.rglob("*") if f.is_file()}
    assert {f.removeprefix(Folder(url).root + "/") for f in Folder(url).files()} == written
    assert sorted(f.name for f in tmp_path.iterdir()) == ["local", "run"]
    assert {f.name for f in (tmp_path / "run").iterdir()} == {f.name for f in made.iterdir()}


def test_the_report_of_a_run_at_a_url_is_there_and_says_so(made, url, quick):
    Folder(url).fs.put(str(made), Folder(url).root, recursive=True)
    found = json.loads(report(url).stdout)
    assert (found["run"], found["report"]) == (url, f"{url}/report.html")
    assert b"</html>" in Folder(url).read("report.html")


def test_half_a_report_is_never_put(made, url, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(building, "_figures", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        report(made, "--out", url)
    assert Folder(url).files() == []


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("memory://x", "would be lost with it"),
        ("nope://x", "Protocol not known"),
        ("http://127.0.0.1:9/x", "cannot be"),
    ],
)
def test_where_a_report_cannot_go_is_told_before_it_is_made(made, out, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "load_runs", lambda *_: pytest.fail("a run was read"))
    with pytest.raises(StorageError, match=said):
        report(made, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_has_no_room_is_refused_before_anything_is_written(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, free=10**6))
    with pytest.raises(DiskFullError) as refused:
        report(made, "--out", tmp_path / "report")
    assert str(refused.value) == (
        f"this report may write 0.04 GB, but the disk of {tmp_path}/report has 0.001 GB free; "
        "make room, or choose another --out."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_report_takes_no_more_than_is_said(built, tmp_path):
    run = load_run(built.parent / "run")
    assert sum(f.stat().st_size for f in built.rglob("*") if f.is_file()) < report_gb(run, PAGE_MB) * 1e9


def test_collections_of_garbage_skip_the_libraries_while_a_report_is_made(made, tmp_path, monkeypatch):
    gc.unfreeze()  # what the tests' own conftest.py has frozen
    frozen = []
    monkeypatch.setattr(
        building, "build", lambda *_, **__: frozen.append(gc.get_freeze_count()) or {"timing_reasons": []}
    )
    monkeypatch.setattr("vhsbench.harness.commands.listing.show_summary", lambda *_: None)
    CliRunner().invoke(app, ["report", str(made), "--out", str(tmp_path)], catch_exceptions=False)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0
