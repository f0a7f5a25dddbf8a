"""Shared fixtures. Everything runs offline, from what the package bundles."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: read when torch loads
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # else Ray replaces builtins.print for all later tests

import hypothesis
import pytest

if TYPE_CHECKING:  # else the process that only hands out tests would load torch, while the others wait for it
    from vhsbench.generators.sana import SanaSprint

TESTS = Path(__file__).parent

# How long an example takes is the machine's. `vhsbench` tries the same examples each time, so that a result is the
# code's alone; `--hypothesis-profile=search` tries others, and more of them.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("vhsbench", deadline=None, derandomize=True, suppress_health_check=_SLOW)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500, suppress_health_check=_SLOW)
hypothesis.settings.load_profile("vhsbench")


# the modules that take longest: begun first, so that of two workers none ends long after the other
_LONGEST = (
    "harness/test_ray.py", "harness/training/test_nano.py", "harness/test_run.py", "benchmarks/test_multi_gpu.py",
    "benchmarks/test_full_size_training.py", "harness/test_untrusted.py", "harness/report/test_browser.py",
    "harness/test_faults.py", "harness/training/test_verifier.py", "test_docs.py", "harness/test_lifetimes.py",
    "harness/report/test_degenerate.py", "benchmarks/test_full_size.py", "harness/test_labels.py",
    "harness/test_attack.py", "verifiers/training/test_full_size.py", "harness/training/test_collection.py",
    "verifiers/test_foreign.py", "harness/report/test_joined.py", "harness/cost/test_measure.py",
    "harness/cost/test_counting_full_size.py", "generators/test_training.py", "verifiers/training/test_train.py",
    "verifiers/training/test_engine.py", "verifiers/test_questions.py", "verifiers/test_checkpoint.py",
    "test_tutorial.py", "harness/test_cli.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; each stays whole."""
    order = {TESTS / name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Let the lines of failures hold the errors, too, where the output is a file: 80 columns cut them off."""
    terminal = terminalreporter.config.get_terminal_writer()
    terminal.fullwidth = max(terminal.fullwidth, 300)


@pytest.fixture(scope="module", autouse=True)
def threads() -> int:
    """How many a module's tests have; a run sets its process's, and floats' last bits depend on them.

    One, as the tests run in as many processes as there are processors.
    """
    import torch

    torch.set_num_threads(1)
    return 1


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Have the garbage collector pass by what was imported and collected: else each collection looks at all of it again.

    `vhsbench report` lets go of what is frozen.
    """
    if not gc.get_freeze_count():
        gc.freeze()


@pytest.fixture(autouse=True)
def _threads(threads: int) -> Iterator[None]:
    yield
    import torch

    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def nano() -> SanaSprint:
    from vhsbench import generators

    return generators.create("nano")


@contextmanager
def _undrawn(but: str = "") -> Iterator[None]:
    from vhsbench.harness.report import style

    real = style.drawn
    with pytest.MonkeyPatch.context() as patch:
        if not but:
            patch.setattr(style, "_lay_out", lambda *_: None)
        patch.setattr(style, "_PNG_DPI", 72)
        patch.setattr(style, "drawn", lambda fig, kind, **how: real(fig, kind, **how) if kind == but else b"")
        yield


@pytest.fixture(scope="session")
def undrawn() -> Callable[..., AbstractContextManager[None]]:
    """`with undrawn(): build(...)` for tests of tables, pages and figures' data: pictures, most of a report's time, are empty.

    `undrawn(but="png")` draws them once, small.
    """
    return _undrawn


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on the terminal; the answer is yes."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": questions.append(text) or "y")
    return questions


@pytest.fixture
def change_json() -> Callable[..., None]:
    """Sets keys of a JSON file's object."""

    def change(file: Path, **values: Any) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change
