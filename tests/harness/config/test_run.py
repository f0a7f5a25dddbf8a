from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vhsbench.harness.config.models import verifier_options
from vhsbench.harness.config.run import (
    ConfigError,
    RunConfig,
    default_config,
    load_config,
    load_pool_config,
    parse,
)
from vhsbench.harness.store.tables import RunStore


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
        ("generators: [{name: nano}]\npool: 4097\n", "line 2, key 'pool': input should be less than or equal to 4096, not 4097."),
        ("generators: [{name: nano, pool: 5000}]\n", "key 'generators.0.pool': input should be less than or equal to 4096, not 5000."),
        ("generators: [{name: nano}]\nbatch_size: 1000000\n", "line 2, key 'batch_size': input should be less than or equal to 4096"),
        ("generators: [{name: nano}]\nbootstrap: 10000000\n", "line 2, key 'bootstrap': input should be less than or equal to 1000000"),
        ("generators: [{name: nano}]\nthreads: 100000\n", "line 2, key 'threads': input should be less than or equal to 1024"),
        ("generators: [{name: nano}]\nseeds: [9223372036854775808]\n", "key 'seeds.0': input should be less than or equal to 9223372036854775807, not 9223372036854775808."),
        ("generators: [{name: nano}]\nprompts: {limit: 1000000000}\n", "line 2, key 'prompts.limit': input should be less than or equal to 1000000"),
        ("generators: [{name: nano}]\nbudgets_ms: [.inf]\n", "line 2, key 'budgets_ms.0': input should be a finite number, not inf."),
        ("generators: [{name: nano}]\nbudgets: [550ms, 3GHz]\n", "'3GHz' is no budget; write a number and ms, s, GFLOP, TFLOP, MB, GB or J."),
        ("generators: [{name: nano}]\nbudgets: [1e12ms]\n", "line 2, key 'budgets.0': '1e12ms' is beyond any real run; write at most 1e+09 ms."),
        ("generators: [{name: nano}]\nbudgets: [1s]\nbudgets_ms: [1000]\n", "'budgets' and 'budgets_ms' are two spellings of one setting; give budgets alone, such as [550ms]."),
        ("generators: [{name: nano}]\nbudgets_ms: [.nan]\n", "line 2, key 'budgets_ms.0': input should be a finite number, not nan."),
        ("generators: [{name: nano, drift: .inf}]\n", "key 'generators.0.drift': input should be a finite number, not inf."),
        ("generators: [{name: nano}]\ntiming: {best_of_n: [1, 100000]}\n", "key 'timing.best_of_n.1': input should be less than or equal to 4096"),
        ("generators: [{name: nano}]\ntiming: {batch_sizes: [1]}\n", "key 'timing.batch_sizes.0': input should be greater than or equal to 2"),
        ("generators: [{name: nano}]\ntiming: {repeats: 100000000}\n", "key 'timing.repeats': input should be less than or equal to 1000000"),
        ("generators: [{name: nano}]\ntiming: {timeout_s: 1.0e+12}\n", "key 'timing.timeout_s': input should be less than or equal to 604800"),
        ("generators: [{name: nano}]\ntiming: {timeout_s: 0}\n", "key 'timing.timeout_s': input should be greater than 0"),
        ("generators: [{name: nano}]\ntiming: {min_seconds: .inf}\n", "key 'timing.min_seconds': input should be a finite number, not inf."),
        ("generators: [{name: nano}]\ndevice: gpu\n", "line 2, key 'device': unknown device 'gpu'; known: cpu, cuda, cuda:N."),
        ("generators: [{name: nano}]\ndevice: cuda:x\n", "line 2, key 'device': unknown device 'cuda:x'"),
        ("generators: [{name: nano}]\ndevice: meta\n", "line 2, key 'device': unknown device 'meta'"),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, options: {device: gpu}}\n", "line 3, key 'verifiers.0.options': unknown device 'gpu'"),
        ("generators: [{name: nano}]\ndetector: {name: mask2former, options: {device: 3}}\n", "key 'detector.options': unknown device '3'"),
        ("generators: [{name: nano, options: {text_encoder_device: gpu}}]\n", "key 'generators.0.options': unknown device 'gpu'"),
        ("generators: [{name: nano}, {name: sana-sprint, options: {dtype: bf16}}]\n", "key 'generators.1.options': unknown dtype 'bf16'; did you mean 'bfloat16'?"),
        ("generators: [{name: sana-sprint, options: {resolution: 1000}}]\n", "sana-sprint cannot make 1000 pixels: a side is a multiple of 32, such as 992 or 1024."),
        ("generators: [{name: nano, options: {resolution: 1000000}}]\n", "resolution is 1000000, but at most 16384 pixels a side are made."),
        ("generators: [{name: nano, options: {guidance_scale: high}}]\n", "guidance_scale is 'high', but a number from 0 to 1000 is needed."),
        ("generators: [{name: nano}]\nverifiers: [{name: vhs, options: {generator: nanno}}]\n", "key 'verifiers.0.options': unknown generator 'nanno'; did you mean 'nano'?"),
        ("generators: [{name: nano}]\nverifiers: [{name: vhs, options: {dtype: half}}]\n", "key 'verifiers.0.options': unknown dtype 'half'"),
        ("generators: [{name: nano}]\nverifiers: [{name: vhs, options: {block: five}}]\n", "key 'verifiers.0.options': a block, 0-based, or several in ascending order, not 'five'."),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs}\n- {name: vhs, checkpoint: other}\n", "x.yaml, line 2, key 'verifiers': two verifiers are 'vhs', but scores are told apart by that name; give each a label of its own."),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, label: a}\n- {name: mllm-ae, label: a}\n", "x.yaml, line 2, key 'verifiers': two verifiers are 'a', but"),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, label: a/b}\n", "x.yaml, line 3, key 'verifiers.0.label': 'a/b' names files and strategies; use at most 48 letters, digits,"),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, label: mllm-clip}\n", "line 3, key 'verifiers.0.label': 'mllm-clip' is another kind of verifier; choose another label."),
        ("generators: [{name: nano}]\nverifiers:\n- {name: vhs, label: oracle}\n", "key 'verifiers': 'oracle' is not a verifier in tables and figures; choose another label."),
        ("generators: [{name: nano, verifiers: [vhs]}]\nverifiers: [{name: vhs, label: a}]\n", "generator 'nano' asks for verifier 'vhs', which the run lacks; known: a."),
        ("generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: vhs, label: vhs_torch-compile}]\ntiming: {variants: [torch-compile]}\n", "the costs of two pipelines would be in one file, 'nano_vhs_torch-compile'; choose another label"),
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


