"""What a user can get wrong, and the sentence that comes back; LoRA; where things are placed."""

from __future__ import annotations

import json
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
from vhsbench.generators import SPECS, RegistryError
from vhsbench.generators.checks import as_device, check_memory, needed_bytes
from vhsbench.generators.hub import cached_if_unreachable, reachable, resolve, weights_state
from vhsbench.generators.protocol import GeneratorError

FLUX = "black-forest-labs/FLUX.1-schnell"
PROMPTS = ["a photo of a red circle", "a photo of two stars"]


def sana(small, **options):
    return generators.create(
        "sana-sprint", weights=small("sana-sprint"), dtype="float32", resolution=32, **options
    )


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
        started = time.monotonic()
        assert not reachable()
        with pytest.raises(GeneratorError, match="and the hub cannot be reached; connect once"):
            generators.create("flux-schnell")
        assert time.monotonic() - started < 10  # the client's own retries take 23 s


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
    release = threading.Event()

    class Stuck:  # as a host with many addresses that drop packets
        def head(self, url, **_):
            asked.put(url)
            release.wait(60)

    as_hub(monkeypatch, "http://stuck.example")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(huggingface_hub, "get_session", Stuck)
    started = time.monotonic()
    assert not reachable()
    assert not reachable()
    assert time.monotonic() - started < 30
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
        (401, {}, "'black-forest-labs/FLUX.1-schnell' cannot be had: the hub refused your token (401); log in with 'hf auth login' or set HF_TOKEN."),
        (401, {"X-Error-Code": "RepoNotFound"}, "the hub has no repository 'black-forest-labs/FLUX.1-schnell', or it is private and your token may not read it."),
        (403, {"X-Error-Code": "GatedRepo"}, "'black-forest-labs/FLUX.1-schnell' is gated: accept its licence on the hub, then log in with 'hf auth login' or set HF_TOKEN."),
        (403, {}, "'black-forest-labs/FLUX.1-schnell' cannot be had: your token may not read it (403); ask its owner, or use another token."),
        (404, {"X-Error-Code": "RepoNotFound"}, "the hub has no repository 'black-forest-labs/FLUX.1-schnell', or it is private and your token may not read it."),
        (404, {"X-Error-Code": "RevisionNotFound"}, "'black-forest-labs/FLUX.1-schnell' has no revision 'main'."),
        (404, {"X-Error-Code": "EntryNotFound"}, "'black-forest-labs/FLUX.1-schnell' is not a diffusers pipeline: no model_index.json."),
        (429, {}, "'black-forest-labs/FLUX.1-schnell' cannot be had: the hub takes no more requests for now (429); wait some minutes, or log in."),
        (500, {}, "'black-forest-labs/FLUX.1-schnell' cannot be had: the hub has a fault of its own (500); try again later."),
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


def test_a_wrong_folder(small, tmp_path):
    with pytest.raises(GeneratorError, match=r"is not a pipeline folder: it has no model_index.json"):
        generators.create("flux-schnell", weights=tmp_path)
    with pytest.raises(GeneratorError, match="holds a SanaPipeline, but a FluxPipeline is needed"):
        generators.create("flux-schnell", weights=small("sana-1.5"))
    with pytest.raises(GeneratorError, match=r"'./nowhere' is no folder here and no hub id"):
        generators.create("flux-schnell", weights="./nowhere")
    (tmp_path / "model_index.json").write_text(json.dumps(
        {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}))  # fmt: skip
    with pytest.raises(GeneratorError, match="cannot be loaded as a FluxPipeline"):
        generators.create("flux-schnell", weights=tmp_path)


def test_a_device_that_is_none_or_not_here(monkeypatch):
    with pytest.raises(GeneratorError, match=r"unknown device 'tpu'; known: cpu, cuda"):
        generators.create("nano", device="tpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert as_device("cuda:1").index == 1
    with pytest.raises(GeneratorError, match=r"no device 'cuda:2' here: torch finds 2 GPUs"):
        generators.create("nano", device="cuda:2")


def test_not_enough_gpu_memory_is_said_before_loading(monkeypatch):
    needed = needed_bytes(SPECS["flux-schnell"], 2)
    assert needed == 2 * SPECS["flux-schnell"].total_parameters
    assert needed_bytes(SPECS["flux-schnell"], 2, text_encoders=False) < needed
    check_memory("flux-schnell", needed, needed)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("vhsbench.generators.loading.free_bytes", lambda device: 24_000_000_000)
    with pytest.raises(GeneratorError, match=r"its weights need 33.7 GB and 24.0 GB are free"):
        generators.create("flux-schnell", device="cuda")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 100}, "a side is a multiple of 32, such as 96 or 128"),
        ({"resolution": 0}, "needs at least 32 pixels"),
        ({"steps": 0}, "steps is 0, but sana-sprint makes an image in 1 to 30 steps"),
        ({"steps": "two"}, "steps is 'two'"),
        ({"steps": True}, "steps is True"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat'; did you mean 'bfloat16'"),
        ({"device": "meta", "weights": None}, "say weights='random'"),
    ],
)
def test_options_out_of_range(options, sentence):
    with pytest.raises(GeneratorError, match=sentence):
        generators.create("sana-sprint", **{"weights": "random", "device": "meta"} | options)


