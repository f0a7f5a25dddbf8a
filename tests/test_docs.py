"""The pages for people: paths and commands that they name exist, and their Python runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent

import pandas as pd
import pytest
import typer

from vhsbench import verifiers
from vhsbench.generators.rules import RULES as generator_rules
from vhsbench.harness.cli import app
from vhsbench.harness.common.shown import markdown_table
from vhsbench.verifiers.checkpoint import read_card
from vhsbench.verifiers.nano import EARLY, WEIGHTS
from vhsbench.verifiers.rules import RULES as verifier_rules

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_PATH = re.compile(
    r"(?<![\w./-])((?:harness|verifiers|generators|benchmarks|results|tests|vhsbench)/[\w./-]*\w/?)"
)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?<!from )\bvhsbench ([a-z][a-z0-9-]*)(?: ([a-z][a-z0-9-]*))?")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


COMMAND = typer.main.get_command(app)
_ENDS = ("&&", "||", "|", ";", "#")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def missing_paths(text: str) -> list[str]:
    """Return the paths named in a page that are not in the repository; NAME in one stands for any name."""
    return [path for path in _PATH.findall(text) if not any(ROOT.glob(path.replace("NAME", "*")))]


def unknown_commands(text: str) -> list[str]:
    """Return the commands of code, in blocks and between backquotes, that the command line does not have."""
    code = [body for _, body in _BLOCK.findall(text)]
    code += re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))
    unknown = []
    for line in "\n".join(code).splitlines():
        for name, below in _COMMAND.findall(line.partition("#")[0]):
            here = COMMAND.commands.get(name)
            known = here is not None and (
                not hasattr(here, "commands") or not below or below in here.commands
            )
            unknown += [] if known else [f"{name} {below}".strip()]
    return unknown


def wrong_arguments(text: str) -> list[str]:
    """Return the command lines of code blocks whose arguments the command line does not take."""
    wrong = []
    for line in "\n".join(body for _, body in _BLOCK.findall(text)).replace("\\\n", " ").splitlines():
        words = (
            shlex.split(line.replace("[", "").replace("]", ""), comments=True)
            if line.lstrip().startswith("vhsbench ")
            else []
        )
        end = next(
            (i for i, word in enumerate(words) if word in _ENDS or word.startswith(("<", ">"))), len(words)
        )
        command, rest = COMMAND, words[1:end]
        while rest and hasattr(command, "commands"):
            context = command.make_context("vhsbench", [], resilient_parsing=True)
            _, below, after = command.resolve_command(context, rest)  # a name may be two words
            if below is None:
                break
            command, rest = below, after
        context = command.make_context("vhsbench", [], resilient_parsing=True)
        context.resilient_parsing = False
        try:
            left = command.make_parser(context).parse_args(list(rest))[1]
        except Exception as error:
            wrong.append(f"{line.strip()}: {error}")
        else:
            wrong += [f"{line.strip()}: {left}"] if left else []
    return wrong


@by_page
def test_every_command_line_of_a_page_is_one(page):
    assert wrong_arguments(page.read_text(encoding="utf-8")) == []


def test_a_wrong_command_line_is_seen():
    page = "```\nvhsbench run nano --out here && ls  # all\nvhsbench run --walk\nvhsbench status a b\n```\n"
    assert [said.partition(":")[0] for said in wrong_arguments(page)] == [
        "vhsbench run --walk",
        "vhsbench status a b",
    ]


@by_page
def test_every_path_that_a_page_names_exists(page):
    assert missing_paths(page.read_text(encoding="utf-8")) == []


@by_page
def test_every_link_of_a_page_leads_somewhere(page):
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@by_page
def test_every_command_of_a_page_is_registered(page):
    assert unknown_commands(page.read_text(encoding="utf-8")) == []


def test_what_a_page_must_not_name_is_seen():
    assert missing_paths("`harness/sweep/run.py`, see harness/sweep/walk.py and `generators/mine/`") == [
        "harness/sweep/walk.py",
        "generators/mine/",
    ]
    page = "`vhsbench walk nano`, `vhsbench run nano`\n```\nvhsbench train nano\nvhsbench train moon\n```\n"
    assert unknown_commands(page) == ["train moon", "walk nano"]


def test_the_pages_name_the_blocks_that_nanos_vhs_read():
    late, early = (read_card(WEIGHTS / folder).block for folder in ("vhs", EARLY))
    page = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
    assert f"that of its bundled VHS, {late})" in page
    assert f"{early} is the early one's" in page
    assert f"output of block {late} of 8" in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


@pytest.fixture
def run_file(tmp_path, monkeypatch, capfd, undrawn) -> Callable[[str], str]:
    """Runs code as a script of the test's folder, in this process: another would load torch and diffusers for seconds."""

    def run(code: str) -> str:
        file = tmp_path / "script.py"
        file.write_text(code, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(file)])
        capfd.readouterr()
        with undrawn():
            runpy.run_path(str(file), run_name="__main__")
        return capfd.readouterr().out

    return run