@pytest.mark.parametrize(
    ("entries", "same"),
    [
        ("{name: nano}, {name: nano, options: {steps: 1}}", "'nano' of 1 step(s)"),
        ("{name: nano, options: {steps: 1}}, {name: nano, pool: 4}", "'nano' of 1 step(s)"),
        ("{name: nano, label: a}, {name: nano, label: a, options: {steps: 1}}", "'a' of 1 step(s)"),
        ("{name: nano}, {name: sana-sprint, label: nano, options: {steps: 1}}", "'nano' of 1 step(s)"),
        (
            "{name: sana-1.5}, {name: nano}, {name: sana-1.5, options: {steps: 16}}",
            "'sana-1.5' of 16 step(s)",
        ),
    ],
)
def test_entries_that_are_the_same_after_defaults_are_refused(entries, same):
    said = refused(f"generators: [{entries}]\n")
    assert f"key 'generators': two generators are {same}, and would make the same candidates; " in said
    apart = re.sub(r"(.*)\{(name: [\w.-]+)(, label: \w+)?", r"\1{\2, label: other", entries)
    assert parse(f"generators: [{apart}]\n", "x").generators[-1].shown == "other"


def test_a_pool_keeps_what_several_checkpoints_of_one_verifier_read(tmp_path):
    file = tmp_path / "pool.yaml"
    file.write_text(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: vhs, options: {block: 5}}]\n"
    )
    assert [v.name for v in load_pool_config(file).verifiers] == ["vhs", "vhs"]
    with pytest.raises(ConfigError, match="two verifiers are 'vhs'"):
        load_config(file)


