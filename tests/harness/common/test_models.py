"""What is checked of models that others made, on files of a few bytes."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.models import (
    check_links,
    check_model,
    check_tokenizer,
    check_weights,
    files_read,
    first_not_finite,
    folder_sha256,
    model_files,
    no_code,
    reason,
    weight_files,
)

NAN, INF = float("nan"), float("inf")
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
OTHERS = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]


def index(folder, names, stem="model.safetensors"):
    weight_map = {f"layer{i}": name for i, name in enumerate(names)}
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def weights(file, **tensors):
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors or {"a": torch.ones(2)}, file)
    return file


# which files


def test_an_index_names_files_of_its_own_folder(tmp_path):
    shards = [weights(tmp_path / f"{i}.safetensors") for i in range(2)]
    index(tmp_path, ["1.safetensors", "0.safetensors", "1.safetensors"])
    assert weight_files(tmp_path, "model.safetensors") == shards
    index(tmp_path, ["0.safetensors", "2.safetensors"])
    with pytest.raises(
        ReadError, match=r"has no 2\.safetensors, which model\.safetensors\.index\.json names"
    ):
        weight_files(tmp_path, "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "{root}/outside.safetensors", "sub/outside.safetensors", "..", "", 7, None],
)
@pytest.mark.parametrize("stem", ["model.safetensors", "diffusion_pytorch_model.safetensors"])
def test_an_index_that_names_others_is_refused_with_the_name_and_its_key(tmp_path, name, stem):
    weights(tmp_path / "outside.safetensors")
    weights(tmp_path / "model/sub/outside.safetensors")
    name = name.format(root=tmp_path) if isinstance(name, str) else name
    index(tmp_path / "model", [name], stem)
    with pytest.raises(
        ReadError, match=r"index\.json: 'layer0' names .* only files directly in the same folder"
    ):
        weight_files(tmp_path / "model", stem)
    with pytest.raises(ReadError, match=r"index\.json: 'layer0' names"):
        model_files(tmp_path / "model")


@given(st.text(max_size=12))
@settings(max_examples=200)
def test_whatever_an_index_names_a_file_read_lies_in_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "named"
    folder.mkdir(exist_ok=True)
    index(folder, [name])
    with pytest.raises(ReadError):  # the folder has no file at all
        weight_files(folder, "model.safetensors")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": None}])
def test_an_index_of_nothing_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ReadError, match="has no 'weight_map'"):
        weight_files(tmp_path, "model.safetensors")


def test_links_stay_in_the_folder(tmp_path):
    outside = weights(tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    inside = weights(folder / "real.safetensors")
    (folder / "model.safetensors").symlink_to("real.safetensors")
    check_links(folder)
    assert model_files(folder) == [folder / "model.safetensors"]
    (tmp_path / "other-name").symlink_to(folder)  # the folder itself may be one
    check_links(tmp_path / "other-name")
    for target in (
        outside,
        tmp_path,
        "../outside.safetensors",
        "/dev/zero",
        "nowhere/../../outside.safetensors",
    ):
        (folder / "config.json").symlink_to(target)
        with pytest.raises(ReadError, match=r"config\.json is a link out of its folder"):
            model_files(folder)
        (folder / "config.json").unlink()
    assert inside.exists()


def test_links_of_a_hub_snapshot_lead_to_its_blobs_alone(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123"
    blob = weights(repository / "blobs" / "ffff.safetensors")
    (snapshot / "vae").mkdir(parents=True)
    link = snapshot / "vae" / "model.safetensors"
    link.symlink_to(os.path.relpath(blob, link.parent))
    assert model_files(snapshot / "vae") == [link]
    check_links(snapshot)
    (snapshot / "config.json").symlink_to(weights(tmp_path / "models--c--d" / "blobs" / "eeee"))
    with pytest.raises(ReadError, match=r"config\.json is a link out of its folder"):
        check_links(snapshot)


def test_blobs_that_are_a_link_are_none(tmp_path):
    (tmp_path / "r/snapshots/0").mkdir(parents=True)
    (tmp_path / "r/blobs").symlink_to("/")
    (tmp_path / "r/snapshots/0/config.json").symlink_to("/etc/hostname")
    with pytest.raises(ReadError, match="is a link out of its folder"):
        check_links(tmp_path / "r/snapshots/0")


def test_an_adapter_whose_base_is_elsewhere_is_refused(tmp_path):
    weights(tmp_path / "model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with pytest.raises(ReadError, match="holds an adapter"):
        model_files(tmp_path)


@pytest.mark.parametrize(
    "config", [{"fast_tokenizer_files": ["../x/tokenizer.4.0.0.json"]}, {"gguf_file": "/x.gguf"}]
)
def test_a_tokenizer_that_names_files_elsewhere_is_refused(tmp_path, config):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ReadError, match=r"tokenizer_config\.json names .* only files directly in the same folder"
    ):
        check_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]})
    )
    check_tokenizer(tmp_path)


def test_pickles_are_read_where_they_are_allowed_and_there_is_nothing_else(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert model_files(tmp_path) == []
    assert model_files(tmp_path, pickles=True) == [tmp_path / "pytorch_model.bin"]
    safe = weights(tmp_path / "model.safetensors")
    assert model_files(tmp_path, pickles=True) == [safe]
    safe.unlink()
    index(tmp_path, ["../outside.bin"], "pytorch_model.bin")
    with pytest.raises(ReadError, match="only files directly in the same folder"):
        model_files(tmp_path, pickles=True)


# what is in them


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_is_found_by_its_key(dtype, bad):
    tensors = {"a": torch.ones(3, 5), "b": torch.full((2, 1000), 3.0, dtype=dtype), "empty": torch.ones(0)}
    assert first_not_finite(tensors) is None
    tensors["b"][1, 700] = bad
    assert first_not_finite(tensors) == "b"
    with pytest.raises(ReadError, match=r"f: 'b' holds NaN or infinite numbers"):
        check_weights(tensors, "f")


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_finite_numbers_are_finite(dtype):
    largest = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert first_not_finite({"a": largest, "b": -largest}) is None


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.sampled_from(FLOATS))
@settings(max_examples=200)
def test_finite_is_what_torch_says(values, dtype):
    tensor = torch.tensor(values).to(dtype)
    assert (first_not_finite({"t": tensor}) is None) == bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_types_are_refused_by_file_and_key_without_being_read(tmp_path, dtype):
    said = {torch.int64: "I64", torch.complex64: "C64", torch.bool: "BOOL"}.get(dtype, "")
    file = weights(tmp_path / "model.safetensors", good=torch.ones(2), bad=torch.ones(2).to(dtype))
    with pytest.raises(
        ReadError, match=rf"model\.safetensors: 'bad' holds {said}.*, but weights are bfloat16"
    ):
        model_files(tmp_path)
    file.unlink()
    torch.save({"state_dict": {"bad": torch.ones(2).to(dtype)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ReadError, match=r"pytorch_model\.bin: 'bad' holds "):
        model_files(tmp_path, pickles=True)
    with pytest.raises(ReadError, match="'bad' holds "):
        check_weights({"bad": torch.ones(2).to(dtype)})


def test_positions_and_counters_may_be_whole_numbers(tmp_path):
    positions = {"text_model.embeddings.position_ids": torch.arange(7), "a": torch.ones(1)}
    assert model_files(weights(tmp_path / "model.safetensors", **positions).parent)
    check_weights(positions)


def test_a_model_is_traced_to_file_and_key_and_to_its_cast(tmp_path):
    layer = torch.nn.Linear(2, 2)
    good = weights(tmp_path / "1.safetensors", other=torch.ones(1))
    file = weights(tmp_path / "2.safetensors", **{"encoder.weight": torch.tensor([[1.0, NAN], [1, 1]])})
    check_model(layer, [good, file], "tower")
    layer.weight.data = torch.tensor([[1.0, NAN], [1, 1]])
    with pytest.raises(ReadError, match=r"2\.safetensors: 'encoder\.weight' holds NaN"):
        check_model(layer, [good, file], "tower")
    layer.weight.data = torch.full((2, 2), 1e6).half()
    with pytest.raises(
        ReadError, match=r"tower: 'weight' is not finite as float16; load it as bfloat16 or float32"
    ):
        check_model(layer, [good], "tower")
    check_model(torch.nn.Linear(2, 2, device="meta"), [], "costs alone")


# identity and code


def test_the_digest_covers_what_is_read_and_nothing_else(tmp_path):
    for name in (
        "config.json",
        "model.safetensors",
        "vae/model.safetensors",
        "tokenizer.model",
        "chat.jinja",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        before = folder_sha256(tmp_path)
        (tmp_path / name).write_bytes(b"changed")
        assert folder_sha256(tmp_path) != before
    before = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert folder_sha256(tmp_path) == before
    also = tmp_path / "mean.pt"
    also.write_bytes(b"1")
    assert folder_sha256(tmp_path, [also]) != before


def test_a_pickle_is_in_the_digest_where_it_is_read(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert files_read(tmp_path, pickles=True) == [tmp_path / "pytorch_model.bin"]
    safe = weights(tmp_path / "model.safetensors")
    assert files_read(tmp_path, pickles=True) == [safe]


def test_a_library_that_says_nothing_of_code_refuses_it_and_does_not_ask(monkeypatch, tmp_path):
    from transformers import AutoConfig

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "mine.Mine"}})
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    with no_code(), pytest.raises(ValueError, match="trust_remote_code") as caught:
        AutoConfig.from_pretrained(tmp_path)  # as such a library calls it
    assert reason(caught.value) == "it needs code of its own, and code that comes with a model is never run"


def test_a_reason_is_one_line():
    assert reason(ValueError("first.\nsecond")) == "first"
    assert reason(KeyError()) == "KeyError"
