"""The hub: what it answers, what it refuses, where it does not answer, and what is cached."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest
import torch

from vhsbench import generators
from vhsbench.generators import SPECS
from vhsbench.generators.hub import cached_if_unreachable, reachable, resolve, weights_state
from vhsbench.generators.protocol import GeneratorError

FLUX = "black-forest-labs/FLUX.1-schnell"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def as_hub(monkeypatch, endpoint: str) -> None:
    """Have the client, not offline, think `endpoint` the hub, of which nothing is known yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr("vhsbench.generators.hub._known", {})


def test_no_network_and_not_cached(offline):
    with pytest.raises(GeneratorError, match=r"FLUX.1-schnell' \(revision 'main'\) is not in the hub cache"):
        generators.create("flux-schnell")
    assert weights_state(SPECS["flux-schnell"]).startswith("not in the hub cache")
    assert weights_state(SPECS["nano"]) == "ready"


def test_a_cached_model_is_resolved_to_its_commit_without_a_network(offline):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--black-forest-labs--FLUX.1-schnell"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "model_index.json").write_text("{}")
    assert resolve(FLUX, "main") == commit
    assert weights_state(SPECS["flux-schnell"]) == "in the hub cache"


def test_a_hub_that_does_not_answer_is_told_at_once(tmp_path, monkeypatch):
    with socket.socket() as taken:  # a port that nothing listens at
        taken.bind(("127.0.0.1", 0))
        as_hub(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)  # the client's, between tries
        assert not reachable()
        with pytest.raises(GeneratorError, match="and the hub cannot be reached; connect once"):
            generators.create("flux-schnell")
        assert pauses == []


def test_a_library_that_asks_the_hub_itself_sees_only_the_cache_meanwhile(monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for answers in (True, False):
        monkeypatch.setattr("vhsbench.generators.hub.reachable", lambda answers=answers: answers)
        with cached_if_unreachable():
            assert huggingface_hub.constants.HF_HUB_OFFLINE is not answers
            logging.getLogger("library").error("said with the hub there" if answers else "said without")
        assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert caplog.messages == ["said with the hub there"]


@pytest.mark.parametrize("status", [200, 302, 503])
def test_a_hub_that_answers_is_reachable_whatever_it_says(monkeypatch, status):
    with socket.socket() as taken, HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        taken.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{taken.getsockname()[1]}/"  # where nothing listens

        class Answers(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.send_header("Location", elsewhere)
                self.end_headers()

            def log_message(self, *_):
                """Nothing on the terminal."""

        server.RequestHandlerClass = Answers
        threading.Thread(target=server.serve_forever, daemon=True).start()
        as_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        assert reachable()
        server.shutdown()


def test_a_hub_is_asked_once_and_not_waited_for_longer_than_the_clients_timeout(monkeypatch):
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    release, answered = threading.Event(), threading.Event()

    class Stuck:  # as a host with many addresses that drop packets
        def head(self, url, **_):
            asked.put(url)
            release.wait(60)
            answered.set()

    as_hub(monkeypatch, "http://stuck.example")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(huggingface_hub, "get_session", Stuck)
    assert not reachable()
    assert not reachable()
    assert not answered.is_set()
    assert asked.get(timeout=60) == "http://stuck.example"
    assert asked.empty()
    release.set()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 60)
    monkeypatch.setattr("vhsbench.generators.hub._KNOWN_FOR_S", -1.0)  # a minute later
    assert reachable()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("GatedRepoError", "is gated: accept its licence on the hub, then log in"),
        ("RepositoryNotFoundError", "the hub has no repository"),
        ("RevisionNotFoundError", "has no revision 'main'"),
        ("RemoteEntryNotFoundError", "is not a diffusers pipeline: no model_index.json"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, sentence):
    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_args, **_kwargs):
        raise kind.__new__(kind)  # without the response, which differs between the hub's versions

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(GeneratorError, match=sentence):
        generators.create("flux-schnell")


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (401, {}, "'black-forest-labs/FLUX.1-schnell' is not available: the hub refused your token (401); log in with 'hf auth login' or set HF_TOKEN."),
        (401, {"X-Error-Code": "RepoNotFound"}, "the hub has no repository 'black-forest-labs/FLUX.1-schnell', or it is private and your token may not read it."),
        (403, {"X-Error-Code": "GatedRepo"}, "'black-forest-labs/FLUX.1-schnell' is gated: accept its licence on the hub, then log in with 'hf auth login' or set HF_TOKEN."),
        (403, {}, "'black-forest-labs/FLUX.1-schnell' is not available: your token may not read it (403); ask its owner, or use another token."),
        (404, {"X-Error-Code": "RepoNotFound"}, "the hub has no repository 'black-forest-labs/FLUX.1-schnell', or it is private and your token may not read it."),
        (404, {"X-Error-Code": "RevisionNotFound"}, "'black-forest-labs/FLUX.1-schnell' has no revision 'main'."),
        (404, {"X-Error-Code": "EntryNotFound"}, "'black-forest-labs/FLUX.1-schnell' is not a diffusers pipeline: no model_index.json."),
        (429, {}, "'black-forest-labs/FLUX.1-schnell' is not available: the hub takes no more requests for now (429); wait some minutes, or log in."),
        (500, {}, "'black-forest-labs/FLUX.1-schnell' is not available: the hub failed (500); try again later."),
    ],
)  # fmt: skip
def test_what_a_hub_answers_is_told_as_what_it_is(monkeypatch, tmp_path, status, headers, sentence):
    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            """Nothing on the terminal."""

    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client's pauses between tries
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = f"http://127.0.0.1:{server.server_port}"
        as_hub(monkeypatch, hub)
        # the client knows its hub's address from when it was imported
        monkeypatch.setattr("huggingface_hub.file_download.hf_hub_url", lambda *_, **__: f"{hub}/file")
        with pytest.raises(GeneratorError) as error:
            generators.create("flux-schnell")
        server.shutdown()
    assert str(error.value) == sentence