def test_any_number_of_verifiers_of_one_kind_stand_side_by_side_under_labels():
    text = (
        "generators: [{name: nano}, {name: nano, label: b, verifiers: [vhs, vhs@9000]}]\n"
        "verifiers: [{name: vhs}, {name: vhs, label: vhs@9000}, {name: vhs, label: Old_1.5-x}, {name: mllm-ae}]\n"
    )
    config = parse(text, "x")
    assert [v.shown for v in config.verifiers] == ["vhs", "vhs@9000", "Old_1.5-x", "mllm-ae"]
    assert parse(text + "strategies: [cascade:vhs@9000>mllm-ae, ensemble:vhs+Old_1.5-x]", "x").strategies
    assert [v.shown for v in config.verifiers_of(config.generators[1])] == ["vhs", "vhs@9000"]
    assert [key for key, *_ in config.pipelines()] == [
        "nano_none", "nano_vhs", "nano_vhs@9000", "nano_Old_1.5-x", "nano_mllm-ae", "b_none", "b_vhs", "b_vhs@9000",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with RunStore(tmp_path_factory.mktemp("store") / "run", {}) as store:
        yield store


@given(label=st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_.+@-]{1,70}", fullmatch=True))
def test_a_label_names_a_file_of_the_run_or_is_refused(store, label):
    entries = {"generators": [{"name": "nano"}], "verifiers": [{"name": "vhs", "label": label}]}
    with suppress(ValidationError):
        (*_, (key, _, verifier, _)) = RunConfig.model_validate(entries).pipelines()
        assert verifier.shown == label
        assert not store.has("costs", key)  # which raises for what is no name of a shard


def test_every_device_of_a_run_is_known_of_it():
    text = (
        "generators: [{name: nano}, {name: nano, label: b, options: {text_encoder_device: cpu}}]\n"
        "verifiers: [{name: vhs, options: {device: 'cuda:1'}}]\ndevice: cuda\n"
        "detector: {name: mask2former, options: {device: 'cuda:2'}}\n"
    )
    assert parse(text, "x").devices == ["cuda", "cpu", "cuda:1", "cuda:2"]


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


def test_budgets_are_one_setting_in_two_spellings():
    start = "generators: [{name: nano}]\n"
    old, new = (parse(start + text, "x") for text in ("budgets_ms: [550, 1100]", "budgets: [550ms, 1.1s]"))
    assert old.budgets_by_unit == new.budgets_by_unit == {"ms": [550, 1100]}
    found = parse(start + "budgets: [40J, 3TFLOP, 24GB, 500GFLOP]", "x").budgets_by_unit
    assert found == {"J": [40], "TFLOP": [3, 0.5], "GB": [24]}
    assert parse(start, "x").budgets_by_unit == {}


def test_a_text_alone_stands_for_the_name_or_the_source(tmp_path):
    """Python, a file and its spelled-out form give the same configuration."""
    (tmp_path / "my.jsonl").write_text("")
    long = "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: mllm-ae, label: ae}]\nprompts: {source: my.jsonl}\ndetector: {name: shapes}\n"
    short = "generators: [nano]\nverifiers: [vhs, {name: mllm-ae, label: ae}]\nprompts: my.jsonl\ndetector: shapes\n"
    for name, text in (("long", long), ("short", short)):
        (tmp_path / f"{name}.yaml").write_text(text)
    read = load_config(tmp_path / "short.yaml")
    assert read == load_config(tmp_path / "long.yaml")
    assert read.prompts.source == str(tmp_path / "my.jsonl")  # relative to the file, as always
    assert RunConfig(generators=["nano"], verifiers=["vhs"]).verifiers[0].name == "vhs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generators: [nano]\nverifiers:\n- mllm-ae\n- vsh\n", "x.yaml, line 4, key 'verifiers.1': unknown verifier 'vsh'; did you mean 'vhs'?"),
        ("generators:\n- nanno\n", "x.yaml, line 2, key 'generators.0': unknown generator 'nanno'; did you mean 'nano'?"),
        ("generators: [nano]\ndetector: shape\n", "x.yaml, line 2, key 'detector': unknown detector 'shape'; did you mean 'shapes'?"),
        ("generators: [nano]\nverifiers: [vhs, 3]\n", "x.yaml, line 2, key 'verifiers.1': write its name, or a mapping with the key 'name', not 3."),
        ("generators: nano\n", "x.yaml, line 1, key 'generators': input should be a valid list, not 'nano'."),
    ],
)  # fmt: skip
def test_a_mistake_in_a_short_form_has_its_place(text, said):
    assert refused(text) == said


def test_a_file_of_prompts_that_is_missing_has_its_place_in_the_short_form_too(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("generators: [nano]\nprompts: my.jsonl\n")
    with pytest.raises(
        ConfigError, match=r"x\.yaml, line 2, key 'prompts': there is no '.*my\.jsonl'; paths"
    ):
        load_config(file)
