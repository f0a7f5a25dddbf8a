"""The times of several pipelines, measured in turns: whatever slows the machine meets all of them alike.

Every pipeline is opened once in a process of its own, which stays alive where memory allows. Then they take turns,
in an order that is reversed each time, and a round is one turn of each. Where memory does not allow it, a process
ends after its turn and is started again for the next; turns are then fewer and longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhsbench import generators
from vhsbench.harness.cost import percentiles, variants
from vhsbench.harness.cost.load import LOADED_PERCENT
from vhsbench.harness.cost.measure import END_TO_END, Cell, Key, Measurement, Opened, Passed, Round
from vhsbench.harness.cost.process import Failure, MeasuringProcess
from vhsbench.harness.inference.route import HALVES

Progress = Callable[[int, int], None]  # turns done, of how many

VISITS = 3  # turns of pipelines whose processes cannot all stay alive
_MORE = 1.4  # so many times the turns that are due, at most, while others load the machine
_SPARE = 1.3  # times the largest process so far must be free for one to stay alive


@dataclass
class Measured:
    """Rows of the `costs` table of one pipeline, and what they were measured on: dtypes, attention, what stays loaded."""

    rows: list[dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Pipeline:
    """A pipeline while it is measured: its process while that lives, and its rounds, each with its turn."""

    cell: Cell
    place: Path | None
    process: MeasuringProcess | None = None
    opened: Opened | None = None
    rounds: list[tuple[int, Round]] = field(default_factory=list)  # with its turn
    failure: Failure | None = None
    seconds: float = 0.0  # of timed rounds

    def start(self, passes: bool) -> None:
        left = self.process.seconds_left if self.process else None
        self.process = MeasuringProcess(self.cell, self.place, left, passes)
        self.opened = self.opened or self.process.opened

    @property
    def steady(self) -> int:
        """How many of its turns nothing disturbed, as far as one can tell."""
        return len({turn for turn, round in self.rounds if not (round.taint or loaded(round))})


def loaded(round: Round) -> bool:
    """Return whether others took so much of the processors that its times are theirs too."""
    return round.others_percent is not None and round.others_percent > LOADED_PERCENT


def measure_in_turns(
    cells: Sequence[Cell], measuring: Path | None = None, progress: Progress = lambda *_: None
) -> list[Measured]:
    """Measure pipelines side by side. One that runs out of memory or time has rows that say so.

    measuring: a file that the processes hold as long as they live, each with a number added to its name.
    Raises what else went wrong in one of them.
    """
    with opened_in_turns(cells, measuring, progress) as measure_them:
        return measure_them()


@contextmanager
def opened_in_turns(
    cells: Sequence[Cell],
    measuring: Path | None = None,
    progress: Progress = lambda *_: None,
    passes: bool = True,
) -> Iterator[Callable[[], list[Measured]]]:
    """Open pipelines, and yield what measures them side by side, as often as it is called.

    passes: whether FLOPs, memory, phases and energy are looked at too. See measure_in_turns for the rest.
    """
    pipelines = [
        _Pipeline(cell, measuring and measuring.with_name(f"{measuring.name}-{number}"))
        for number, cell in enumerate(cells)
    ]

    def measure_them() -> list[Measured]:
        for pipeline in pipelines:
            pipeline.rounds, pipeline.seconds = [], 0.0
        _take_turns(pipelines, alive, progress)
        return [_measured(p) for p in pipelines]

    try:
        alive = _open(pipelines, progress, passes)
        yield measure_them
    finally:
        _close(pipelines)


def measure(cell: Cell) -> Measured:
    """Measure one pipeline alone, in this process, in a single turn."""
    measurement = Measurement(cell)
    opened = measurement.opened()
    rounds = [(0, round) for round in measurement.turn(0, cell.timing.repeats, cell.timing.min_seconds)]
    return _measured(_Pipeline(cell, None, opened=opened, rounds=rounds))


def _open(pipelines: Sequence[_Pipeline], progress: Progress, passes: bool) -> bool:
    """Open every pipeline once; returns whether all of them stay alive, else none does."""
    largest_gb, alive = 0.0, True
    for done, pipeline in enumerate(pipelines):
        progress(done, len(pipelines) * (1 + _turns(pipelines, alive)))
        first = pipelines[:done]
        try:
            pipeline.start(passes)
        except Failure as failure:
            if not (alive and first and failure.status == "oom"):
                pipeline.failure = failure
                continue
            alive = False
            _close(first)  # perhaps it was they that took the memory
            try:
                pipeline.start(passes)
            except Failure as again:
                pipeline.failure = again
                continue
        assert pipeline.opened is not None
        largest_gb = max(largest_gb, pipeline.opened.footprint_gb)
        if pipeline is not pipelines[-1] and pipeline.opened.room_gb < _SPARE * largest_gb:
            alive = False
        if not alive:
            _close(pipelines)
    return alive


def _close(pipelines: Sequence[_Pipeline]) -> None:
    for pipeline in pipelines:
        if pipeline.process is not None:
            pipeline.process.close()


def _turns(pipelines: Sequence[_Pipeline], alive: bool) -> int:
    timing = pipelines[0].cell.timing
    return min(timing.repeats, timing.visits or (timing.repeats if alive else VISITS))


def _take_turns(pipelines: Sequence[_Pipeline], alive: bool, progress: Progress) -> None:
    """Take turns until all pipelines have the repeats and seconds that they are to have."""
    turns = _turns(pipelines, alive)
    timing = pipelines[0].cell.timing
    rounds = math.ceil(timing.repeats / turns)
    turn = 0
    while turn < turns or _wants_more(pipelines, turn, turns):
        order = [p for p in pipelines if p.failure is None]
        for done, pipeline in enumerate(reversed(order) if turn % 2 else order):
            progress(len(pipelines) * (1 + turn) + done, len(pipelines) * (1 + max(turns, turn + 1)))
            _take_turn(pipeline, turn, rounds, alive)
        turn += 1
    progress(len(pipelines) * (1 + turn), len(pipelines) * (1 + turn))


def _take_turn(pipeline: _Pipeline, turn: int, rounds: int, alive: bool) -> None:
    try:
        if not alive:
            pipeline.start(passes=False)
        assert pipeline.process is not None
        started = time.monotonic()
        done = pipeline.process.turn(turn * rounds, rounds)
        pipeline.seconds += time.monotonic() - started
        pipeline.rounds += [(turn, round) for round in done]
        if not alive:
            pipeline.process.close()
    except Failure as failure:
        pipeline.failure = failure


def _wants_more(pipelines: Sequence[_Pipeline], turn: int, turns: int) -> bool:
    """Return whether a pipeline lacks seconds, or quiet turns that a few more may give."""
    running = [p for p in pipelines if p.failure is None]
    if any(p.seconds < p.cell.timing.min_seconds for p in running):
        return True
    return turn < _MORE * turns and any(p.steady < turns for p in running)


def _measured(pipeline: _Pipeline) -> Measured:
    if pipeline.failure is not None:
        return failed(pipeline.cell, pipeline.failure.status, pipeline.failure.note)
    assert pipeline.opened is not None
    opened = pipeline.opened
    remarks = dict.fromkeys([*opened.remarks, *(r for _, round in pipeline.rounds for r in round.remarks)])
    rows: list[dict[str, Any]] = []
    for key, passed in opened.calls.items():
        shared = row(
            pipeline.cell, opened.generator, opened.steps, key, device=opened.device,
            tflop=passed.tflop, moved_gb=passed.moved_gb, energy_j=passed.energy_j,
            phases_percent=passed.phases_percent, block=opened.block if key[0] in HALVES else None,
            **passed.memory,
        )  # fmt: skip
        rows += _repeats(shared, key, passed, pipeline.rounds, list(remarks))
    return Measured(rows, opened.about)


def _repeats(
    shared: dict[str, Any],
    key: Key,
    passed: Passed,
    rounds: Sequence[tuple[int, Round]],
    remarks: Sequence[str],
) -> list[dict[str, Any]]:
    """Return one row a repeat; one row without times for a call that ran out of memory before its first."""
    timed = [(turn, r, *times) for turn, r in rounds for times in r.times.get(key, [])]
    notes = [*passed.notes, *remarks]
    sound = [wall for _, r, wall, _ in timed if not r.taint]
    if (off := percentiles.drift(sound)) and abs(off) > percentiles.DRIFT:
        notes.append(f"unstable: the later half's median is {100 * off:+z.0f}% of the earlier's")
    rows = [
        shared | {
            "repeat": repeat, "visit": turn, "wall_ms": wall, "event_ms": event,
            "others_percent": r.others_percent, "status": "tainted" if r.taint else "ok",
            "note": "; ".join([r.taint, *notes] if r.taint else notes),
        }
        for repeat, (turn, r, wall, event) in enumerate(timed)
    ]  # fmt: skip
    ran_out = passed.out_of_memory or next(
        (r.out_of_memory[key] for _, r in rounds if key in r.out_of_memory), ""
    )
    if ran_out:
        rows.append(shared | {"repeat": len(rows), "status": "oom", "note": "; ".join([ran_out, *notes])})
    return rows


def cell_name(generator: str, steps: int, verifier: str, variant: str) -> str:
    """Name a pipeline as run.json does, under "cells"."""
    return "_".join(filter(None, (generator, f"steps={steps}", verifier or "none", variant)))


def failed(cell: Cell, status: str, note: str) -> Measured:
    """Return rows with a status and no numbers, one per end-to-end run that was asked for."""
    steps = generators.steps_of(cell.generator, cell.generator_options)
    rows = [
        row(cell, cell.generator, steps, (END_TO_END, n, 1), status=status, note=note)
        for n in (cell.timing.best_of_n if cell.verifier else (1,))
    ]
    return Measured(rows)


def row(cell: Cell, generator: str, steps: int, key: Key, **known: Any) -> dict[str, Any]:
    """Return a row of the `costs` table; what is not known is empty."""
    stage, n, batch = key
    empty = dict.fromkeys(
        ("wall_ms", "event_ms", "phases_percent", "tflop", "moved_gb", "peak_vram_gb", "peak_reserved_gb",
         "nvml_gb", "peak_rss_gb", "energy_j", "device", "others_percent", "block")
    )  # fmt: skip
    labels = [cell.variant, *([variants.BATCHED] if batch > 1 else [])]
    return empty | {
        "generator": generator, "steps": steps, "verifier": cell.shown,
        "variant": "+".join(filter(None, labels)), "stage": stage, "n": n, "batch": batch, "repeat": 0,
        "visit": 0, "status": "ok", "note": "",
    } | known  # fmt: skip