def test_a_hub_that_takes_too_long_is_told_as_such(monkeypatch):
    def slow(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache") from TimeoutError("read")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", slow)
    with pytest.raises(GeneratorError, match="the hub took too long to answer; try again, or connect once"):
        generators.create("flux-schnell")


def test_an_error_that_is_not_the_hubs_is_not_told_as_the_hubs(monkeypatch):
    def bug(*_args, **_kwargs):
        raise KeyError("ours")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", bug)
    with pytest.raises(KeyError, match="ours"):
        generators.create("flux-schnell")


def cached(folder, cache, hub_id=FLUX, commit="0123456789abcdef0123456789abcdef01234567"):
    """A folder as the hub client keeps it: a snapshot of links to blobs. Returns the commit."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    for number, file in enumerate(f for f in sorted(folder.rglob("*")) if f.is_file()):
        blob, link = (
            repository / "blobs" / f"{number:040x}",
            repository / "snapshots" / commit / file.relative_to(folder),
        )
        shutil.copy(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return commit


def test_a_hub_model_is_loaded_at_one_commit_which_is_remembered(small, offline, monkeypatch):
    commit, asked = cached(small("flux-schnell"), offline), []
    find, fetch = generators.loading.resolve, generators.loading.download
    monkeypatch.setattr(
        "vhsbench.generators.loading.resolve",
        lambda hub_id, revision: asked.append(revision) or find(hub_id, revision),
    )
    monkeypatch.setattr(
        "vhsbench.generators.loading.download",
        lambda hub_id, revision, name: asked.append((hub_id, revision)) or fetch(hub_id, revision, name),
    )
    generator = generators.create("flux-schnell", resolution=32, revision="v2", dtype="float32")
    assert asked == ["v2", (FLUX, commit)]
    assert generator.revision == commit
    assert generator.info().source == f"{FLUX}@{commit}"
    local = generators.create("flux-schnell", weights=small("flux-schnell"), resolution=32, dtype="float32")
    theirs, ours = (g.pipeline.transformer.state_dict() for g in (generator, local))
    assert all(torch.equal(theirs[k], ours[k]) for k in ours)
