from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from harness.cli import app, main

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "transformers", "diffusers", "pydantic")


def test_help_imports_nothing_heavy():
    code = f"import sys, harness.cli; print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_help_names_the_commands():
    printed = CliRunner().invoke(app, ["--help"]).output
    for command in ("run", "report", "paper", "list", "doctor", "train", "score"):
        assert command in printed


def test_list_as_json():
    found = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    nano = next(g for g in found["generators"] if g["name"] == "nano")
    assert (nano["blocks"], nano["tokens"], nano["hidden_width"]) == (8, 64, 128)
    assert {v["name"]: v["needs"] for v in found["verifiers"]} == {
        "vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images",
    }  # fmt: skip


def test_doctor_as_json():
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert found["models"]["generators"]["nano"] == "ready"
    assert found["environment"]["cores"] >= 1


def test_version():
    from harness import __version__

    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("score", "vhs", "--prompts", "nowhere", "--images", "."),
            "error: nowhere: No such file or directory.",
        ),
        (
            ("best-of-n", "nano", "vhs", "a", "--out", "sheet.xyz"),
            "--out is a picture, such as best-of-n.png",
        ),
        (("generate", "nano", "a", "--device", "meta"), "--device meta holds no pictures"),
        (("generate", "nano", "a", "--device", "tpu"), "error: unknown device 'tpu'"),
        (("geneval", "prompts", "-n", "-1"), "Invalid value for '-n'"),
        (("drift", "--strength", "-1"), "Invalid value for '--strength'"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_exit_code_2(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vhsbench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())


def test_no_baselines_are_a_sentence(tmp_path):
    printed = CliRunner().invoke(app, ["baseline", "list", "--dir", str(tmp_path)])
    assert "no baseline is accepted in" in printed.output
