"""The plugin in a project of its own: its fixtures, marks, mistakes; and that unused it does nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path

import pytest

# loaded here, so that a pytest inside a test does not load it anew: its classes would then be there twice
import vhsbench.harness.inference.conformance  # noqa: F401
from vhsbench.harness.config.run import parse
from vhsbench.harness.regress.pool import make_pool

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "verifier_tests"
PLUGINS = ("-p", "vhsbench.harness.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:randomly")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    text = "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nprompts: {limit: 12}\npool: 4\nbatch_size: 24\n"
    return make_pool(parse(text, "x.yaml"), tmp_path_factory.mktemp("plugin") / "pool", ["hidden"]).path


@pytest.fixture
def project(pytester, frozen):
    """An empty project; its plugin is loaded by name unless the package is installed, which loads it too."""
    installed = any(e.value == "vhsbench.harness.pytest_plugin" for e in entry_points(group="pytest11"))

    def run(*arguments, pool=frozen):
        options = PLUGINS[2:] if installed else PLUGINS
        given = [f"--vhs-pool={pool}"] if pool else []
        return pytester.runpytest_inprocess(*options, *given, *map(str, arguments))

    return run


def test_imports_nothing_heavy():
    code = "import sys, vhsbench.harness.pytest_plugin; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_the_example_can_be_copied_and_passes(pytester, project, frozen):
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, pytester.path / file.name)
    gate = pytester.path / "gate.yaml"
    gate.write_text("bootstrap: 200\npermutations: 999\nauc_permutations: 199\ntiming_repeats: 3\n")
    result = project("--vhs-candidate=vhs", "--vhs-report-dir=reports", "--benchmark-disable")
    result.assert_outcomes(passed=4)
    assert (pytester.path / "reports" / "test_is_no_worse_than_the_baseline" / "junit.xml").is_file()


def test_outcomes_and_marks(pytester, project):
    pytester.makepyfile(
        """
        import pytest
        from vhsbench.harness.regress.gate import FAIL, INCONCLUSIVE, GateVerdict

        QUICK = dict(bootstrap=100, permutations=99, auc_permutations=99, timing_repeats=0)
        pytestmark = pytest.mark.vhs_gate(**QUICK)

        def test_pass(verifier_regression):
            assert verifier_regression.check("vhs", "vhs").gate.best_of_n == (4,)

        @pytest.mark.vhs_gate(best_of_n=(2,))
        def test_nearest_mark_wins(verifier_regression):
            found = verifier_regression.compare("vhs", "vhs")
            assert (found.gate.best_of_n, found.gate.bootstrap) == ((2,), 100)

        @pytest.fixture(params=[FAIL, INCONCLUSIVE])
        def verdict(request, monkeypatch):
            import vhsbench.harness.regress.run
            monkeypatch.setattr(vhsbench.harness.regress.run, "decide", lambda *_: GateVerdict(request.param, ("because.",)))

        def test_not_passed(verdict, verifier_regression):
            verifier_regression.check("vhs", "vhs")

        @pytest.mark.vhs_gate(inconclusive="skip")
        def test_skip(verdict, verifier_regression):
            verifier_regression.check("vhs", "vhs")
        """
    )
    result = project("-rs", "--strict-markers")
    result.assert_outcomes(passed=2, failed=3, skipped=1)
    result.stdout.fnmatch_lines(["*inconclusive: because.*"])


def test_mistakes_are_one_sentence(pytester, project, tmp_path):
    pytester.makepyfile(
        """
        import pytest

        def test_it(verifier_regression):
            verifier_regression.check("vhs", "vhss")

        def test_unnamed(verifier_regression):
            verifier_regression.check("vhs")

        @pytest.mark.vhs_gate(alpa=0.1)
        def test_mark(verifier_regression):
            verifier_regression.check("vhs", "vhs")

        def test_unknown_checkpoint(verifier_regression):
            verifier_regression.check("vhs", "odd")
        """
    )
    odd = pytester.mkdir("odd")
    (odd / "config.json").write_text("{}")
    (odd / "verifier.json").write_text('{"kind": "mllm-clipp"}')
    result = project()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "*did you mean 'vhs'?*",
            "*give --vhs-candidate*",
            "*vhs_gate, key 'alpa': unknown key; did you mean 'alpha'?*",
            "*verifier.json names no known verifier: 'mllm-clipp'; did you mean 'mllm-clip'?*",
        ]
    )
    project(pool=None).stdout.fnmatch_lines(["*vhs_pool needs --vhs-pool*"])
    project(pool=tmp_path).stdout.fnmatch_lines(["*is not a pool*"])


def test_the_protocol_is_checked_by_its_rules(pytester, project, monkeypatch):
    from vhsbench import generators

    class Reseeded(type(generators.create("nano"))):
        def noise(self, seeds):
            return super().noise([seed + row for row, seed in enumerate(seeds)])

    def reseeded(device="cpu"):
        made = generators.create("nano")
        made.__class__ = Reseeded
        return made

    module = types.ModuleType("reseeded_plugin")
    module.create = reseeded
    monkeypatch.setitem(sys.modules, module.__name__, module)
    targets = {
        **dict.fromkeys(["reseeded"], "reseeded_plugin:create"),
        "nano": generators.REGISTRY.target("nano"),
    }
    monkeypatch.setattr(generators.REGISTRY, "_targets", targets)
    pytester.makepyfile(
        """
        def test_generator(protocol_check):
            assert {finding.outcome for finding in protocol_check("nano")} == {"holds"}

        def test_broken(protocol_check):
            protocol_check("reseeded")

        def test_candidate(protocol_check):
            assert [finding.rule for finding in protocol_check()][0] == "scores"

        def test_unknown(protocol_check):
            protocol_check("vhss")
        """
    )
    result = project("--vhs-candidate=mllm-ae", pool=None)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*seeds: in another order, 2 of 3 seeds have other noise (row i of noise(seeds)*",
            "*did you mean 'vhs'?*",
        ]
    )


def test_unused_it_changes_nothing(pytester, project):
    pytester.makepyfile("def test_plain(): pass")
    project(pool=None).assert_outcomes(passed=1)
