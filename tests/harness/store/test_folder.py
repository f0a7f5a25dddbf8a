"""Runs on object stores: memory://, and S3 served on this machine by moto."""

from __future__ import annotations

import os
import socket
import uuid
from typing import ClassVar

import fsspec
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.store.folder import Folder, StorageError, local_copy
from vhsbench.harness.store.tables import RunStore, StoreError, load_run
from vhsbench.harness.sweep.run import local, run
from vhsbench.harness.sweep.status import status


@pytest.fixture
def memory():
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def s3(monkeypatch):
    """A bucket on an S3 server of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (the extra vhsbench[test]): S3 is untested")
    server = pytest.importorskip(
        "moto.server", reason="moto is not installed (vhsbench[test]): S3 is untested"
    )
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    threaded.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    host, port = threaded.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("runs")
    yield "s3://runs/run"
    threaded.stop()


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_run_on_an_object_store_has_the_same_tables(faults, tmp_path, request, kind):
    url = request.getfixturevalue(kind)
    whole = faults.tables(run(faults.config(), tmp_path / "local"))

    def interrupted(config, prompts, todo):
        yield from local(config, prompts, todo[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(faults.config(), url, engine=interrupted)
    assert status(url)["state"] == "stopped"
    with pytest.raises(StoreError, match="not finished"):
        load_run(url)
    damaged = Folder(url).names("shards/candidates", ".parquet")[0]
    Folder(url).write(f"shards/candidates/{damaged}.parquet", b"PAR1")
    done = []
    assert run(faults.config(), url, lambda what, d, of: done.append((d, of))) == url
    assert done[0] == (2, 6)
    assert status(url)["state"] == "complete"
    with local_copy(url) as folder:
        assert faults.tables(folder) == whole
        assert not (folder / "shards").exists()
        (folder / "tables").mkdir()
        (folder / "tables" / "new.csv").write_text("a\n")
    assert Folder(url).read("tables/new.csv") == b"a\n"
    pd.testing.assert_frame_equal(load_run(url).scores, load_run(tmp_path / "local").scores)


def test_an_unknown_kind_of_url_is_one_sentence():
    with pytest.raises(StorageError, match=r"nosuch://x cannot be used: .*nosuch"):
        Folder("nosuch://x")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_names_stay_inside(tmp_path, name):
    folder = Folder(tmp_path)
    for act in (folder.read, folder.exists, folder.remove, lambda n: folder.write(n, b"")):
        with pytest.raises(StorageError, match="would leave"):
            act(name)


ACTS = {
    "read": lambda folder: folder.read("run.json"),
    "written": lambda folder: folder.write("run.json", b"{}"),
    "looked for": lambda folder: folder.exists("run.json"),
}


@pytest.mark.parametrize("doing", ACTS)
def test_a_store_that_refuses_is_one_sentence(monkeypatch, doing):
    pytest.importorskip("s3fs", reason="s3fs is not installed (the extra vhsbench[test]): S3 is untested")
    with socket.socket() as taken:  # a port that nothing listens at
        taken.bind(("127.0.0.1", 0))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr("time.sleep", lambda _: None)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # another test's endpoint
        with pytest.raises(StorageError) as error:
            ACTS[doing](Folder("s3://runs/refused"))
    assert str(error.value).startswith(
        f"s3://runs/refused/run.json cannot be {doing}: EndpointConnectionError: "
    )
    assert endpoint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("doing", ACTS)
def test_a_store_without_permission_is_not_an_empty_one(memory, monkeypatch, doing):
    def refuse(*_args, **_kwargs):
        raise PermissionError("Access Denied")

    folder = Folder(memory)
    for act in ("info", "cat_file", "pipe_file"):
        monkeypatch.setattr(folder.fs, act, refuse)
    with pytest.raises(StorageError, match=f"/run.json cannot be {doing}: PermissionError: Access Denied"):
        ACTS[doing](folder)


def test_a_file_that_is_none_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(StorageError, match=r"/run.json is a pipe, not a regular file"):
        Folder(tmp_path).read("run.json")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "memory://run",
            "memory://run is in this process's memory and would be lost with it; give a folder or another URL.",
        ),
        ("zip:///nowhere/runs.zip", "zip:///nowhere/runs.zip cannot be used: "),
        ("tar:///nowhere/runs.tar", "tar:///nowhere/runs.tar cannot be used: "),
        (
            "zip://run::/nowhere/runs.zip",
            "is a chain of file systems; give the folder or URL that it ends in.",
        ),
        ("simplecache::memory://run", "is a chain of file systems"),
        ("reference://run", "cannot be used: this kind of file system needs more than a URL."),
        ("data:text/plain,abc", "cannot be written: ValueError: Read only filesystem."),
        ("http://127.0.0.1:9/run", "cannot be written: "),
        ("nope://run", "nope://run cannot be used: Protocol not known: nope."),
    ],
)
def test_where_a_run_cannot_be_kept_is_told_before_anything_is_loaded(url, said, tmp_path, monkeypatch):
    from vhsbench import generators

    monkeypatch.setattr(generators, "create", lambda *_, **__: pytest.fail("a generator was loaded"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "nano", "--out", url])
    assert isinstance(result.exception, StorageError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


class Forgets(MemoryFileSystem):
    """Takes files, and keeps none."""

    protocol = "forgets"
    store: ClassVar[dict[str, object]] = {}

    def cat_file(self, path, **options):
        return b""


class ReadOnly(MemoryFileSystem):
    protocol = "readonly"
    store: ClassVar[dict[str, object]] = {}

    def pipe_file(self, path, value, **options):
        raise PermissionError(f"Access Denied: {path}")


def test_storage_is_tried_with_a_small_file_which_is_removed(memory):
    fsspec.register_implementation("forgets", Forgets, clobber=True)
    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    with pytest.raises(StorageError, match="forgets://run does not keep what is written to it"):
        RunStore("forgets://run", {})
    with pytest.raises(
        StorageError,
        match=r"readonly://run/.vhsbench-[0-9a-f]{32} cannot be written: PermissionError: Access Denied: .*/\.vhsbench-",
    ):
        RunStore("readonly://run", {})
    RunStore(memory, {}).close()
    assert [f.rsplit("/", 1)[-1] for f in Folder(memory).fs.find(Folder(memory).root)] == ["run.json"]


def test_a_file_is_read_in_blocks_up_to_its_size_and_no_further(memory):
    folder = Folder(memory)
    folder.write_blocks("a/b", [b"01", b"234"])
    assert folder.sizes() == {"a/b": 5}
    assert b"".join(folder.blocks("a/b", 5)) == b"01234"
    with pytest.raises(StorageError, match=r"run/a/b has more than 4 bytes\.$"):
        b"".join(folder.blocks("a/b", 4))
    assert Folder(f"{memory}-not-there").sizes() == {}
