"""`vhsbench doctor`: what this machine can run, and what is in the way of the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from vhsbench.harness.commands.listing import listing
from vhsbench.harness.cost.environment import environment


def diagnose() -> dict[str, Any]:
    """Return the environment, the devices, the hub's state and the registered models that load here."""
    import torch

    found = listing("generators") | listing("verifiers")
    return {
        "environment": environment(torch.get_num_threads()),
        "cuda": torch.cuda.is_available(),
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True", "YES", "ON"),
        "models": {
            kind: {e["name"]: e.get("error") or _state(kind, e["name"]) for e in entries}
            for kind, entries in found.items()
        },
    }


def _state(kind: str, name: str) -> str:
    from vhsbench.generators import SPECS
    from vhsbench.generators.hub import weights_state

    return weights_state(SPECS[name]) if kind == "generators" and name in SPECS else "ready"


def show(found: Mapping[str, Any], console: Console) -> None:
    machine = found["environment"]
    lines = [
        f"Python {machine['python']} on {machine['platform']}",
        f"CPU: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gb']} GB of memory",
        "GPU: " + ("; ".join(f"{g['name']}, {g['free_gb']} of {g['memory_gb']} GB free, driver {g['driver']}"
                             for g in machine["gpus"]) or "none seen by NVML"),
        f"CUDA in torch: {'yes' if found['cuda'] else 'no; everything runs on the CPU'}",
        "packages: " + ", ".join(f"{k} {v or 'missing'}" for k, v in machine["packages"].items()),
        f"model hub: {'off (HF_HUB_OFFLINE)' if found['hub_offline'] else 'not needed by nano; used by hub ids'}",
    ]  # fmt: skip
    for kind, entries in found["models"].items():
        lines += [f"{kind}: {name}: {state}" for name, state in entries.items()]
    for line in lines:
        console.print(line, highlight=False)
