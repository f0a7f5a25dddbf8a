"""What decides a run's rows: by content whatever the path, and named where it differs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from vhsbench.generators.nano import LORA, WEIGHTS
from vhsbench.harness.config.run import parse
from vhsbench.harness.store.tables import StoreError
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.identity import Identity, differences, of_costs, of_entry
from vhsbench.harness.sweep.run import load_prompts, local, run
from vhsbench.verifiers import nano as verifiers_nano

VHS = verifiers_nano.WEIGHTS / "vhs"


def config(text=""):
    return parse(f"generators: [{{name: nano}}]\nprompts: {{limit: 2}}\nthreads: 1\n{text}", "x.yaml")


def of(text="", prompts=None):
    made = config(text)
    return of_entry(made, prompts or load_prompts(made), made.generators[0])


def alter(file):
    """Change one bit in the middle of a file, as another training would have."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.fixture
def models(tmp_path):
    """Copies of nano's models in a folder, and the configuration of a run by them."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    shutil.copytree(LORA, tmp_path / "lora")
    shutil.copytree(VHS, tmp_path / "vhs")
    text = (
        "generators: [{name: nano, options: {weights: FOLDER/weights}, lora: FOLDER/lora}]\n"
        "verifiers: [{name: vhs, checkpoint: FOLDER/vhs}]\n"
        "prompts: {split: validation, limit: 16}\npool: 1\nthreads: 1\ngallery_prompts: 0\n"
    )
    return tmp_path, lambda folder=tmp_path: parse(text.replace("FOLDER", str(folder)), "x.yaml")


CHANGES = [
    ("weights/transformer/diffusion_pytorch_model.safetensors", "the weights of generator 'nano+lora-1'"),
    ("weights/scheduler/scheduler_config.json", "the weights of generator 'nano+lora-1'"),
    ("lora/pytorch_lora_weights.safetensors", "the LoRA of generator 'nano+lora-1'"),
    ("vhs/model.safetensors", "the checkpoint of verifier 'vhs'"),
    ("vhs/normalization.safetensors", "the checkpoint of verifier 'vhs'"),
    ("vhs/tokenizer_config.json", "the checkpoint of verifier 'vhs'"),
]


def test_a_run_is_refused_by_name_where_a_models_bytes_changed(models):
    folder, make = models

    def half(config, prompts, todo):
        yield from local(config, prompts, todo[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make(), folder / "run", engine=half)
    for name, said in CHANGES:
        whole = (folder / name).read_bytes()
        if name.endswith(".json"):
            (folder / name).write_bytes(whole + b" ")
        else:
            alter(folder / name)
        with pytest.raises(StoreError, match="1 of its 2 shards") as error:
            run(make(), folder / "run", engine=lambda *_: pytest.fail("something was made"))
        assert f"were not made with what is here now: {said}; bring" in str(error.value)
        (folder / name).write_bytes(whole)
    (folder / "weights" / "README.md").write_text("a card decides nothing")
    for name in ("weights", "lora", "vhs"):
        (folder / "moved").mkdir(exist_ok=True)
        (folder / name).rename(folder / "moved" / name)
    done = []

    def rest(config, prompts, todo):
        done.extend(shard.key for shard in todo)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the same bytes elsewhere are the same
        run(make(folder / "moved"), folder / "run", engine=rest)
    assert done == ["nano+lora-1_seed=0_prompt=00008"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("pool: 2", "pool: 3", "'pool' (2 then, 3 now)"),
        ("batch_size: 2", "batch_size: 3", "'batch_size' (2 then, 3 now)"),
        ("verifiers: []", "verifiers: [{name: vhs}]", "verifier 'vhs'"),
        ("verifiers: [{name: vhs, options: {dtype: float32}}]", "verifiers: [{name: vhs, options: {dtype: bfloat16}}]",
         "'dtype' of verifier 'vhs' (float32 then, bfloat16 now)"),
        ("device: cpu", "device: cuda", "'devices' of generator 'nano' (['cpu', 'cpu'] then, ['cuda', 'cuda'] now)"),
    ],
)  # fmt: skip
def test_settings_are_named_with_both_values(one, other, said):
    assert said in of(one).unlike(of(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("device: cuda:0", "device: cuda:1"),
        ("verifiers: [{name: vhs}]", "verifiers: [{name: vhs, options: {dtype: float32, block: 6}}]"),
        ("", "detector: {name: shapes}"),
        ("bootstrap: 3", "overlap: true"),
    ],
)
def test_what_is_the_same_is_no_difference(one, other):
    assert of(one).unlike(of(other)) == []


def test_a_detector_is_known_by_its_weights_its_colours_and_its_options(tmp_path):
    for name in ("weights.pth", "colours.pt"):
        (tmp_path / name).write_bytes(b"one")

    bench = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}

    def judged(**options):
        given = {
            "checkpoint": str(tmp_path / "weights.pth"),
            "colors": str(tmp_path / "colours.pt"),
        } | options
        return of(f"detector: {{name: mask2former, options: {json.dumps(given)}}}", [bench])

    before = judged()
    assert before.unlike(judged()) == []
    (tmp_path / "weights.pth").write_bytes(b"two")
    assert before.unlike(judged()) == ["the checkpoint of the detector"]
    (tmp_path / "weights.pth").write_bytes(b"one")
    (tmp_path / "colours.pt").write_bytes(b"two")
    assert before.unlike(judged()) == ["the colour model of the detector"]
    (tmp_path / "colours.pt").write_bytes(b"one")
    assert before.unlike(judged(pipeline="mmdet3")) == [
        "'pipeline' of the detector (geneval then, mmdet3 now)"
    ]
    assert before.unlike(of("detector: {name: shapes}", [bench])) == [
        "the detector (mask2former then, shapes now)"
    ]
    assert judged(checkpoint="random", seed=1).unlike(judged(checkpoint="random", seed=2)) != []
    with pytest.raises(ValueError, match=r"nothing\.pth cannot be read: no such file"):
        judged(checkpoint=str(tmp_path / "nothing.pth"))


def test_prompts_libraries_threads_and_this_package_are_named(monkeypatch):
    star = {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}
    whole = of().of_prompts([star])
    assert whole.unlike(of().of_prompts([star | {"prompt": "a star"}])) == ["the prompts"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    now = whole.surroundings["threads"]
    assert of().of_prompts([star]).unlike(whole) == [f"the number of threads (7 then, {now} now)"]
    monkeypatch.undo()
    monkeypatch.setattr(identity, "package_version", lambda name: "3.1.4")
    assert whole.unlike(of().of_prompts([star]))[0].startswith("torch (")
    assert len(whole.unlike(of().of_prompts([star]))) == len(identity.LIBRARIES)
    monkeypatch.setattr(identity, "RESULTS", 99)
    assert whole.unlike(of().of_prompts([star]))[0] == "the results of this package (1 then, 99 now)"


def test_costs_are_of_a_pipeline_a_prompt_and_a_timing():
    def priced(text="", verifier=None, variant=""):
        made = config("verifiers: [{name: vhs}, {name: mllm-ae}]\n" + text)
        prompts = load_prompts(made)
        return of_costs(made, prompts, of_entry(made, prompts, made.generators[0]), verifier, variant)

    assert priced().unlike(priced("pool: 3\nbatch_size: 5")) == []
    assert (
        priced().unlike(priced("timing: {variants: [torch-compile], preset: smoke, repeats: 15, warm_up: 3}"))
        == []
    )
    assert priced().unlike(priced("timing: {repeats: 16}")) == ["'timing.repeats' (15 then, 16 now)"]
    assert priced().unlike(priced(variant="torch-compile")) == ["'variant' ( then, torch-compile now)"]
    assert priced(verifier="vhs").unlike(priced(verifier="mllm-ae")) == ["verifier 'mllm-ae'"]
    assert priced().unlike(priced("timing: {threads: 2}")) == ["the number of threads (1 then, 2 now)"]


def test_a_commit_is_named_whole_so_that_it_can_be_asked_for():
    def at(commit):
        return {"generator": {"key": "g", "weights": {"hub": "o/n", "commit": commit}}}

    one, other = "a" * 40, "b" * 40
    assert differences(at(one), at(other)) == [
        f"the weights of generator 'g' (commit {one} then, {other} now)"
    ]


def test_an_identity_is_read_back_as_it_was():
    made = of("verifiers: [{name: vhs}]").of_prompts([])
    assert Identity.read(json.loads(json.dumps(made.about()))) == made
    assert Identity.read({}) is None


def test_many_differences_are_each_named_once():
    then = {"verifiers": {"a": {"name": "a", "x": 1, "y": 2}}, "other": {"deep": [1]}}
    now = {"verifiers": {"a": {"name": "a", "x": 2, "y": 3}}, "other": {}}
    assert differences(then, now) == [
        "'x' of verifier 'a' (1 then, 2 now)", "'y' of verifier 'a' (2 then, 3 now)",
        "'other' (none then, {} now)", "'other.deep' ([1] then, none now)",
    ]  # fmt: skip
