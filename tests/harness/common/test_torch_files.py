"""Files of torch's: tensors come out of them, nothing of them runs."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.torch_files import read, read_state

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}


class Call:
    """Pickled as a call of a function, which pickle makes as it loads."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def history(monkeypatch):
    """An instance, with methods and arrays in it, of a class of a module that is gone when it is read."""
    module = types.ModuleType("foreign_engine")
    source = """
class History:
    def __init__(self, array): self.array, self.methods = array, {"mean": History.mean}
    def mean(self): raise SystemExit("it ran")
    def __setstate__(self, state): raise SystemExit("it ran")
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "foreign_engine", module)
    return module.History(np.arange(3.0))


def same(tensors):
    return tensors.keys() == WEIGHTS.keys() and all(torch.equal(tensors[k], v) for k, v in WEIGHTS.items())


def test_tensors_beside_what_a_training_keeps_are_read_and_no_class_is_imported(
    tmp_path, history, monkeypatch
):
    file = tmp_path / "epoch_1.pth"
    content = {
        "state_dict": OrderedDict(WEIGHTS),
        "meta": {"epoch": 1, "seed": np.int64(3), "time": datetime(2026, 1, 1)},
        "message_hub": {"log_scalars": OrderedDict(loss=history), "best": np.float64(0.5)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": np.float32(1e-4)}]},
    }
    torch.save(content, file)
    monkeypatch.delitem(sys.modules, "foreign_engine")
    allowed = set(torch.serialization.get_safe_globals())
    found = read_state(file)
    assert same(found.tensors)
    assert found.others == ["message_hub", "optimizer"]
    assert "foreign_engine" not in sys.modules
    inert = read(file)["message_hub"]["log_scalars"]["loss"]
    assert type(inert).__name__ == "foreign_engine.History"
    assert vars(inert) == {}
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_of_either_format_is_read(tmp_path, zipped):
    torch.save(WEIGHTS, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    found = read_state(tmp_path / "a.bin")
    assert same(found.tensors)
    assert found.others == []


@pytest.mark.parametrize("where", ["inside", "beside"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch {}"),
        (subprocess.getoutput, "touch {}"),
        (builtins.eval, "open({!r}, 'w')"),
        (builtins.exec, "open({!r}, 'w')"),
    ],
)
def test_what_would_run_is_not_run_and_is_one_sentence(tmp_path, where, zipped, function, argument):
    marker, file = tmp_path / "ran", tmp_path / "bad.pth"
    bad = Call(function, argument.format(str(marker)))
    content = {"state_dict": WEIGHTS | ({"x": bad} if where == "inside" else {}), "run": bad}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ReadError, match=r"bad\.pth: holds no plain tensors") as caught:
        read_state(file)
    assert not marker.exists()
    assert function.__name__ in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    torch.load(file, weights_only=False)  # the file does what it says, where it is let
    assert marker.exists()


def test_a_function_of_an_installed_package_is_named_but_not_called(tmp_path):
    file, marker = tmp_path / "a.pth", tmp_path / "ran.npy"
    torch.save({"state_dict": WEIGHTS, "hook": Call(np.save, str(marker), np.ones(1))}, file)
    assert same(read_state(file).tensors)
    assert not marker.exists()
    torch.save({"state_dict": {"x": np.ones(1)}}, file)
    with pytest.raises(ReadError, match=r"a\.pth: holds no state_dict of tensors: 'x' is of type numpy\S*$"):
        read_state(file)


def rewritten(file, change, method=zipfile.ZIP_STORED):
    """The same archive with another data.pkl."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_names_with_escape_codes_are_shown_escaped(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": WEIGHTS, "x": Call(print)}, file)
    rewritten(file, lambda data: data.replace(b"print\n", b"p\x1b[1mt\n"))
    with pytest.raises(ReadError, match=r"holds no plain tensors \(it asks for 'builtins\.p\\x1b\[1mt'"):
        read_state(file)
    torch.save({"a\x1b[31m": torch.ones(1)}, file)
    with pytest.raises(ReadError, match=r"'a\\x1b\[31m' is not the name of one"):
        read_state(file)


def test_the_reason_is_the_real_one_without_torchs_advice(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": WEIGHTS, "x": Call(np.save)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ReadError) as caught:
        read_state(file)
    assert str(caught.value) == (
        f"{file}: holds no plain tensors (Unsupported global: GLOBAL numpy.save "
        "was not an allowed global by default; save its state_dict alone)."
    )
    torch.save({"state_dict": WEIGHTS, "x": defaultdict(list, a=[1])}, file)
    with pytest.raises(ReadError, match=r"\(Can only SETITEM for dict"):
        read_state(file)


def test_a_compressed_file_which_may_unpack_to_any_size_is_refused(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": {"a": torch.zeros(1 << 20)}}, file)
    rewritten(file, bytes, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1 << 16
    with pytest.raises(ReadError, match="it is compressed, which"):
        read_state(file)


def test_a_tensor_of_more_numbers_than_the_file_holds_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pth")
    with pytest.raises(ReadError, match=r"'a' is \(1000000, 1000000\), more numbers than"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "holds no state_dict of tensors"),
        ({"a": 1}, "'a' is of type int"),
        ({1: torch.ones(1)}, "'1' is not the name of one"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a' is not a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "'a' is not a dense tensor"),
        ({"a": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])}, "'a' is not a dense tensor"),
    ],
)
def test_what_is_no_state_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ReadError, match=said):
        read_state(tmp_path / "a.pth")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "x", "cannot be read"),
    ):
        with pytest.raises(ReadError, match=said):
            read(path)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_file_is_one_sentence_or_tensors(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("damaged") / "a.pth"
    stream = io.BytesIO()
    zipped = data.draw(st.booleans())
    torch.save({"state_dict": WEIGHTS, "n": Counter("a")}, stream, _use_new_zipfile_serialization=zipped)
    content = bytearray(stream.getvalue())
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=9)
    ):
        content[at] = byte
    file.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_state(file).tensors.values())
    except ReadError as error:
        said = str(error)
    else:
        said = ""
    assert len(said.splitlines()) <= 1
    assert not said or said.isprintable()


def test_pickles_of_no_dictionary_do_not_pass_as_files_of_torchs(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Call(os.system, f"touch {tmp_path / 'ran'}"), protocol=2))
    (tmp_path / "b.pt").write_bytes(b"junk")
    for name, said in (("a.pt", "holds no plain tensors"), ("b.pt", r"\(torch\.save writes no such file\)")):
        with pytest.raises(ReadError, match=said):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()
