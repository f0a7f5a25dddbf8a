"""Runs of the fake generator that are begun, and opened again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.store.tables import StoreError
from vhsbench.harness.sweep.run import local, run


def half(config: RunConfig, prompts: Any, todo: Any) -> Iterator[Any]:
    """An engine that is killed after two shards."""
    yield from local(config, prompts, todo[:2])
    raise KeyboardInterrupt


class Runs:
    """What is done to a run's folder, and seen of it."""

    @staticmethod
    def begin(config: RunConfig, out: Path) -> None:
        """Do two shards of a run."""
        with pytest.raises(KeyboardInterrupt):
            run(config, out, engine=half)

    @staticmethod
    def counted(done: list[str]) -> Callable[..., Iterator[Any]]:
        """The local engine, which adds the keys of the shards that it does to `done`."""

        def engine(config: RunConfig, prompts: Any, todo: Any) -> Iterator[Any]:
            done.extend(shard.key for shard in todo)
            return local(config, prompts, todo)

        return engine

    @staticmethod
    def info(out: Path) -> dict[str, Any]:
        """What run.json says."""
        return dict(json.loads((out / "run.json").read_text()))

    @staticmethod
    def refused(config: RunConfig, out: Path) -> str:
        """The sentence by which a run is refused, which has changed no file."""
        before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"}
        with pytest.raises(StoreError) as error:
            run(config, out)
        assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"} == before
        assert "\n" not in str(error.value)
        return str(error.value)


@pytest.fixture
def runs() -> Runs:
    return Runs()
