"""pytest plugin: `vhs_pool`, `verifier_regression` and `protocol_check`, for a project of verifiers or generators.

It does nothing until a test asks for a fixture, and imports no model library before that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    from vhsbench.harness.common.rules import Finding
    from vhsbench.harness.regress.gate_config import GateConfig
    from vhsbench.harness.regress.pool import Pool
    from vhsbench.harness.regress.run import Regression
    from vhsbench.harness.regress.sources import Source

_SETTINGS = {
    "vhs_pool": "frozen pool made by `vhsbench pool`",
    "vhs_baseline": "the accepted verifier: a name, checkpoint or run",
    "vhs_candidate": "the verifier to test: a name, checkpoint or run",
    "vhs_gate": "gate.yaml; the default gate without it",
    "vhs_baselines_dir": "where accepted baselines are kept (default: results/baselines)",
    "vhs_report_dir": "where each regression's JSON, JUnit, Markdown and picture are written",
}
_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in _SETTINGS}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vhsbench", "verifier checkpoints")
    for name, text in _SETTINGS.items():
        group.addoption(_OPTIONS[name], default=None, help=text)
        parser.addini(name, text, default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "vhs_gate(**keys): keys of gate.yaml for verifier_regression in this test, "
        'and inconclusive="fail" (default), "skip" or "pass".',
    )


@pytest.fixture(scope="session")
def vhs_pool(pytestconfig: pytest.Config) -> Pool:
    """Return the frozen pool of --vhs-pool (or ini vhs_pool), its hashes verified once a session."""
    from vhsbench.harness.regress.pool import load_pool

    path = _setting(pytestconfig, "vhs_pool")
    if path is None:
        pytest.fail(
            "vhs_pool needs --vhs-pool (or vhs_pool in the ini file): a folder of `vhsbench pool`.", False
        )
    try:
        return load_pool(Path(path))
    except VhsbenchError as error:
        pytest.fail(str(error), False)


@pytest.fixture
def protocol_check(pytestconfig: pytest.Config) -> Callable[..., list[Finding]]:
    """Return a call that checks a generator or verifier as `vhsbench check` does, and fails the test by the broken rules.

    `protocol_check(name, generator="nano")`: a registered name, or a verifier as --vhs-candidate names one, which is the
    default; a verifier is checked on candidates of `generator`.
    """

    def check(name: str | None = None, generator: str = "nano") -> list[Finding]:
        from vhsbench import generators
        from vhsbench.harness.common.rules import broken
        from vhsbench.harness.inference.conformance import check_generator, check_verifier

        try:
            if name in generators.REGISTRY:
                findings = check_generator(generators.create(str(name)))
            else:
                verifier = _source(pytestconfig, "vhs_candidate", name).load(generator=generator)
                findings = check_verifier(verifier, generators.create(generator))
        except VhsbenchError as error:
            pytest.fail(str(error), False)
        if failed := broken(findings):
            pytest.fail("\n".join(finding.line for finding in failed), False)
        return findings

    return check


@pytest.fixture
def verifier_regression(request: pytest.FixtureRequest, vhs_pool: Pool) -> VerifierRegression:
    """Compare verifiers on `vhs_pool`; `vhs_gate` marks change the gate for one test."""
    return VerifierRegression(request.config, vhs_pool, request.node)


class VerifierRegression:
    """What the fixture gives: `check` fails the test as the gate does, `compare` only compares."""

    def __init__(self, config: pytest.Config, pool: Pool, node: Any) -> None:
        self._config, self._pool, self._node = config, pool, node

    def compare(self, baseline: str | None = None, candidate: str | None = None) -> Regression:
        """Compare two verifiers, and write to --vhs-report-dir; by default --vhs-baseline and --vhs-candidate."""
        from vhsbench.harness.regress.report import write
        from vhsbench.harness.regress.run import regress

        sides = (
            _source(self._config, "vhs_baseline", baseline),
            _source(self._config, "vhs_candidate", candidate),
        )
        found = regress(*sides, self._pool, self._gate()[0])
        if folder := _setting(self._config, "vhs_report_dir"):
            write(found, Path(folder) / _file_name(self._node.name))
        return found

    def check(self, baseline: str | None = None, candidate: str | None = None) -> Regression:
        """Compare as `compare` does, and fail the test unless the gate passes; see the mark for inconclusive ones."""
        found = self.compare(baseline, candidate)
        outcome, text = found.verdict.outcome, " ".join(found.verdict.reasons)
        self._node.user_properties.append(("vhs_verdict", outcome))
        inconclusive = self._gate()[1]
        if outcome == "inconclusive" and inconclusive == "skip":
            pytest.skip(f"inconclusive: {text}")
        if outcome == "fail" or (outcome == "inconclusive" and inconclusive == "fail"):
            pytest.fail(f"{outcome}: {text}", False)
        return found

    def scoring(self, verifier: str | None = None, batch: int = 1) -> Callable[[], object]:
        """Return a call that scores the pool's first candidates, for pytest-benchmark's `benchmark`."""
        from vhsbench.harness.regress.speed import scoring

        gate = self._gate()[0]
        generator = self._pool.manifest.generator
        candidate = _source(self._config, "vhs_candidate", verifier).load(gate.device, generator)
        return scoring(candidate, self._pool, batch)

    def _gate(self) -> tuple[GateConfig, str]:
        """Return the gate of the file and the marks, the nearest mark last; and what inconclusive does."""
        from vhsbench.harness.config import yaml_files
        from vhsbench.harness.regress.gate_config import GateConfig, load_gate

        file = _setting(self._config, "vhs_gate")
        keys = load_gate(Path(file) if file else None).model_dump()
        for mark in reversed(list(self._node.iter_markers("vhs_gate"))):
            keys |= mark.kwargs
        inconclusive = keys.pop("inconclusive", "fail")
        if inconclusive not in ("fail", "skip", "pass"):
            pytest.fail(f"vhs_gate: inconclusive is 'fail', 'skip' or 'pass', not {inconclusive!r}.", False)
        try:
            return yaml_files.check(keys, "vhs_gate", GateConfig), inconclusive
        except yaml_files.ConfigError as error:
            pytest.fail(str(error), False)


def _source(config: pytest.Config, setting: str, text: str | None) -> Source:
    """Return the verifier that a test names, else the one of the setting; fails the test where there is none."""
    from vhsbench.harness.regress.sources import resolve

    text = text or _setting(config, setting)
    if text is None:
        pytest.fail(f"name a verifier in the test, or give {_OPTIONS[setting]}.", False)
    try:
        folder = _setting(config, "vhs_baselines_dir")
        return resolve(text, Path(folder) if folder else None)
    except VhsbenchError as error:
        pytest.fail(str(error), False)


def _setting(config: pytest.Config, name: str) -> str | None:
    """Return a setting of the command line, else of the ini file; None if neither has it."""
    return config.getoption(_OPTIONS[name]) or config.getini(name) or None


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
