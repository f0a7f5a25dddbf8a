"""One pipeline, loaded in this process: passes for FLOPs, memory, phases and energy, and rounds of timed calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vhsbench import generators
from vhsbench.generators.protocol import block_name
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.cost import clocks, variants
from vhsbench.harness.cost.load import OthersLoad
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.cost.meters import energy_per_call, footprint_gb, idle_power, peak_memory, room_gb
from vhsbench.harness.cost.nvml import THROTTLED, Gpu, others_on, remarks
from vhsbench.harness.cost.stages import Call, end_to_end, question_tokens, stages
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.inference.route import advance_from

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Block, Generator
    from vhsbench.harness.cost.flops import Cost
    from vhsbench.verifiers.protocol import Verifier

Key = tuple[str, int, int]  # stage, n, batch
END_TO_END = "end_to_end"
GENERATORS_OWN = ("encode", "noise", "denoise", "decode")  # the same calls whichever verifier follows
_PHASE_TRIES = 3
SAMPLES = 3  # of a stage in a round
TURN_S = 0.5  # of a turn at least, which the load of others is measured over
_SHORT_N = 4  # phases and energy are of runs up to this N: longer ones repeat the same stages


class MeasureError(VhsbenchError):
    """A cell that could not be measured; the message is one sentence for a user."""


@dataclass(frozen=True)
class Cell:
    """One pipeline to measure. `verifier` is None for plain generation; `variant` is "" for the plain pipeline.

    With `shares`, the stages that are its generator's own are left to the cell without a verifier. `label` is the
    verifier's name in tables, "" for that of its kind. `after` are verifiers that read hidden states of earlier
    blocks, with these: going on from there to this one's block is timed too. `metadata` is the prompt's; `checked` is
    that of further prompts, on which a variant is compared with the plain pipeline.
    """

    generator: str
    generator_options: dict[str, Any]
    verifier: str | None
    verifier_options: dict[str, Any]
    prompt: str
    timing: TimingConfig
    threads: int | None = None
    variant: str = ""
    shares: bool = False
    label: str = ""
    after: Mapping[str, Block] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checked: Sequence[Mapping[str, Any]] = ()

    @property
    def shown(self) -> str:
        """The verifier in tables; "" for none."""
        return self.label or self.verifier or ""

    def __str__(self) -> str:
        """Write it in words, for errors."""
        return f"{self.generator} with {self.shown or 'no verifier'}"


@dataclass
class Passed:
    """What the passes found of one call; None where nothing can tell."""

    tflop: float | None = None
    moved_gb: float | None = None
    memory: dict[str, float | None] = field(default_factory=dict)
    energy_j: float | None = None
    phases_percent: float | None = None
    notes: list[str] = field(default_factory=list)
    out_of_memory: str = ""


@dataclass
class Opened:
    """A pipeline that is ready to be timed: what the passes found, and what it keeps loaded."""

    generator: str
    steps: int
    device: str
    calls: dict[Key, Passed]
    about: dict[str, Any]
    remarks: list[str]  # on all of it
    footprint_gb: float  # what the process takes of the device's memory, and what is left there
    room_gb: float
    block: str | None = None  # between head and tail, as generators.protocol.block_name writes it


@dataclass
class Round:
    """Every whole run timed once and every stage SAMPLES times, in one turn of this pipeline among others."""

    times: dict[Key, list[tuple[float, float | None]]] = field(
        default_factory=dict
    )  # host ms, CUDA events' ms
    out_of_memory: dict[Key, str] = field(default_factory=dict)
    taint: str = ""  # what spoiled it, on a GPU
    others_percent: float | None = None  # of the processors, taken by others meanwhile
    remarks: list[str] = field(default_factory=list)


class Measurement:
    """A pipeline in this process, opened: built, and looked at in all passes but that of time."""

    def __init__(self, cell: Cell, passes: bool = True) -> None:
        """Open a cell's pipeline. `passes` is False for one that was opened before, and is to be timed again."""
        import torch

        from vhsbench import verifiers

        if cell.threads:
            torch.set_num_threads(cell.threads)
        self.cell, self.remarks, self.seconds = cell, list[str](), dict[str, float]()
        with self._taking("build"):
            self.generator = generators.create(cell.generator, **cell.generator_options)
            self.verifier = (
                verifiers.create(cell.verifier, **cell.verifier_options) if cell.verifier else None
            )
        if self.verifier and cell.metadata:
            self.verifier.prepare([cell.metadata, *cell.checked])
        self.device = self.generator.device
        self.gpu = Gpu.of(self.device)
        idle_w = idle_power(self.gpu) if passes else None
        self.first = end_to_end(self.generator, self.verifier, cell.prompt, (1,))[1]
        with self._taking("first_request"):
            clocks.timed(self.first, self.device)
        batches = {*cell.timing.batch_sizes}
        if self.verifier and cell.variant in variants.IN_BATCHES:
            from vhsbench.harness.cost import fast

            batches |= fast.batches(self.generator, self.verifier, cell.prompt, cell.timing.best_of_n)
        self.work = _work(self.generator, self.verifier, cell, sorted(batches))
        self.calls = {key: Passed() for key in self.work}
        if passes:
            with self._taking("flops"):
                self._count()
        moved = self._change() if cell.variant else {}
        if passes:
            self._look(idle_w)
        self.about = self._about(moved)
        self.warm_up()

    @contextmanager
    def _taking(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 3)

    def _change(self) -> dict[str, float]:
        """Make the variant, and return how far that moved results; its first calls are timed apart."""
        variant, pipeline = self.cell.variant, (self.generator, self.verifier)
        prompts = [self.cell.prompt, *(each["prompt"] for each in self.cell.checked)]
        largest = max(key[2] for key in self.work) if variant in variants.IN_BATCHES else 1
        with self._taking("variant_check"):
            before = variants.results(*pipeline, prompts)
        with self._taking("variant"):
            self.remarks += variants.make(variant, *pipeline)
            self.first()
        with self._taking("variant_batches"):
            self._first_batches()
        with self._taking("variant_check"):
            after = variants.results(*pipeline, prompts, min(largest, variants.CANDIDATES))
            return variants.compare(variant, self.generator, before, after)

    def _first_batches(self) -> None:
        """Make a run in batches of each size, so that what it compiles is in no pass."""
        first = {key[2]: key for key in reversed(self.work) if key[2] > 1}
        self._each({key: self.work[key] for key in first.values()}, lambda _, call: call())

    def _look(self, idle_w: float | None) -> None:
        """Make the passes for memory, phases and energy."""
        with self._taking("memory"):
            self._each(self.work, lambda key, call: setattr(
                self.calls[key], "memory", peak_memory(call, self.device, self.gpu)))  # fmt: skip
        short = {key: call for key, call in self.work.items() if key[1] <= _SHORT_N}
        with self._taking("phases"):
            self._each({k: c for k, c in short.items() if k[0] == END_TO_END}, self._phases)
        with self._taking("energy"):
            self._each(short, lambda key, call: self._energy(key, call, idle_w))

    def _each(self, work: Mapping[Key, Call], do: Callable[[Key, Call], object]) -> None:
        """Call `do(key, call)` for every call that has not run out of memory; keep one that does now as such."""
        for key, call in work.items():
            passed = self.calls.get(key, Passed())  # best-of-2 is counted even where it is not to be timed
            if passed.out_of_memory:
                continue
            try:
                do(key, call)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                passed.out_of_memory = first_line(error)

    def _count(self) -> None:
        """Count FLOPs and bytes of every call.

        Best-of-N is counted at N = 1 and 2; each further candidate computes what the second does, and a batch reads
        the weights once.
        """
        from vhsbench.harness.cost.flops import count

        costs: dict[Key, Cost] = {}
        runs = end_to_end(self.generator, self.verifier, self.cell.prompt, (1, 2))
        counted = {key: call for key, call in self.work.items() if key[0] != END_TO_END}
        counted |= {(END_TO_END, n, 1): call for n, call in runs.items()}
        self._each(counted, lambda key, call: costs.update({key: count(call)}))
        one, two = (costs.get((END_TO_END, few, 1)) for few in (1, 2))
        for key, passed in self.calls.items():
            cost = costs.get(key)
            if key[0] == END_TO_END and cost is None and one is not None and two is not None:
                cost = extended(one, two, *key[1:])
            if cost is not None:
                passed.tflop, passed.moved_gb = cost.tflop, cost.moved_gb
                if cost.uncounted:
                    passed.notes.append(f"FLOPs without {', '.join(sorted(cost.uncounted))}")

    def _phases(self, key: Key, call: Call) -> None:
        from vhsbench.harness.inference.best_of_n import best_of_n

        n, batch = key[1:]
        prompt, share = self.cell.prompt, math.nan
        for _ in range(_PHASE_TRIES):  # a lasting gap is in every run, an interruption in one
            share = clocks.phases_percent(
                self.generator,
                self.verifier,
                lambda g, v: best_of_n(g, v, prompt, range(n), batch),
                self.device,
            )
            if abs(share - 100) <= clocks.PHASES_TOLERANCE_PERCENT:
                break
        else:
            self.calls[key].notes.append(f"phases add up to {share:.0f}% of end to end")
        self.calls[key].phases_percent = share

    def _energy(self, key: Key, call: Call, idle_w: float | None) -> None:
        energy_j = energy_per_call(call, self.gpu, idle_w)
        self.calls[key].energy_j = energy_j
        if energy_j is None and idle_w is not None:
            self.calls[key].notes.append("energy left empty: other processes on the GPU")

    def _about(self, moved: dict[str, float]) -> dict[str, Any]:
        question = question_tokens(self.verifier, self.cell.prompt)
        if question and question.guessed:
            guessed = ", ".join(map(repr, question.guessed))
            self.remarks.append(f"the length of the verifier's question is guessed in {guessed}")
        self.remarks += self.gpu.limits()
        return describe(self.generator, self.verifier) | moved | {
            "variant": self.cell.variant, "seconds": self.seconds, "prompt": self.cell.prompt,
            "first_use": self._first_use(),
            "question_tokens": asdict(question) if question else None,
        }  # fmt: skip

    def _first_use(self) -> dict[str, float | None]:
        """Return the seconds that a first request pays beside T(1), with the libraries imported: never in T(N)."""
        return {
            "load_s": self.seconds["build"],
            "first_request_s": self.seconds["first_request"],
            "compile_s": self.seconds["variant"] if self.cell.variant else None,
            "compile_batches_s": self.seconds.get("variant_batches"),
        }

    def opened(self) -> Opened:
        block = self.verifier.block if self.verifier else None
        return Opened(
            self.generator.name, self.generator.steps, device_name(self.device), self.calls, self.about,
            self.remarks, footprint_gb(self.device), room_gb(self.device), None if block is None else block_name(block),
        )  # fmt: skip

    def warm_up(self) -> None:
        """Run rounds that do not count, until `warm_up` in a row no longer beat the fastest by 5%."""
        best, idle = math.inf, 0
        while idle < self.cell.timing.warm_up:
            total = sum(wall for each in self._calls(Round(), 0).times.values() for wall, _ in each)
            idle = 0 if total < best * (1 - clocks.STABLE) else idle + 1
            best = min(best, total)

    def turn(self, first: int, rounds: int, seconds: float = TURN_S) -> list[Round]:
        """Measure rounds `first`, first + 1, ... until there are `rounds` of them and `seconds` have passed.

        One candidate goes before, uncounted: others had the machine's caches since the last turn.
        """
        self._wake()
        load, since_s, done = OthersLoad(), time.time(), list[Round]()
        started = time.perf_counter()
        while len(done) < rounds or time.perf_counter() - started < seconds:
            done.append(self._calls(Round(), first + len(done)))
            done[-1].taint = "; ".join(self.gpu.reasons(THROTTLED))
            done[-1].remarks = remarks(self.gpu)
        percent, others = load.percent(), others_on(self.gpu, since_s)
        return [
            replace(round, others_percent=percent, taint="; ".join(filter(None, [round.taint, others])))
            for round in done
        ]

    def _wake(self) -> None:
        try:
            self.first()
        except Exception as error:
            if not is_out_of_memory(error):
                raise

    def _calls(self, done: Round, number: int) -> Round:
        runs = [key for key in self.calls if key[0] == END_TO_END]
        stages = [key for key in self.calls if key[0] != END_TO_END]
        # whole runs between the samples of a stage: back to back, it would find its weights in the caches
        keys = [key for sample in range(SAMPLES) for key in (*runs[sample::SAMPLES], *stages)]
        for key in reversed(keys) if number % 2 else keys:
            if self.calls[key].out_of_memory:
                continue
            try:
                done.times.setdefault(key, []).append(clocks.timed(self.work[key], self.device))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                done.out_of_memory[key] = self.calls[key].out_of_memory = first_line(error)
        return done


