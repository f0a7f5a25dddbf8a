"""Loggers get progress, losses and results, in order; one that fails, hangs or is missing never costs a run."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path

import pytest

from vhsbench.generators.training import Progress
from vhsbench.harness import loggers
from vhsbench.harness.commands.train import _shown
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.loggers import LoggerDefaults, LoggerError, logs
from vhsbench.harness.loggers.logs import Logs, results

ROW = {"generator": "nano", "steps": 1, "verifier": "vhs"}
SUMMARY = {
    "budgets": [
        ROW | {"budget_ms": 550.0, "best_of_n": 11, "n_low": 10, "n_high": 11, "time_ms": 540.0, "time_low": 530.0,
               "time_high": 551.0, "overall": 80.0, "overall_low": 78.5, "overall_high": 81.0, "tflop": 23.5, "colors": 9.0},
        ROW | {"verifier": "mllm-clip", "budget_ms": 550.0, "best_of_n": None, "overall": None},
    ],
    "tables": {"budgets_j": [ROW | {"steps": 2, "budget_j": 40.0, "best_of_n": 3, "cost_j": 38.0}], "scoring": [ROW]},
    "auc": [ROW | {"auc": 0.9, "low": 0.8, "high": 0.95}, ROW | {"auc": None, "low": None, "high": None}],
}  # fmt: skip


class Memory(LoggerDefaults):
    """Ten lines, as a user would write them."""

    made: list[Memory] = []

    def __init__(self, folder, config):
        self.given, self.rows, self.kept, self.closed = (folder, config), [], [], []
        self.made.append(self)

    def log(self, group, values, step):
        self.rows.append((group, dict(values), step))

    def keep(self, folder, files):
        self.kept += [file.relative_to(folder).as_posix() for file in files]

    def close(self, ok):
        self.closed.append(ok)


class Failing(LoggerDefaults):
    calls = 0

    def __init__(self, folder, config):
        pass

    def log(self, group, values, step):
        Failing.calls += 1
        raise OSError("the server is gone")


class Hanging(LoggerDefaults):
    free = threading.Event()

    def __init__(self, folder, config):
        self.free.wait()

    def log(self, group, values, step):
        pass


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    registry = loggers.REGISTRY
    own = {each.__name__.lower(): f"{__name__}:{each.__name__}" for each in (Memory, Failing, Hanging)}
    monkeypatch.setattr(registry, "_targets", {**registry._load(), **own})
    monkeypatch.setattr(Memory, "made", [])
    monkeypatch.setattr(Failing, "calls", 0)
    return Memory.made


def test_results_are_named_by_budget_and_pipeline():
    first = {"best_of_n": 11, "n_low": 10, "n_high": 11, "time_ms": 540.0, "time_low": 530.0, "time_high": 551.0,
             "overall": 80.0, "overall_low": 78.5, "overall_high": 81.0, "tflop": 23.5}  # fmt: skip
    assert list(results(SUMMARY)) == [
        ("at 550 ms/nano/vhs", first),
        ("at 40 J/nano 2 steps/vhs", {"best_of_n": 3, "cost_j": 38.0}),
        ("AUC/nano/vhs", {"auc": 0.9, "low": 0.8, "high": 0.95}),
    ]


def test_progress_results_and_files_come_in_order(memory, tmp_path):
    for name in ("tables/auc.csv", "tables/auc.tex", "figures/a.png", "report.html", "scores.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with Logs(["memory"], "runs/mine/", {"name": "mine"}) as logs:
        logs.progress("candidates of nano", 1, 4)
        logs.progress("candidates of nano", 2, 4)  # within a second of the one before it
        logs.progress("candidates of nano", 4, 4)
        logs.progress("costs", 0, 0)
        logs.report(SUMMARY, tmp_path)
    (made,) = memory
    assert made.given == ("runs/mine", {"name": "mine"})
    assert made.rows == [
        ("candidates of nano", {"percent": 25.0}, 1),
        ("candidates of nano", {"percent": 100.0}, 4),
        ("costs", {"percent": 100.0}, 0),
        *((group, values, 0) for group, values in results(SUMMARY)),
    ]
    assert made.kept == ["figures/a.png", "report.html", "tables/auc.csv"]
    assert made.closed == [True]


def test_losses_of_a_training_come_too(memory):
    with Logs(["memory"], "runs/vhs", {}) as logs:
        shown = _Shown()
        report = _shown(shown, logs)
        report(Progress("collect", 1, 2, math.nan, 0.1))
        report(Progress("finetune", 10, 10, 0.25, 1.0))
    assert memory[0].rows == [("finetune", {"loss": 0.25}, 10)]
    assert shown.keys == ["collect", "finetune"]


class _Shown:
    def __init__(self):
        self.keys = []

    def update(self, what, done, of, key):
        self.keys.append(key)


def test_an_error_of_the_work_is_told_and_a_logger_without_calls_is_not_made(memory):
    with suppress(ZeroDivisionError), Logs(["memory"], "runs/a", {}) as logs:
        logs.progress("costs", 1, 1)
        raise ZeroDivisionError
    with Logs(["memory"], "runs/b", {}):
        pass
    assert [made.closed for made in memory] == [[False]]


def test_a_failing_logger_is_one_warning_and_the_others_get_all(memory, caplog, tmp_path):
    with Logs(["failing", "memory"], "runs/a", {}) as logs:
        for done in range(1, 4):
            logs.progress("costs", done, done)
        logs.report(SUMMARY, tmp_path)
    assert Failing.calls == 1
    assert [record.getMessage() for record in caplog.records] == [
        "logger 'failing' failed, and gets no more; nothing else depends on it: OSError: the server is gone."
    ]
    assert len(memory[0].rows) == 6


def test_a_logger_that_hangs_is_left_behind(caplog, monkeypatch):
    monkeypatch.setattr(logs, "LAST_S", 0.05)
    monkeypatch.setattr(Hanging, "free", threading.Event())
    with Logs(["hanging"], "runs/a", {}) as given:
        given.progress("costs", 1, 1)
    Hanging.free.set()
    assert "logger 'hanging' has not sent all within 0 s" in caplog.text


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        ("wandb", "wandb", r"logger 'wandb' needs wandb: pip install 'vhsbench\[wandb\]'"),
        ("mlflow", "mlflow", r"logger 'mlflow' needs MLflow: pip install 'vhsbench\[mlflow\]'"),
    ],
)
def test_a_missing_package_is_said_before_the_run(name, package, said, monkeypatch):
    module = loggers.REGISTRY.target(name).partition(":")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LoggerError, match=said):
        Logs([name], "runs/a", {})


def test_an_unknown_logger_is_refused():
    with pytest.raises(RegistryError, match=r"unknown logger 'wanb'; did you mean 'wandb'\?"):
        Logs(["wanb"], "runs/a", {})


def test_tensorboard_has_numbers_pictures_and_tables(tmp_path):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "tables/auc.md").write_text("| auc |\n| --- |\n| 0.9 |\n")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "figures/a.png")
    with Logs(["tensorboard"], tmp_path, {}) as logs:
        logs.progress("candidates of nano", 3, 4)
        logs.report(SUMMARY, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (progress,) = events.Scalars("candidates of nano/percent")
    assert (progress.step, progress.value) == (3, 75.0)
    assert events.Scalars("at 550 ms/nano/vhs/overall_low")[0].value == 78.5
    (picture,) = events.Images("figures/a")
    assert (picture.width, picture.height) == (3, 2)
    assert "tables/auc/text_summary" in events.Tags()["tensors"]


def test_the_logger_of_the_page_keeps_lines(monkeypatch, tmp_path):
    page = Path(__file__).parents[2] / "docs/howto/loggers.md"
    source, _ = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    module = types.ModuleType("my_package")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_package", module)
    loggers.REGISTRY.register("lines", "my_package:Lines")
    with Logs(["lines"], tmp_path, {}) as logs:
        logs.progress("costs", 3, 4)
        logs.report(SUMMARY | {"tables": {}, "auc": SUMMARY["auc"][:1], "budgets": []}, tmp_path)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"group": "costs", "step": 3, "percent": 75.0},
        {"group": "AUC/nano/vhs", "step": 0, "auc": 0.9, "low": 0.8, "high": 0.95},
    ]


class _Wandb(types.ModuleType):
    """Keeps what W&B would be given."""

    class Artifact:
        def __init__(self, name, type):
            self.name, self.files = name, []

        def add_file(self, file, name):
            self.files.append(name)

    def __init__(self):
        super().__init__("wandb")
        self.said, self.id = [], "1"

    def Settings(self, **settings):
        return settings

    def init(self, **given):
        self.said.append(("init", given["name"], given["config"]))
        return self

    def __getattr__(self, call):
        if call.startswith("__"):
            raise AttributeError(call)
        return lambda *given, **named: self.said.append((call, *given, *named.values()))


def test_each_group_has_steps_of_its_own_in_wandb(monkeypatch, tmp_path):
    fake = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "vhsbench.harness.loggers.wandb_runs", raising=False)
    (tmp_path / "report.html").touch()
    with Logs(["wandb"], "runs/mine", {"pool": 4}) as logs:
        logs.progress("costs", 3, 4)
        logs.progress("costs", 4, 4)
        logs.report({"budgets": [], "tables": {}, "auc": []}, tmp_path)
    sys.modules.pop("vhsbench.harness.loggers.wandb_runs")
    artifact = fake.said.pop(-2)
    assert fake.said == [
        ("init", "mine", {"pool": 4}),
        ("define_metric", "costs/*", "costs/step"),
        ("log", {"costs/percent": 75.0, "costs/step": 3}),
        ("log", {"costs/percent": 100.0, "costs/step": 4}),
        ("finish", 0),
    ]
    assert (artifact[0], artifact[1].files) == ("log_artifact", ["report.html"])
