from __future__ import annotations

import ast
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ReadError, check_regular, ending, read_bytes, read_errors_as


class MineError(VhsbenchError):
    pass


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "link") == b"\x00\xff"


def test_the_limit_is_inclusive_and_said(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1001)
    assert len(read_bytes(tmp_path / "a", 1001)) == 1001
    with pytest.raises(ReadError, match=r"a has 1,001 bytes; at most 1,000 are read\.$"):
        read_bytes(tmp_path / "a", 1000)


def test_a_file_that_says_it_is_empty_is_bounded_too():
    with pytest.raises(ReadError, match=r"/proc/self/maps has .* bytes; at most 10 are read"):
        read_bytes("/proc/self/maps", 10)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {"pipe": "is a pipe", "link": "is a device", ".": "is a folder", "none": "no such file or directory",
             "loop": "cannot be read: too many levels", "nul\0": "cannot be read: embedded null byte"}  # fmt: skip
    for name, said in cases.items():
        for read in (read_bytes, check_regular):
            with pytest.raises(ReadError, match=said):
                read(tmp_path / name)


def test_a_pipe_that_replaces_the_file_in_between_does_not_block(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from vhsbench.harness.common import files\n"
        "file, stat = Path(sys.argv[1]), os.stat\n"
        "def replaced(path):\n"
        "    found = stat(path); file.unlink(); os.mkfifo(file); return found\n"
        "os.stat = replaced\n"
        "try: files.read_bytes(file)\n"
        "except files.ReadError as error: print(error)\n"
    )
    (tmp_path / "a").write_text("x", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("a is a pipe, not a regular file.\n"), done.stderr


def test_a_callers_own_error_says_the_same(tmp_path):
    with (
        pytest.raises(MineError, match=r"none cannot be read: no such file or directory\.$"),
        read_errors_as(MineError),
    ):
        read_bytes(tmp_path / "none")


def test_an_ending_comes_after_the_whole_name():
    assert ending(Path("a/results.seed0"), ".csv") == Path("a/results.seed0.csv")


def test_no_module_takes_a_point_in_a_name_for_the_begin_of_an_ending():
    root = Path(__file__).parents[3]  # of the checkout: benchmarks are not in the package
    for package in ("generators", "verifiers", "harness", "results", "benchmarks"):
        for file in (root / package).rglob("*.py"):
            calls = [
                n
                for n in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(n, ast.Attribute)
            ]
            assert not [c.lineno for c in calls if c.attr in ("with_suffix", "with_stem")], file


def test_reading_takes_no_more_memory_than_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    tracemalloc.start()
    assert len(read_bytes(tmp_path / "a", 1 << 30)) == 1000
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
