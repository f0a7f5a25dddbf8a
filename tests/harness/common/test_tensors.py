"""Safetensors of others: regular files, a bounded list of tensors, shapes that torch can hold."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from vhsbench.harness.common import tensors
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.tensors import load_tensors, open_tensors, parse_tensors


def made(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(dtype: str = "F32", shape: tuple[int, ...] = (1,), size: int = 4) -> bytes:
    return made({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"\0" * size)


HOSTILE = {
    "empty": (b"", "it has 0 bytes"),
    "text": (b"a photo of a bench", "its list of tensors would have 2,337,214,753,470,947,425 bytes"),
    "long list": (struct.pack("<Q", 1 << 63), "would have 9,223,372,036,854,775,808 bytes; at most 16,777,216"),
    "cut": (one()[:-1], "not a safetensors file, or is damaged"),
    "no JSON": (made(b"[" * 100_000), "not a safetensors file, or is damaged"),
    "many dimensions": (one(shape=(1,) * 100_000), "'a' has 100,000 dimensions; at most 8 are read"),
    "endless dimension": (one(shape=(0, 2**63), size=0), "'a' has a dimension of 9,223,372,036,854,775,808; at most"),
    "odd type": (one("F6_E2M3", (8,), 6), "F6_E2M3"),
    "no type": (one("F31"), "unknown variant `F31`"),
    "other sizes": (one(shape=(1 << 40,)), "not a safetensors file, or is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path, name):
    data, said = HOSTILE[name]
    (tmp_path / "x").write_bytes(data)
    for read, source in ((load_tensors, (tmp_path / "x",)), (parse_tensors, (data, f"{tmp_path}/x"))):
        with pytest.raises(ReadError, match=said) as error:
            read(*source)
        assert str(error.value).startswith(f"{tmp_path}/x")
        assert "\n" not in str(error.value)


@given(st.lists(st.integers(0, 3), max_size=8), st.sampled_from([torch.float32, torch.int8, torch.bfloat16]))
@settings(max_examples=30)
def test_what_was_saved_is_read(tmp_path_factory, shape, dtype):
    given = {"a": torch.ones(shape, dtype=dtype), "b": torch.arange(3)}
    file = tmp_path_factory.getbasetemp() / "given.safetensors"
    save_file(given, file)
    for found in (load_tensors(file), parse_tensors(save(given), "x")):
        assert found.keys() == given.keys()
        assert all(torch.equal(found[k], given[k]) and found[k].dtype == given[k].dtype for k in given)


def test_pipes_devices_and_folders_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(file)
        with pytest.raises(ReadError, match=f"link is {kind}, not a regular file"):
            load_tensors(tmp_path / "link")


def test_a_key_that_is_not_there_names_the_file_and_other_errors_pass(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    with (
        pytest.raises(ReadError, match=r"x is not a safetensors file, or is damaged: .*'?b'?"),
        open_tensors(tmp_path / "x") as found,
    ):
        found.get_tensor("b")
    with pytest.raises(OSError, match="another"), open_tensors(tmp_path / "x"):
        raise OSError("another")


def test_a_list_of_a_hundred_thousand_tensors_is_within_bounds():
    entry = {"dtype": "F32", "shape": [], "data_offsets": [0, 0]}
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(100_000)]
    data = made({name: entry | {"shape": [0]} for name in names})
    assert len(data) < tensors.HEADER
    assert len(parse_tensors(data, "x")) == 100_000
