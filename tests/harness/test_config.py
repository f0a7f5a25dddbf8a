from __future__ import annotations

import pytest

from harness.config import ConfigError, default_config, load_config, parse
from harness.shards import verifier_options


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse(text, "x.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_default_is_nano_with_all_three_verifiers():
    config = default_config()
    assert [g.name for g in config.generators] == ["nano"]
    assert [v.name for v in config.verifiers] == ["vhs", "mllm-clip", "mllm-ae"]
    assert config.pool == 16


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generators: [{name: nano}]\nverifers: []\n", "x.yaml, line 2, key 'verifers': unknown key; did you mean 'verifiers'?"),
        ("generators:\n  - name: nanno\n", "line 2, key 'generators.0.name': unknown generator 'nanno'; did you mean 'nano'?"),
        ("generators: [{name: nano}]\nverifiers:\n- name: vsh\n", "line 3, key 'verifiers.0.name': unknown verifier 'vsh'; did you mean 'vhs'?"),
        ("generators: [{name: nano}]\npool: many\n", "line 2, key 'pool': input should be a valid integer"),
        ("generators: [{name: nano}]\npool: true\n", "line 2, key 'pool': input should be a valid integer, not True."),
        ("generators: [{name: nano}]\nseeds: [3, 3]\n", "line 2, key 'seeds': seed 3 is given twice."),
        ("generators: [{name: nano}]\nseeds: [-1]\n", "key 'seeds.0': input should be greater than or equal to 0, not -1."),
        ("generators: [{name: nano}]\nname: ../other\n", "line 2, key 'name': '../other' names files; use letters"),
        ("generators: [{name: nano, label: ..}]\n", "key 'generators.0.label': '..' names files; use letters"),
        ("generators: [{name: nano}]\npool: 0\n", "line 2, key 'pool': input should be greater than or equal to 1, not 0."),
        ("generators: [{name: nano}]\ntiming:\n  repeat: 3\n", "line 3, key 'timing.repeat': unknown key; did you mean 'repeats'?"),
        ("generators: [{name: nano}]\ndetector: {name: shape}\n", "line 2, key 'detector.name': unknown detector 'shape'; did you mean 'shapes'?"),
        ("generators: [{name: nano}]\ndetector: {name: shapes, option: {}}\n", "key 'detector.option': unknown key; did you mean 'options'?"),
        ("generators:\n- name: nano\n  options: {stepz: 2}\n", "x.yaml, line 3, key 'generators.0.options': generator 'nano' has no option 'stepz'; did you mean 'steps'?"),
        ("generators:\n- name: nano\n  options: {steps: 0}\n", "line 3, key 'generators.0.options': steps is 0, but nano makes an image in 1 to 30 steps."),
        ("generators: [{name: pixart-alpha-dmd, options: {steps: 2}}]\n", "steps is 2, but pixart-alpha-dmd makes an image in 1 step only."),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, options: {blocks: 3}}\n", "line 3, key 'verifiers.0.options': verifier 'vhs' has no option 'blocks'; did you mean 'block'?"),
        ("generators:\n- name: nano\n  options: {device: cuda}\n", "line 3, key 'generators.0.options': 'device' is no option here; it is given by the run's own 'device'."),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, options: {checkpoint: x}}\n", "key 'verifiers.0.options': 'checkpoint' is no option here; it is given by the entry's own 'checkpoint'."),
        ("generators: [{name: nano}]\ndetector: {name: shapes, options: {device: cpu}}\n", "key 'detector.options': detector 'shapes' has no option 'device'"),
        ("generators: [{name: nano}]\ndetector: {name: mask2former, options: {pipe: x}}\n", "key 'detector.options': detector 'mask2former' has no option 'pipe'"),
        ("pool: 4\n", "key 'generators': is required."),
        ("generators: [{name: nano}]\npool: 4\npool: 5\n", "line 3, key 'pool': is given twice."),
        ("generators: [\n", "x.yaml, line 2: not YAML"),
        ("- a\n", "x.yaml: a configuration is a mapping"),
        ("", "x.yaml: a configuration is a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(text, said):
    assert said in refused(text)


def test_yaml_tags_do_not_run_code():
    assert "not YAML" in refused("generators: !!python/object/apply:os.system ['true']\n")


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_entries_of_one_generator_are_told_apart():
    said = refused("generators: [{name: nano}, {name: nano}]\n")
    assert "key 'generators': two generators are 'nano'; give each a label of its own." in said
    config = parse(
        "generators: [{name: nano}, {name: nano, options: {steps: 4}}, {name: nano, label: b}]", "x"
    )
    assert [e.key for e in config.generators] == ["nano", "nano_steps=4", "b"]
    assert [e.shown for e in config.generators] == ["nano", "nano", "b"]


def test_an_entry_may_have_its_own_verifiers_and_pool():
    text = "generators: [{name: nano, verifiers: [vhs], pool: 2}, {name: nano, label: b}]\nverifiers: [{name: vhs}, {name: mllm-ae}]\npool: 9\n"
    config = parse(text, "x.yaml")
    first, second = config.generators
    assert [v.name for v in config.verifiers_of(first)] == ["vhs"]
    assert [v.name for v in config.verifiers_of(second)] == ["vhs", "mllm-ae"]
    assert (config.pool_of(first), config.pool_of(second)) == (2, 9)
    said = refused("generators: [{name: nano, verifiers: [vsh]}]\nverifiers: [{name: vhs}]\n")
    assert (
        said == "x.yaml: generator 'nano' asks for verifier 'vsh', which the run lacks; did you mean 'vhs'?"
    )


def test_a_verifier_may_be_elsewhere_and_of_another_generator():
    text = "generators: [{name: nano}]\nverifiers: [{name: vhs, options: {device: cpu, generator: sana-sprint}}]\n"
    (entry,) = parse(text, "x.yaml").verifiers
    given = verifier_options(entry, "cuda", "nano")
    assert given == {"checkpoint": None, "device": "cpu", "generator": "sana-sprint"}


def test_a_label_is_a_plain_name():
    assert "key 'generators.0.label'" in refused("generators: [{name: nano, label: ../up}]\n")


def test_a_lora_names_its_entry_and_says_how_far_it_moved():
    text = (
        "generators: [{name: nano}, {name: nano, lora: bundled, lora_strength: 0.5}, "
        "{name: nano, label: far, lora: my/lora, drift: 2}]\n"
    )
    entries = parse(text, "x.yaml").generators
    assert [(e.shown, e.moved) for e in entries] == [("nano", 0.0), ("nano+lora-0.5", 0.5), ("far", 2.0)]
    assert entries[0].build_options == {}
    assert entries[1].build_options == {"lora": "bundled", "lora_strength": 0.5}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("options: {lora: bundled}", "a LoRA is named by the entry's own 'lora' and 'lora_strength', not in options."),
        ("lora_strength: 0.5", "'lora_strength' is of a 'lora', which is not given."),
        ("lora: bundled, lora_strength: -1", "key 'generators.0.lora_strength': input should be greater than or equal to 0"),
        ("lora: bundled, lora_strenght: 1", "did you mean 'lora_strength'?"),
    ],
)  # fmt: skip
def test_a_lora_that_cannot_be(entry, said):
    assert said in refused(f"generators: [{{name: nano, {entry}}}]\n")
