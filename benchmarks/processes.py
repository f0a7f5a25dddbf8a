"""Commands under a time limit, and what NVML says of the GPUs meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import psutil

from vhsbench.harness.common.processes import TIED_TO

_END_S = 20.0


class TooSlow(Exception):
    """A command that its time limit ended."""


class CommandFailed(Exception):
    """A command that ended with an error; says its last "error:" line, or the last of its output."""


class Command:
    """One process with its children, none of which outlives the `with`.

    A command of vhsbench does not outlive this process either.
    """

    def __init__(
        self, command: Sequence[str], log: Path, until: float, env: Mapping[str, str] | None = None
    ) -> None:
        self.log, self.until = log, until
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.time()
        with log.open("a", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=stream,
                env={**os.environ, TIED_TO: str(os.getpid()), **(env or {})},
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        family = self.family()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in family:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(family, _END_S)

    def family(self) -> list[psutil.Process]:
        """Return its children, and theirs."""
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return []

    def wait(self, done: Callable[[], bool] = lambda: False, check: bool = True) -> int | None:
        """Wait until it ends or `done`; return its exit status, or None. Raises TooSlow, CommandFailed."""
        while (status := self.process.poll()) is None:
            if done():
                return None
            if time.monotonic() > self.until:
                raise TooSlow(f"ended by its time limit; its output ended with: {self._last()}")
            time.sleep(0.1)
        if check and status:
            self.failed(status)
        return int(status)

    def failed(self, status: int | None) -> NoReturn:
        raise CommandFailed(f"exit status {status}: {self._last()}")

    def kill_one(self, chosen: Callable[[psutil.Process], bool]) -> float:
        """End one of its family by SIGKILL; returns the time (seconds since the epoch). Raises CommandFailed."""
        for process in self.family():
            try:
                if chosen(process):
                    os.kill(process.pid, signal.SIGKILL)
                    return time.time()
            except psutil.Error:
                continue
        raise CommandFailed("the process that was to be killed is not there")

    def _last(self) -> str:
        lines = self.log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
        said = [line for line in lines if line.startswith("error:")] or lines
        return said[-1][:300] if said else "nothing"


class Cards:
    """Rows [seconds since the epoch, GPU, GB used, % busy], twice a second; none without NVML."""

    def __init__(self, every_s: float = 0.5) -> None:
        self.rows: list[tuple[float, int, float, int]] = []
        self._every_s, self._over = every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Cards:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception:  # NVML raises its own kinds; any of them means that there is nothing to watch
            return
        while True:
            last = self._over.wait(self._every_s)
            for i, handle in enumerate(handles):
                used = pynvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9
                busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                self.rows.append((round(time.time(), 2), i, round(used, 2), int(busy)))
            if last:
                return
