"""Reports in a locale that knows ASCII alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vhsbench import harness
from vhsbench.harness.report import page_file
from vhsbench.harness.report.build import build

CHINESE = "\u4e00\u53ea\u732b"
ROOT = str(Path(harness.__file__).parents[1])
ASCII = {
    "LC_ALL": "POSIX",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONPATH": ROOT,
    "OMP_NUM_THREADS": "1",
}


def command(*arguments, **options):
    """The command line in a process that is not to know better than its locale."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "LANG")} | ASCII
    return subprocess.run(
        [sys.executable, "-m", "vhsbench.harness.cli", *map(str, arguments)], env=environment, timeout=280, check=False,
        capture_output=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_run):
    """A small run whose first prompt, which the gallery shows, is Chinese."""
    folder = tmp_path_factory.mktemp("locale") / "run"
    return make_run(folder, marked=f" {CHINESE}", pool=2, gallery_prompts=1, verifiers=[{"name": "vhs"}])


def test_a_report_of_chinese_prompts_is_whole(run, tmp_path):
    done = command("report", run, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"number 0 {CHINESE}" in text
    assert text.rstrip().endswith("</html>")


def test_a_page_that_cannot_be_written_leaves_the_one_before(run, tmp_path, monkeypatch, undrawn):
    (tmp_path / "report.html").write_text("before", encoding="utf-8")
    monkeypatch.setattr(page_file, "get_plotlyjs", lambda: "half a character: \ud800")
    with undrawn(), pytest.raises(UnicodeEncodeError):
        build(run, out=tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "before"
