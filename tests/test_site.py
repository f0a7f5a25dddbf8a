"""What leads strangers in: how to cite, and the package's metadata."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from vhsbench.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


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
