"""Write docs/configuration.md: `python -m vhsbench.harness.commands.reference > docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from vhsbench.harness.config.reference import reference
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.training.config import TrainConfig

MODELS: Mapping[str, type[BaseModel]] = {"A run": RunConfig, "A gate": GateConfig, "A training": TrainConfig}
_HEAD = """# Configuration: every key

Configurations are YAML. This page is made of the models that check them (`python -m vhsbench.harness.commands.reference`); a
mistake is said with its file, line and key. Where a text alone may stand for a mapping, it is its first key: `vhs` for `{name: vhs}`.
`vhsbench init run` and `vhsbench init gate` write commented starts; the bundled experiments are in `harness/config/bundled/`.
"""


def page() -> str:
    """Return the page."""
    return f"{_HEAD}\n{reference(MODELS)}"


if __name__ == "__main__":
    print(page(), end="")
