from __future__ import annotations

import subprocess
import sys

from vhsbench import generators
from vhsbench.generators import SPECS


def test_specs_and_registry_name_the_same_generators():
    assert sorted(SPECS) == generators.REGISTRY.names()


def test_nanos_spec_is_what_nano_is(nano):
    assert nano.info() == SPECS["nano"].info()
    assert nano.noise([0]).shape[1:] == (SPECS["nano"].latent_channels, *[SPECS["nano"].latent_size] * 2)
    parts = nano.pipeline.components
    assert SPECS["nano"].total_parameters == sum(
        p.numel() for k in ("text_encoder", "vae", "transformer") for p in parts[k].parameters()
    )


def test_specs_are_consistent():
    for spec in SPECS.values():
        assert spec.tokens == (spec.resolution // spec.resolution_multiple) ** 2
        assert 1 <= spec.steps <= spec.max_steps
        assert spec.source == (f"{spec.hub_id}@{spec.revision}" if spec.hub_id else "bundled")


def test_describing_imports_nothing_heavy():
    code = (
        "import sys, generators; print(generators.describe('flux-schnell').blocks, "
        "[m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "57 []"
