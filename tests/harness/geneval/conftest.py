from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from vhsbench.harness import cli
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.geneval.mask2former import Mask2FormerDetector


@pytest.fixture(scope="session")
def detector() -> Mask2FormerDetector:
    """Mask2Former at its true size with random weights, for small pictures."""
    return Mask2FormerDetector("random", scale=(128, 64))


@pytest.fixture
def invoke() -> Callable[..., tuple[Result, str]]:
    """Runs a command of `vhsbench geneval`; what main would print for an error is beside the result."""

    def run(*arguments: object) -> tuple[Result, str]:
        result = CliRunner().invoke(cli.app, ["geneval", *map(str, arguments)])
        return result, str(result.exception) if isinstance(result.exception, VhsbenchError) else ""

    return run