def test_sizes_and_steps_that_a_family_cannot_do(small):
    with pytest.raises(GeneratorError, match="pixart-alpha-dmd makes an image in 1 step only"):
        generators.create("pixart-alpha-dmd", weights="random", steps=2)
    with pytest.raises(GeneratorError, match=r"its positions end at 3072 pixels"):
        generators.create("sd3.5-turbo", weights="random", resolution=4096)
    with pytest.raises(GeneratorError, match=r"its positions end at 64 pixels"):
        generators.create("sd3.5-turbo", weights=small("sd3.5-turbo"), resolution=128)
    with pytest.raises(GeneratorError, match="a side is a multiple of 4"):
        generators.create("flux-schnell", weights=small("flux-schnell"), resolution=34)
    with pytest.raises(GeneratorError, match=r"guidance_scale is at most 1, not 4.5"):
        generators.create("pixart-alpha-dmd", weights="random", device="meta", guidance_scale=4.5)
    with pytest.raises(GeneratorError, match="its weights are bundled"):
        generators.create("nano", weights="random")
    with pytest.raises(RegistryError, match="has no option 'stepps'; did you mean 'steps'"):
        generators.create("flux-schnell", stepps=2)


def test_a_block_out_of_range(small):
    generator = generators.create("flux-schnell", weights=small("flux-schnell"), resolution=32)
    with pytest.raises(GeneratorError, match="block 4 is out of range: the DiT has blocks 0 to 3"):
        generator.head(generator.encode(PROMPTS[:1]), generator.noise([0]), 4)


def test_the_dtype_is_the_models(small):
    generator = generators.create("flux-schnell", weights=small("flux-schnell"), resolution=32)
    assert {p.dtype for p in generator.pipeline.transformer.parameters()} == {torch.bfloat16}
    latents = generator.denoise(generator.encode(PROMPTS), generator.noise([0, 1]))
    assert len(generator.decode(latents)) == 2


def test_freed_text_encoders_leave_what_was_encoded(small):
    generator = sana(small)
    cond, noise = generator.encode(PROMPTS), generator.noise([3, 4])
    before = generator.denoise(cond, noise)
    generator.free_text_encoders()
    assert generator.pipeline.text_encoder is None
    assert torch.equal(generator.denoise(cond, noise), before)
    with pytest.raises(GeneratorError, match="the text encoders were freed"):
        generator.encode(["a blue square"])


def test_text_encoders_elsewhere_are_not_seen_by_the_denoising_pipeline(small):
    here, apart = sana(small), sana(small, text_encoder_device="cpu:0")  # another name counts as elsewhere
    cond, noise = here.encode(PROMPTS), here.noise([3, 4])
    for _ in range(2):
        assert apart.pipeline.text_encoder is None
        other = apart.encode(PROMPTS)
        assert all(torch.equal(t, other.tensors[n]) for n, t in cond.tensors.items())
    assert torch.equal(apart.denoise(other, noise), here.denoise(cond, noise))


@pytest.fixture(scope="module")
def lora(small, tmp_path_factory):
    """A LoRA for the small SANA-Sprint that changes its images."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("lora")
    pipeline = sana(small).pipeline
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, parameter in pipeline.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    pipeline.save_lora_weights(folder, get_peft_model_state_dict(pipeline.transformer))
    return folder


def test_a_lora_is_applied_at_its_strength(small, lora):
    plain = sana(small)
    cond, noise = plain.encode(PROMPTS), plain.noise([3, 4])
    base = plain.denoise(cond, noise)
    off, on = sana(small, lora=lora, lora_strength=0.0), sana(small, lora=lora)
    torch.testing.assert_close(off.denoise(cond, noise), base)
    changed = on.denoise(cond, noise)
    assert (changed - base).abs().max() > 1e-3
    file = sana(small, lora=next(lora.glob("*.safetensors")), lora_strength=1.0)
    assert torch.equal(file.denoise(cond, noise), changed)
    plain.pipeline.load_lora_weights(lora)  # beside the weights, where it is merged into them
    torch.testing.assert_close(plain.denoise(cond, noise), changed, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in on.pipeline.transformer.named_modules())
    assert torch.equal(on.tail(on.head(cond, noise, 1)), changed)


@pytest.mark.parametrize("name", ["flux-schnell", "sd3.5-turbo"])
def test_other_families_take_a_lora_too(small, tmp_path, name):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    options = {"weights": small(name), "resolution": 32, "dtype": "float32"}
    plain = generators.create(name, **options)
    cond, noise = plain.encode(PROMPTS), plain.noise([3, 4])
    base = plain.denoise(cond, noise)
    transformer = plain.pipeline.transformer
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    plain.pipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(transformer))
    moved = generators.create(name, **options, lora=tmp_path)
    changed = moved.denoise(cond, noise)
    assert (changed - base).abs().max() > 1e-3
    torch.testing.assert_close(plain.denoise(cond, noise), changed, atol=1e-4, rtol=1e-3)
    assert torch.equal(moved.tail(moved.head(cond, noise, 1)), changed)


def test_a_lora_that_is_not_there_or_does_not_fit(small, lora, tmp_path):
    with pytest.raises(GeneratorError, match="flux-schnell: no LoRA is bundled for it; give lora a folder"):
        generators.create("flux-schnell", weights=small("flux-schnell"), lora="bundled")
    with pytest.raises(GeneratorError, match="there are no LoRA weights at"):
        sana(small, lora=tmp_path / "none")
    with pytest.raises(GeneratorError, match="diffusers has no LoRA for PixArtAlphaPipeline"):
        generators.create("pixart-alpha-dmd", weights=small("pixart-alpha-dmd"), resolution=32, lora=lora)
    with pytest.raises(GeneratorError, match="does not fit"):
        sana(small, lora=tmp_path)


def test_the_source_says_what_was_loaded(small, lora, nano):
    assert nano.info().source == "bundled"
    assert sana(small).info().source == str(small("sana-sprint"))
    assert sana(small, lora=lora, lora_strength=0.5).info().source.endswith(f" with LoRA {lora} at 0.5")


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
