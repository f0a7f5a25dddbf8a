from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vhsbench import generators, verifiers
from vhsbench.harness import judges
from vhsbench.harness.cli import app, main
from vhsbench.harness.common import exit_codes
from vhsbench.harness.common.errors import VhsbenchError

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "transformers", "diffusers", "pydantic")


def test_help_imports_nothing_heavy():
    code = f"import sys, vhsbench.harness.cli; print([m for m in {HEAVY} if m in sys.modules])"
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
    needs = {v["name"]: v["needs"] for v in found["verifiers"]}
    assert {name: needs.pop(name) for name in ("vhs", "mllm-ae", "mllm-clip")} == {
        "vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images",
    }  # fmt: skip
    assert "soft-tifa" in needs
    assert set(needs.values()) == {"images"}  # published scorers
    judges = {judge["name"]: judge["made_of"] for judge in found["judges"]}
    assert judges == {"geneval": "itself"} | dict.fromkeys(
        ["mllm-clip", *needs], "verifier"
    )  # all read images
    suites = {s["name"]: (s["prompts"], s["judge"]) for s in found["suites"]}
    assert (suites["nano-composed"], suites["geneval2"]) == ((88, "geneval"), (None, "soft-tifa"))


def test_doctor_as_json():
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert found["models"]["generators"]["nano"] == "ready"
    assert found["environment"]["cores"] >= 1


PLUGINS = """
class Picky:
    name, steps, blocks, device = "picky", 1, 1, "cpu"
    encode = noise = head = tail = denoise = decode = None

    def info(self):
        raise KeyError("weights")

def picky(device="cpu"):
    return Picky()

def needs_an_option(size, device="cpu"):
    return Picky()
"""


