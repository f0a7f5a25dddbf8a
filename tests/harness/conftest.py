"""A clock that stands still; and a fake generator and verifier, registered as another package would register its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import vhsbench.harness.sweep.run
from vhsbench import generators, verifiers
from vhsbench.harness import judges
from vhsbench.harness.config.run import RunConfig, parse

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes only by `sleep`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def fake_time() -> Clock:
    """Stands for the module `time`, for tests that must not depend on how busy the machine is."""
    return Clock()


class Faults:
    """A folder of faults, and the configuration whose generators read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def set(self, **faults: object) -> None:
        """Replace all faults."""
        for kind in ("slow", "poison", "oom", "die", "nan"):
            (self.folder / kind).unlink(missing_ok=True)
        for kind, value in faults.items():
            (self.folder / kind).write_text(str(value))

    def loads(self) -> list[str]:
        """name-pid-time of every load of a generator."""
        return sorted(f.name for f in self.folder.glob("loads/*"))

    def yaml(
        self,
        limit: int = 24,
        names: tuple[str, ...] = ("fake",),
        seeds: str = "[0, 1]",
        overlap: bool | None = None,
        source: object = "nano",
        verifiers: str = "[{name: fake-verifier}]",
        **other: object,
    ) -> str:
        entries = "".join(f"- {{name: {n}, options: {{faults: '{self.folder}'}}}}\n" for n in names)
        return (
            f"generators:\n{entries}verifiers: {verifiers}\n"
            f"prompts: {{source: '{source}', split: validation, limit: {limit}}}\n"
            f"seeds: {seeds}\nbatch_size: 12\noverlap: {json.dumps(overlap)}\n"
        ) + "".join(
            f"{k}: {json.dumps(v)}\n"
            for k, v in ({"pool": 3, "gallery_prompts": 2, "threads": 1} | other).items()
        )

    def config(self, **how: Any) -> RunConfig:
        return parse(self.yaml(**how), "fake.yaml")

    @staticmethod
    def tables(run: Path) -> dict[str, bytes]:
        """The bytes of a finished run's candidates, scores and pictures."""
        files = [*(run / f"{table}.parquet" for table in ("candidates", "scores")), *run.rglob("*.png")]
        return {str(f.relative_to(run)): f.read_bytes() for f in files}

    def drive(
        self, out: Path, engine: str = "local", *address: str, env: dict[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[str]:
        """A driver in a process of its own."""
        config = self.folder / "config.yaml"
        config.write_text(self.yaml(**how))
        return subprocess.Popen(
            [sys.executable, str(FAKES / "drive.py"), str(config), str(out), engine, *address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env,
        )  # fmt: skip


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Faults, in this process and in those that it starts; runs measure no costs."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(ROOT)]))
    for registry in (generators.REGISTRY, judges.REGISTRY, verifiers.REGISTRY):
        monkeypatch.setattr(registry, "_targets", None)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", lambda *_: None)
    yield Faults(tmp_path / "faults")
    sys.modules.pop("vhsbench_fakes", None)


class Family:
    """A process and all that it starts, and what they start, known by a mark in their environment."""

    _MARK = "VHSBENCH_TEST_MARK"

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self.environment = os.environ | {"HF_HUB_OFFLINE": "1", self._MARK: self._mark}

    def living(self) -> list[psutil.Process]:
        """Those that live; not those that have ended and whose status nobody has asked for."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(self._MARK) == self._mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def at_work(self, seconds: float) -> int:
        """How many of those that live have used a processor for longer than so."""
        count = 0
        for process in self.living():
            try:
                count += process.cpu_times().user > seconds
            except psutil.Error:  # it ended just now
                continue
        return count

    def left(self) -> list[psutil.Process]:
        """Those that live on for a minute, however busy the machine is; returns as soon as there are none."""
        until = time.monotonic() + 60
        while (left := self.living()) and time.monotonic() < until:
            time.sleep(0.1)
        return left


@pytest.fixture
def family() -> Iterator[Family]:
    """For processes of a test; those that are left are killed after it."""
    found = Family()
    yield found
    for process in found.living():
        process.kill()
