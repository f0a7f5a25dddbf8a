"""The protocol: which changes of a run make its accuracies mean something else, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from vhsbench.harness.config.run import parse
from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.sweep.identity import of_entry
from vhsbench.harness.sweep.protocol import DIGITS, of_run, protocol
from vhsbench.harness.sweep.run import load_prompts

PROMPTS = [
    {"tag": "colors", "prompt": "a photo of a red circle", "include": [{"class": "circle", "count": 1}]}
]
MADE = {
    "results": 1,
    "generator": {"name": "nano", "weights": {"sha256": "a"}, "dtype": "float32", "devices": ["cpu", "cpu"]},
    "verifiers": {"vhs": {"name": "vhs", "checkpoint": "c", "dtype": "float32", "device": "cpu"}},
    "detector": {"name": "mask2former", "pipeline": "geneval", "checkpoint": {"sha256": "d"}, "device": "cpu", "batch_size": 8},
    "pool": 16,
    "batch_size": 32,
    "device": "cpu",
}  # fmt: skip


def changed(path, value):
    """MADE with one leaf replaced."""
    made = json.loads(json.dumps(MADE))
    *parents, last = path.split(".")
    inner = made
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return made


def of(made=MADE, prompts=PROMPTS, seeds=(0, 1)):
    return protocol(prompts, seeds, [made] if made else [])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("generator.name", "other"), ("generator.weights.sha256", "b"), ("generator.devices", ["cuda", "cuda"]),
        ("verifiers.vhs.checkpoint", "other"), ("verifiers.vhs.device", "cuda"), ("verifiers.mine", {"options": {}}),
        ("detector.device", "cuda"), ("detector.batch_size", 1), ("pool", 4), ("batch_size", 1), ("device", "cuda"),
    ],
)  # fmt: skip
def test_what_is_compared_and_where_it_runs_is_no_part_of_it(path, value):
    assert of(changed(path, value)).digest == of().digest


@pytest.mark.parametrize(
    ("other", "part", "said"),
    [
        (of(changed("generator.dtype", "bfloat16")), "precision",
         "bfloat16 generators and float32 verifiers, not float32 generators and float32 verifiers"),
        (of(changed("verifiers.vhs.dtype", "float16")), "precision",
         "float32 generators and float16 verifiers, not float32 generators and float32 verifiers"),
        (of(changed("results", 2)), "versions", "results 2 and accuracy 1, not results 1 and accuracy 1"),
        (of(changed("detector.name", "shapes")), "detector", "shapes, not mask2former"),
        (of(changed("detector.pipeline", "mmdet3")), "detector", "mask2former of other settings or weights"),
        (of(changed("detector.checkpoint.sha256", "e")), "detector", "mask2former of other settings or weights"),
        (of(seeds=[2, 0]), "seeds", "0 2, not 0 1"),
        (of(prompts=[PROMPTS[0] | {"include": [{"class": "circle", "count": 2}]}]), "prompts", None),
    ],
)  # fmt: skip
def test_what_changes_the_meaning_changes_the_digest_and_is_named(other, part, said):
    assert other.digest != of().digest
    assert other.differs_in(of()) == [part]
    if said is not None:
        assert other.beside(of()) == f"{part} ({said})"


def test_the_digest_is_of_the_parts_alone_and_does_not_change_between_versions():
    assert of().digest == of(seeds=(1, 0)).digest == "a77644b1961d"
    assert len(of().digest) == DIGITS
    assert of().beside(of()) == ""
    assert of().record == {"digest": of().digest, **of().parts}


def test_a_run_knows_its_own_by_what_it_was_made_of(tmp_path):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nprompts: {limit: 2}\nseeds: [3]\n", "x"
    )
    prompts = load_prompts(config)
    made = of_entry(config, prompts, config.generators[0]).inputs
    info = {"config": config.model_dump(mode="json"), "identity": {"generators": {"nano": made}}}
    empty = pd.DataFrame()
    run = Run(tmp_path, info, prompts, pd.DataFrame({"seed": [3, 3]}), empty, empty, empty)
    found = of_run(run)
    assert found == protocol(prompts, [3], [made])
    assert found.precision == {"generators": ["float32"], "verifiers": ["float32"]}
    assert found.detector == {"name": "shapes", "options": {}}
    assert found.unknown == []
    earlier = of_run(replace(run, info={"config": info["config"]}))
    assert earlier.shown == f"{earlier.digest} (detector, precision, versions not recorded)"
    assert earlier.beside(found) == (
        "detector (not recorded, not shapes), precision (not recorded, not float32 generators and float32 verifiers), "
        "versions (not recorded, not results 1 and accuracy 1)"
    )
    with pytest.raises(StoreError, match="its identity does not name models"):
        of_run(replace(run, info=info | {"identity": {"generators": ["nano"]}}))