def test_plugins_that_are_broken_are_listed_with_the_reason(monkeypatch, tmp_path):
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (tmp_path / "theirs.py").write_text(PLUGINS, encoding="utf-8")
    (tmp_path / "raises.py").write_text("raise OSError('no driver')", encoding="utf-8")
    (package / "METADATA").write_text("Name: theirs\nVersion: 1.0\n", encoding="utf-8")
    points = (
        "raises = raises:create\npicky = theirs:picky\nneedy = theirs:needs_an_option\nnano = theirs:picky\n"
    )
    verifier = "vhs = theirs:picky\n"
    (package / "entry_points.txt").write_text(
        f"[vhsbench.generators]\n{points}[vhsbench.verifiers]\n{verifier}", encoding="utf-8"
    )
    config = tmp_path / "run.yaml"
    config.write_text("generators: [{name: nano}]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (generators.REGISTRY, judges.REGISTRY, verifiers.REGISTRY):
        monkeypatch.setattr(registry, "_targets", None)
    for name in ("theirs", "raises"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found, doctor, plan = (
        json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
        for command in (["list"], ["doctor"], ["run", str(config), "--dry-run"])
    )
    sys.modules.pop("theirs")
    broken = {e["name"]: e["error"] for entries in found.values() for e in entries if "error" in e}
    assert broken == {
        "raises": "generator 'raises' cannot be loaded from 'raises:create': OSError: no driver.",
        "picky": "a plugin that raises KeyError: 'weights'",
        "needy": "generator 'needy' needs the option 'size'.",
        "nano = theirs:picky": "'nano' is one of vhsbench's own; theirs:picky needs another name",
        "vhs = theirs:picky": "'vhs' is one of vhsbench's own; theirs:picky needs another name",
    }
    assert {"nano", "sana-sprint"} <= {e["name"] for e in found["generators"] if "error" not in e}
    models = doctor["models"]
    assert (models["generators"]["nano"], models["generators"]["raises"]) == ("ready", broken["raises"])
    assert plan


def test_version():
    from vhsbench.version import __version__

    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("score", "vhs", "--prompts", "nowhere", "--images", "."),
            "error: nowhere cannot be read: no such file or directory.",
        ),
        (
            ("best-of-n", "nano", "vhs", "a", "--out", "sheet.xyz"),
            "--out is a picture, such as best-of-n.png",
        ),
        (("generate", "nano", "a", "--device", "meta"), "--device meta holds no pictures"),
        (("generate", "nano", "a", "--device", "tpu"), "error: unknown device 'tpu'"),
        (("geneval", "prompts", "-n", "-1"), "Invalid value for '-n'"),
        (("report", "nowhere"), "nowhere is not a run directory: it has no run.json."),
        (("list", "generaters"), "error: nothing to list as 'generaters'; did you mean 'generators'?"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_exit_code_2(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vhsbench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())


def _ends(monkeypatch, error, *arguments):
    """Run `vhsbench doctor` where diagnosing raises `error`."""

    def diagnose():
        raise error

    monkeypatch.setattr("vhsbench.harness.commands.doctor.diagnose", diagnose)
    monkeypatch.setattr(sys, "argv", ["vhsbench", *arguments])
    main()


@pytest.mark.parametrize("arguments", [("doctor", "--debug"), ("--debug", "doctor")])
def test_debug_adds_the_traceback_of_a_mistake(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        _ends(monkeypatch, VhsbenchError("it is wrong."), *arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("Traceback")
    assert said.endswith("error: it is wrong.\n")


@pytest.mark.parametrize(
    "error", [ValueError("ours"), OSError(2, "No such file or directory", "x"), KeyError("k")]
)
def test_a_bug_of_ours_keeps_its_traceback_and_is_no_verdict_of_a_gate(error, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        _ends(monkeypatch, error, "doctor")
    assert end.value.code == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1] == "".join(traceback.format_exception_only(error)).strip()


def test_exit_codes_are_distinct_and_explained():
    """docs/regression.md has a row for each; the gate's help names those of a comparison."""
    codes = {name: code for name, code in vars(exit_codes).items() if name.isupper()}
    signals = codes.pop("INTERRUPTED")
    assert codes == {
        "DONE": 0,
        "FAILURES": 1,
        "MISTAKE": 2,
        "INCONCLUSIVE": 3,
        "UNRELIABLE": 4,
        "BUG": 70,
        "CLOSED_PIPE": 141,
    }
    page = (Path(__file__).parents[2] / "docs" / "regression.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2].partition("\n## ")[0]
    rows = [re.findall(r"\d+", row.split("|")[1]) for row in table.splitlines() if re.match(r"\| \d", row)]
    stopped = [signals + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
    assert sorted(int(code) for row in rows for code in row) == sorted([*codes.values(), *stopped])
    said = " ".join(CliRunner().invoke(app, ["regress", "--help"]).output.replace("\u2502", " ").split())
    for words in (
        "0 pass",
        "1 fail",
        "2 a mistake",
        "3 inconclusive",
        "4 inconclusive only",
        "70 a bug",
        "128 + n",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["--help"], ""),
        (["config", "show", "nano"], ""),
        (["config", "schema"], ""),
        (["paper"], ""),
        (["paper"], "1"),
    ],
)
def test_a_reader_that_stops_ends_a_command_quietly(arguments, unbuffered):
    """Whatever prints: typer, print, --json's printing, rich; a failed gate's code, 1, would be a verdict."""
    ended = _whose_output_is(subprocess.PIPE, subprocess.PIPE, arguments, unbuffered)
    assert ended == (exit_codes.CLOSED_PIPE, b"")


def test_a_mistake_that_nobody_reads_ends_quietly():
    assert (
        _whose_output_is(subprocess.DEVNULL, subprocess.PIPE, ["config", "show", "nowhere"])[0]
        == exit_codes.MISTAKE
    )
    read = _whose_output_is(subprocess.PIPE, subprocess.STDOUT, ["config", "show", "nowhere"])
    assert read == (exit_codes.CLOSED_PIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["config", "schema"], ["paper"]])
def test_output_to_a_full_disk_is_a_sentence(arguments):
    with open("/dev/full", "wb") as full:
        code, said = _whose_output_is(full, subprocess.PIPE, arguments)
    assert code == exit_codes.MISTAKE
    assert said == b"error: the output cannot be written: No space left on device.\n"


def _whose_output_is(stdout, stderr, arguments, unbuffered=""):
    """Run a command; a pipe for its standard output is closed before it is written to. Returns its code and stderr."""
    command = [sys.executable, "-m", "vhsbench.harness.cli", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment) as process:
        if process.stdout:
            process.stdout.close()
        said = process.stderr.read() if process.stderr else b""
        return process.wait(), said


@pytest.mark.parametrize(
    ("arguments", "failed", "code"),
    [((), "", 0), (("--require-reliable",), "", 4), (("--require-reliable",), "one pool failed", 1)],
)
def test_unreliable_times_have_a_code_of_their_own(arguments, failed, code, monkeypatch, tmp_path):
    """Failed prompts come first, and are said."""
    monkeypatch.setattr("vhsbench.harness.commands.run.sweep", lambda *_: failed)
    monkeypatch.setattr("vhsbench.harness.report.build.build", lambda *_, **__: {"timing_reasons": ["busy"]})
    done = CliRunner().invoke(app, ["run", "--json", "--out", str(tmp_path), *arguments])
    assert done.exit_code == code, done.output
    assert failed in done.stderr


def test_no_baselines_are_a_sentence(tmp_path):
    printed = CliRunner().invoke(app, ["baseline", "list", "--dir", str(tmp_path)])
    assert "no accepted baseline in" in printed.output


def commands(command, name=()):
    for inner, found in getattr(command, "commands", {}).items():
        yield from commands(found, (*name, inner))
    if name and not hasattr(command, "commands"):
        yield " ".join(name), command


URLS = {"run --out", "report --out", "compare --out", "leaderboard --out"}  # that take one


def test_a_url_is_never_taken_for_a_folder_of_that_name():
    refused = set()
    for name, command in commands(typer.main.get_command(app)):
        for option in {"--out", "--dir"} & {o for p in command.params for o in p.opts}:
            if f"{name} {option}" in URLS:
                continue
            said = CliRunner().invoke(app, [*name.split(), option, "s3://bucket/folder"])
            assert said.exit_code == 2, (name, said.output)
            assert "s3://bucket/folder is a URL" in said.output
            refused.add(name)
    assert len(refused) > 10


def test_a_report_loads_no_model_library(tmp_path):
    code = (
        "import sys\n"
        "from vhsbench.harness.cli import main\n"
        "sys.argv = ['vhsbench', 'report', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    assert "error: " in done.stderr
