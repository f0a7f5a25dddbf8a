from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.commands.config import Kind, schema_of
from vhsbench.harness.config.experiments import bundled, bundled_text
from vhsbench.harness.config.run import load_config
from vhsbench.harness.config.yaml_files import ConfigError


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_show_prints_a_configuration_that_run_accepts(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(printed("config", "show", "nano-table1"))
    assert load_config(file).name == "nano-table1"
    assert printed("config", "show", "train-vhs") == bundled_text("train-vhs")


def test_show_knows_near_names():
    with pytest.raises(ConfigError, match=r"'nanno' is no bundled configuration; did you mean 'nano'\?"):
        CliRunner().invoke(app, ["config", "show", "nanno"], catch_exceptions=False)


def checked(kind: Kind, text: str) -> list[str]:
    """What an editor says of the YAML of a kind of configuration."""
    schema = json.loads(printed("config", "schema", kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("trainings", [False, True])
def test_every_bundled_configuration_keeps_its_schema(trainings):
    kind = Kind.training if trainings else Kind.run
    validator = jsonschema.Draft202012Validator(schema_of(kind))
    names = bundled(trainings)
    assert len(names) > 5
    for name in names:
        assert [e.message for e in validator.iter_errors(yaml.safe_load(bundled_text(name)))] == []


@pytest.mark.parametrize("kind", [Kind.run, Kind.gate])
def test_a_start_keeps_the_schema_that_it_names(kind, tmp_path):
    file = tmp_path / f"{kind}.yaml"
    printed("init", kind, str(file))
    first = file.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={kind}.schema.json"
    assert checked(kind, file.read_text()) == []


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        (
            Kind.run,
            "generators: [nano]\nverifiers: [vhs, {name: vhs, label: other}]\nprompts: my.jsonl\n",
            True,
        ),
        (Kind.run, "generators: [nano]\nverifers: [vhs]\n", False),
        (Kind.run, "generators: [3]\n", False),
        (Kind.run, "verifiers: [vhs]\n", False),
        (Kind.gate, "margin_points: 0.5\nbudgets: [550ms]\ncosts: a100-paper\n", True),
        (Kind.gate, "margin_points: many\n", False),
        (Kind.training, "generator: nano\nverifier: {kind: vhs, block: [3, 5], llm: nano}\n", True),
        (Kind.training, "generator: nano\nverifier: {kind: clip}\n", False),
    ],
)
def test_the_schema_sees_mistakes(kind, text, right):
    assert (checked(kind, text) == []) is right


def completed(*words: str, python: str = "") -> list[str]:
    """What bash offers for the last word of a line."""
    line = " ".join(("vhsbench", *words))
    env = {
        **os.environ,
        "_VHSBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    code = f"import sys; sys.argv = ['vhsbench']; from vhsbench.harness.cli import app; {python}app(prog_name='vhsbench')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("gen",), ["generate", "geneval"]),
        (("generate", "sa"), ["sana-1.5", "sana-sprint"]),
        (("best-of-n", "nano", "ml"), ["mllm-ae", "mllm-clip"]),
        (("score", "v"), ["vhs", "vqa-score"]),
        (("check", "n"), ["nano"]),
        (("run", "nano-f"), ["nano-fig5", "nano-fig6"]),
        (("train", "verifier", "train-nano-m"), ["train-nano-mllm-ae", "train-nano-mllm-clip"]),
        (("config", "show", "table"), ["table1", "table5", "table6", "table7"]),
        (("cost", "nano", "--verifier", "v"), ["vhs", "vqa-score"]),
    ],
)  # fmt: skip
def test_a_shell_completes_names(words, offered):
    assert completed(*words) == offered


def test_completion_can_be_installed_and_loads_nothing_heavy():
    said = printed("--help")
    assert "--install-completion" in said
    assert "--show-completion" in said
    heavy = "import atexit; atexit.register(lambda: print({'torch', 'numpy', 'pandas', 'diffusers'} & set(sys.modules))); "
    assert completed("run", "fig", python=heavy) == ["fig5", "fig6", "set()"]
