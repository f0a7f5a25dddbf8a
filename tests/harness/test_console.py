"""What all commands have in common: `--json`, which prints one JSON value and nothing else."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.harness import cli
from vhsbench.harness.cli import app

# why a command without --json has none
WITHOUT_JSON = {
    "geneval prompts": "prints JSON lines, GenEval's own format",
    "config show": "prints YAML, to be written to a file",
    "config schema": "prints JSON anyway",
}


def commands(group=None, name: str = ""):
    """All commands of the command line, by what is typed."""
    group = group or typer.main.get_command(app)
    for word, command in group.commands.items():
        typed = f"{name} {word}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, typed)
        else:
            yield typed, command


def test_every_command_has_json_or_a_reason():
    found = dict(commands())
    assert len(found) > 20
    lacking = {
        name for name, command in found.items() if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert lacking == set(WITHOUT_JSON)


def test_commands_print_json_by_print_json():
    """Any other way prints to stderr, where --json sends what is not the result."""
    folder = Path(cli.__file__).parent
    files = [folder / "cli.py", *(folder / "commands").glob("*.py")]
    assert len(files) > 15
    assert [f.name for f in files if re.search(r"print\(\s*json\.dumps", f.read_text(encoding="utf-8"))] == []


@pytest.fixture
def noisy():
    """A verifier that prints when it is made and when it scores, as another package's may."""
    module = types.ModuleType("noisy_verifier")
    exec(  # a module's text, as a plugin has it
        "import torch\n"
        "from vhsbench.verifiers.protocol import Scores, VerifierDefaults\n"
        "class Noisy(VerifierDefaults):\n"
        "    name, needs = 'noisy', 'images'\n"
        "    def score(self, prompts, features):\n"
        "        print('scoring')\n"
        "        return Scores(score=torch.arange(len(prompts)) + 0.5)\n"
        "def create(checkpoint=None, device='cpu', generator=None):\n"
        "    print('loading')\n"
        "    return Noisy()\n",
        module.__dict__,
    )
    sys.modules["noisy_verifier"] = module
    verifiers.REGISTRY.register("noisy", "noisy_verifier:create")
    yield
    del verifiers.REGISTRY._targets["noisy"], sys.modules["noisy_verifier"]


def only_json(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_a_score_is_one_json_value_whatever_a_plugin_prints(noisy, tmp_path):
    pictures, said = only_json("generate", "nano", "a red circle", "-n", 2, "--out", tmp_path / "p", "--json")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    arguments = (
        "score",
        "noisy",
        "--prompts",
        tmp_path / "prompts.txt",
        "--images",
        tmp_path / "p",
        "--json",
    )
    found, said = only_json(*arguments)
    assert "loading\n" in said
    assert "scoring\n" in said
    assert found["out"] is None
    assert [row["score"] for row in found["scores"]] == [0.5, 1.5]
    assert [row["p_yes"] for row in found["scores"]] == [None, None]  # NaN is no JSON
    assert [row["item"] for row in found["scores"]] == [f[-8:] for f in pictures["images"]]
    found, _ = only_json(*arguments, "--out", tmp_path / "scores.csv")
    assert found["out"] == str(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().count("\n") == 3
    plain = CliRunner().invoke(app, [str(a) for a in arguments[:-1]])
    assert plain.stdout.startswith("loading\n")  # without --json nothing is moved


def test_a_pool_and_a_baseline_are_json(tmp_path):
    made, _ = only_json("pool", "--prompts", 2, "--size", 2, "--out", tmp_path / "pool", "--json")
    assert (made["pool"], made["prompts"], made["candidates"]) == (str(tmp_path / "pool"), 2, 4)
    assert len(made["sha256"]) == 64


def test_a_training_says_where_its_weights_are(tmp_path):
    found, _ = only_json("train", "lora", "--steps", 1, "--out", tmp_path / "lora", "--json")
    assert found == {"lora": str(tmp_path / "lora")}