def test_the_readme_chooses_an_image_and_runs_a_configuration(tmp_path, run_file):
    (configuration,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "my.yaml").write_text(configuration, encoding="utf-8")
    verifier, first, second = blocks(ROOT / "README.md", "python")
    scored = "assert MyVerifier().score(['red'], [best.image]).score.shape == (1,)"
    guarded = (
        f"{verifier}\nif __name__ == '__main__':\n{indent(first, '    ')}\n    {scored}\n"
        "    print(best.index, len(best.scores))\n"
    )
    lines = run_file(f"{guarded}\n{second}").splitlines()
    index, count = map(int, lines[0].split())
    assert count == 8
    assert 0 <= index < 8
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")
    assert lines[-1].split()[0] == str(Path("runs/mine/report.html"))
    assert lines[-1].split()[1] in ("reliable", "unreliable")
    assert (tmp_path / "runs/mine/report.html").is_file()


@pytest.fixture
def plugin(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """The verifier of docs/extending.md is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    page = ROOT / "docs/extending.md"
    (code,) = blocks(page, "python")
    (entry,) = [toml for toml in blocks(page, "toml") if "vhsbench.verifiers" in toml]
    (folder / "my_package.py").write_text(code, encoding="utf-8")
    about = folder / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8"
    )
    lines = entry.replace('[project.entry-points."vhsbench.verifiers"]', "[vhsbench.verifiers]")
    (about / "entry_points.txt").write_text(lines.replace('"', ""), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(verifiers.REGISTRY, "_targets", None)
    yield
    sys.modules.pop("my_package", None)


@pytest.mark.parametrize("rules", [generator_rules, verifier_rules], ids=["generator", "verifier"])
def test_the_rules_of_the_page_are_those_that_are_checked(rules):
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    assert markdown_table(["rule", "what must hold"], [(r.name, r.says) for r in rules]) in page


_RANKED = """
generators: [{name: nano}]
verifiers: [{name: redness}, {name: mllm-clip}]
prompts: {limit: 4}
pool: 3
timing: {preset: smoke, best_of_n: [1, 2]}
"""
_COMMANDS = """
import shlex
import numpy as np
import vhsbench
from vhsbench.harness.cli import app

if __name__ == "__main__":  # costs are measured in processes that import this file
    generator = vhsbench.create_generator("nano")
    verifier = vhsbench.create_verifier("redness", generator="nano")
    best = vhsbench.best_of_n(generator, verifier, "a photo of a red circle", [3, 1, 2])
    print(best.index == int(best.scores.argmax()), best.scores[best.index].item())
    print(np.asarray(best.image, float)[..., 0].mean() / 255)
    for line in open("commands"):
        app(shlex.split(line), standalone_mode=False)
"""


def test_the_verifier_in_ten_lines_chooses_and_goes_through_every_command(plugin, tmp_path, run_file):
    """It has no p_yes, which is empty wherever it would be."""
    (tmp_path / "my.yaml").write_text(_RANKED)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue circle\n")
    (tmp_path / "gate.yaml").write_text(
        "best_of_n: [2]\nbootstrap: 100\npermutations: 99\nauc_permutations: 99\n"
    )
    commands = """        run my.yaml --out mine --json
        check redness --json
        regress mine:mllm-clip mine:redness --config gate.yaml --out compared
        generate nano "a red circle" -n 2 --out pictures
        score redness --prompts prompts.txt --images pictures --out scores.csv
        best-of-n nano redness "a red circle" -n 2 --out sheet.png
    """
    (tmp_path / "commands").write_text("\n".join(line.strip() for line in commands.strip().splitlines()))
    best, red, said = run_file(_COMMANDS).split("\n", 2)
    assert best.split()[0] == "True"
    assert float(best.split()[1]) == pytest.approx(float(red), abs=1e-6)
    summary, end = json.JSONDecoder().raw_decode(said)
    (checked,), _ = json.JSONDecoder().raw_decode(said[end:].lstrip())
    assert {rule["outcome"] for rule in checked["rules"]} == {"holds"}
    assert "it gives none" in next(r["found"] for r in checked["rules"] if r["rule"] == "probabilities")
    assert [row["verifier"] for row in summary["auc"]] == ["mllm-clip", "redness"]
    assert {row["verifier"] for row in summary["tables"]["scoring"]} == {"mllm-clip"}
    assert {row["verifier"] for row in summary["tables"]["budgets"]} == {"none", "mllm-clip", "redness"}
    rows = pd.read_parquet(tmp_path / "mine/scores.parquet").groupby("verifier")
    red = rows.get_group("redness")
    assert red["p_yes"].isna().all()
    assert red["score"].notna().all()
    assert rows.get_group("mllm-clip")["p_yes"].notna().all()
    assert set(pd.read_csv(tmp_path / "mine/figures/reliability.csv")["verifier"]) == {"mllm-clip"}
    compared = json.loads((tmp_path / "compared/regression.json").read_text())["comparison"]
    assert compared["calibration"][0]["ece"] is not None
    assert compared["calibration"][1] == {"ece": None, "curve": []}
    head, *lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert head == "index,item,prompt,verifier,p_yes,p_no,score"
    assert ["redness,,,0." in lines[0], "redness,,,-0." in lines[1]] == [True, True]
    assert (tmp_path / "sheet.png").is_file()