def _work(
    generator: Generator, verifier: Verifier | None, cell: Cell, batches: Sequence[int]
) -> dict[Key, Call]:
    """List every call to measure: stages, best-of-N one candidate at a time, and in batches of these sizes."""
    work: dict[Key, Call] = {
        (stage, 1, 1): call
        for stage, call in stages(generator, verifier, cell.prompt).items()
        if not (cell.shares and stage in GENERATORS_OWN)
    }
    if verifier is not None and verifier.block is not None:
        for label, block in cell.after.items():
            work[advance_from(label), 1, 1] = _advance(generator, cell.prompt, block, verifier.block)
    for batch in (1, *batches) if verifier is not None else (1,):
        ns = [n for n in cell.timing.best_of_n if batch <= n]
        for n, call in end_to_end(generator, verifier, cell.prompt, ns, batch).items():
            work[END_TO_END, n, batch] = call
    return work


def _advance(generator: Generator, prompt: str, first: Block, then: Block) -> Call:
    hidden = generator.head(generator.encode([prompt]), generator.noise([0]), first)
    return lambda: generator.advance(hidden, then)


def extended(one: Cost, two: Cost, n: int, batch: int) -> Cost:
    """Derive best-of-n in batches from best-of-1 and best-of-2 one candidate at a time."""
    more = two.less(one)
    weight_bytes = one.weight_bytes + (math.ceil(n / batch) - 1) * more.weight_bytes
    return replace(one.plus(more, n - 1), weight_bytes=weight_bytes)


def describe(generator: Generator, verifier: Verifier | None) -> dict[str, Any]:
    """Describe what a pipeline keeps loaded (parameters and dtype of each part), what it reads, and how it attends."""
    import torch
    from torch.backends import cuda

    parts = {**generator.modules(), **(verifier.modules() if verifier else {})}
    loaded = {
        name: {
            "parameters": sum(p.numel() for p in part.parameters()),
            "dtype": str(next(part.parameters()).dtype).removeprefix("torch."),
        }
        for name, part in parts.items()
        if any(True for _ in part.parameters())
    }
    backends = {
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return {
        "needs": verifier.needs if verifier else None,
        "loaded": loaded,
        "attention_backends": [name for name, on in backends.items() if on],
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    import torch

    from vhsbench.harness.cost.environment import cpu_model

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
