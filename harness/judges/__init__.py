"""What judges candidates: a run may have several judges, so that a conclusion is checked by another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vhsbench import verifiers
from vhsbench.harness.common.registry import Registry
from vhsbench.harness.judges.of_verifier import OfVerifier
from vhsbench.harness.judges.protocol import Judge, JudgeDefaults, JudgeError, Metadata, Verdict

__all__ = ["REGISTRY", "Judge", "JudgeDefaults", "JudgeError", "Metadata", "Verdict", "create"]


class _Judges(Registry[Judge]):
    """Judges by name. The name of a verifier, where no judge has it, stands for the judge made of that verifier."""

    def own(self) -> list[str]:
        """List the judges that are no verifiers."""
        return super().names()

    def names(self) -> list[str]:
        return sorted({*self.own(), *verifiers.REGISTRY.names()})

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in verifiers.REGISTRY

    def get(self, name: str) -> Callable[..., Judge]:
        if name in verifiers.REGISTRY and name not in self.own():
            return OfVerifier(name)
        return super().get(name)


REGISTRY = _Judges(
    "judge",
    "vhsbench.judges",
    {"geneval": "vhsbench.harness.geneval.judge:geneval"},
    Judge,
    JudgeDefaults,
)


def create(name: str, **options: Any) -> Judge:
    """Build the judge registered as `name`, or made of the verifier of that name.

    Raises RegistryError for an unknown name or option, JudgeError for a verifier that does not read images.
    """
    return REGISTRY.create(name, **options)
