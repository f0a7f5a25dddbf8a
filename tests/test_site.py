"""What leads strangers in: the site's navigation and links, its generated pages, how-tos' code, and how to cite."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image, ImageDraw

import vhsbench
from vhsbench.harness.geneval.detector import judge
from vhsbench.version import __version__

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())


def code(page: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCED.findall(page.read_text(encoding="utf-8")) if kind == language]


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the headings' anchors, as both the site and GitHub make them."""
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in _HEADING.findall(prose(page)))
    return {re.sub(r"\s+", "-", heading) for heading in plain}


def broken(page: Path) -> list[str]:
    """Return a page's links that lead out of the site's folder, to no file, or to no heading; other hosts are not asked."""
    found = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(DOCS) and target.is_file()
        if not inside or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def listed(entries: list[dict[str, object]]) -> Iterator[str]:
    for entry in entries:
        ((_, below),) = entry.items()
        yield from listed(below) if isinstance(below, list) else [str(below)]


def test_the_navigation_has_every_page_once():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert ROOT / site["docs_dir"] == DOCS
    assert sorted(listed(site["nav"])) == [page.relative_to(DOCS).as_posix() for page in PAGES]


@by_page
def test_every_link_of_the_site_leads_to_a_place_in_it(page):
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.DOCS", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "other.md").write_text("# Turns, and *whether* times are `reliable`\n", encoding="utf-8")
    page = tmp_path / "docs" / "page.md"
    good = "[a](../other.md#turns-and-whether-times-are-reliable) [b](#here) [c](https://elsewhere.example)"
    page.write_text(f"# Here\n{good}\n[d](../other.md#turns) [e](none.md) [f](../../out.md) [g](#there)\n")
    assert broken(page) == ["../other.md#turns", "none.md", "../../out.md", "#there"]


def test_the_page_of_commands_is_up_to_date():
    made = runpy.run_path(str(ROOT / ".ci" / "commands_page.py"))["page"]()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == made
    assert "## vhsbench geneval evaluate\n" in made
    assert "| `-n`, `--count` |  | How many candidates; default: 8. |" in made


def test_the_page_of_python_has_every_stable_name():
    shown = re.findall(
        r"^::: vhsbench\.(\w+)$", (DOCS / "python.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(shown) == sorted(vhsbench.__all__)


@pytest.mark.parametrize("page", sorted((DOCS / "howto").glob("*.md")), ids=lambda page: page.stem)
def test_the_configurations_of_a_how_to_are_valid(page, tmp_path):
    (tmp_path / "path/to/folder").mkdir(parents=True)
    (tmp_path / "detector.pth").touch()
    for lines in code(page, "json"):
        (tmp_path / "my.jsonl").write_text(lines, encoding="utf-8")
    for number, configuration in enumerate(code(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(configuration, encoding="utf-8")
        assert vhsbench.load_config(file).generators


def test_the_detector_of_the_how_to_judges_by_class_and_colour():
    (source,) = code(DOCS / "howto/detector.md", "python")
    scope: dict[str, object] = {"__name__": "my_package"}
    exec(source, scope)
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).rectangle((10, 20, 30, 40), fill=(250, 10, 10))
    detector = scope["create"]()
    wanted = [
        {
            "tag": "colors",
            "include": [{"class": "thing", "count": 1, "color": color}],
            "prompt": f"a {color} thing",
        }
        for color in ("red", "blue")
    ]
    assert [verdict.correct for verdict in judge(detector, [picture, picture], wanted)] == [True, False]
    assert detector.detect([picture])[0]["thing"][0].box == (10, 20, 31, 41)
    assert detector.detect([Image.new("RGB", (8, 8))]) == [{}]


def test_the_citation_is_of_this_version_and_what_it_refers_to_is_linked():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    papers = {reference["title"]: reference for reference in citation["references"]}
    assert "Tiny Inference-Time Scaling with Latent Verifiers" in papers
    for paper in papers.values():
        assert f"]({paper['url']})" in readme
        assert paper["identifiers"] == [
            {"type": "other", "value": f"arXiv:{paper['url'].removeprefix('https://arxiv.org/abs/')}"}
        ]
        assert f"{paper['authors'][0]['family-names']}, " in readme


def test_the_lock_is_of_this_project_and_of_the_public_index():
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    locked = {package["name"]: package for package in tomllib.loads(text)["package"]}
    about = locked["vhsbench"]["metadata"]
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for of_one in extras.values() for line in of_one]
    asked = {(canonicalize_name(r.name), str(r.specifier)) for r in map(Requirement, lines)}
    assert {
        (r["name"], ",".join(sorted(r.get("specifier", "").split(",")))) for r in about["requires-dist"]
    } == asked
    assert set(about["provides-extras"]) == set(extras)
    for name, specifier in asked - {("vhsbench", "")}:
        assert SpecifierSet(specifier).contains(locked[name]["version"])


def test_the_image_has_versions_and_extras_that_the_project_knows():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (python,) = re.findall(r"^FROM python:([\d.]+)-", text, re.MULTILINE)
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    for known in (PROJECT["requires-python"], lock["requires-python"]):
        assert SpecifierSet(known).contains(python)
    extras = [set(re.findall(r"--extra (\w+)", line)) for line in text.splitlines() if "uv sync" in line]
    assert extras == [{"geneval", "ray", "s3"}] * 2
    assert extras[0] <= set(PROJECT["optional-dependencies"])
    (uv,) = re.findall(r"\buv==(\d+\.\d+)\.\d+$", text, re.MULTILINE)
    assert f"(uv {uv})" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_site_is_built_by_tox():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "tox.ini", encoding="utf-8")
    assert "docs" in re.split(r",\s*", settings["tox"]["env_list"])
    assert settings["testenv:docs"]["commands"].startswith("zensical build --strict")


def test_the_image_is_pinned_runs_as_no_root_and_gets_all_that_it_builds_from():
    steps = [
        line.split(maxsplit=1)
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line
    ]
    said = dict(steps)  # the last of each
    assert re.fullmatch(r"python:3\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}", said["FROM"])
    assert int(said["USER"]) > 0
    assert f"useradd --uid {said['USER']} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert (json.loads(said["ENTRYPOINT"]), json.loads(said["CMD"])) == (["vhsbench"], ["run"])
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {folder.partition("/")[0] for folder in build["package-dir"].values()}
    assert sent == folders | {"pyproject.toml", "uv.lock", PROJECT["readme"], *PROJECT["license-files"]}
    assert all((ROOT / name).exists() for name in sent)
