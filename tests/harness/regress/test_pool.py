"""A frozen pool: what it keeps, that damage is found, and that its manifest leads nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save

from vhsbench import verifiers
from vhsbench.generators.noise import candidate_seed
from vhsbench.generators.sana import SanaSprint
from vhsbench.harness.config.run import parse
from vhsbench.harness.inference.candidates import CandidateError
from vhsbench.harness.regress.pool import MANIFEST, PoolError, kinds_to_keep, load_pool, make_pool
from vhsbench.harness.regress.scores import pool_candidates, score_pool
from vhsbench.verifiers.checks import ScoresError
from vhsbench.verifiers.nano import WEIGHTS

BLOCK = json.loads((WEIGHTS / "vhs" / "verifier.json").read_text())["block"]  # that the bundled VHS reads


@pytest.fixture
def copy(pool, tmp_path):
    return shutil.copytree(pool.path, tmp_path / "copy")


def edit(path, change):
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_holds_what_the_generator_made(pool, nano):
    assert len(pool.candidates) == 48 * 6
    assert pool.manifest.blocks == [BLOCK]
    texts, hidden = next(pool.batches("hidden", BLOCK))
    latents, images = next(pool.batches("latents", None))[1], next(pool.batches("images", None))[1]
    noise = nano.noise([candidate_seed(0, p, i) for p in range(4) for i in range(6)])
    made = nano.head(nano.encode(texts), noise, BLOCK)
    torch.testing.assert_close(hidden, made.features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents, nano.tail(made), atol=1e-4, rtol=1e-4)
    exact = np.asarray(nano.decode(latents)[5]).astype(int)
    assert np.abs(exact - np.asarray(images[5]).astype(int)).max() <= 1
    assert texts[7] == pool.prompts[1]["prompt"]


def test_says_what_made_it_by_content(pool):
    made = pool.manifest.identity
    assert len(made["generator"]["weights"]["sha256"]) == len(made["prompts"]) == 64
    assert made["detector"]["name"] == "shapes"


@pytest.mark.parametrize("change", [lambda m: m.update(size=5), lambda m: m.update(seeds=[1])])
def test_candidates_that_are_not_the_manifests_are_refused(copy, change):
    edit(copy, change)
    with pytest.raises(
        PoolError,
        match=r"candidates\.parquet .* the \d candidates of each prompt and seed that manifest\.json",
    ):
        load_pool(copy)


def test_loads_the_same_twice(pool):
    again = load_pool(pool.path)
    assert again.sha256 == pool.sha256
    assert (pool_candidates(again).correct == pool_candidates(pool).correct).all()


@pytest.mark.parametrize(
    "name", ["candidates.parquet", "prompts.jsonl", f"hidden_block={BLOCK}/000024.safetensors"]
)
def test_damage_is_found_and_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(PoolError, match="is damaged") as error:
        load_pool(copy)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_lost_file_and_a_torn_manifest(copy):
    (copy / "images/000003.png").unlink()
    with pytest.raises(PoolError, match=r"lacks its file 'images/000003\.png'"):
        load_pool(copy)
    (copy / MANIFEST).write_text("{")
    with pytest.raises(PoolError, match=r"manifest\.json: not JSON"):
        load_pool(copy)
    (copy / MANIFEST).write_text("{}")
    with pytest.raises(PoolError, match=r"manifest\.json is damaged: generator"):
        load_pool(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(PoolError, match="is not a pool"):
        load_pool(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "images/../../secret", "a\\..\\b"])
def test_a_manifest_leads_nowhere_else(copy, name):
    (copy.parent / "secret").write_text("x")
    edit(copy, lambda m: m["files"].update({name: {"sha256": "0" * 64, "size": 1}}))
    with pytest.raises(PoolError, match="not inside the pool"):
        load_pool(copy)


def test_a_link_leads_nowhere_else(copy):
    secret = copy.parent / "secret"
    (copy / "images/000000.png").replace(secret)
    os.symlink(secret, copy / "images/000000.png")
    with pytest.raises(PoolError, match="leads out of the pool"):
        load_pool(copy)


def test_an_unknown_version_is_refused(copy):
    edit(copy, lambda m: m.update(format=2))
    with pytest.raises(PoolError, match="format"):
        load_pool(copy)


def test_a_pool_is_never_overwritten_and_a_failed_one_leaves_nothing(pool, tmp_path):
    config = parse("generators: [{name: nano}]\nprompts: {limit: 2}\npool: 1\n", "x.yaml")
    with pytest.raises(PoolError, match="exists already"):
        make_pool(config, pool.path)
    with pytest.raises(PoolError, match="the configuration has none"):
        make_pool(config, tmp_path / "none", ["hidden"])
    assert list(tmp_path.iterdir()) == []


def test_half_precision_and_what_is_not_kept(tmp_path):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nprompts: {limit: 2}\npool: 2\nseeds: [1, 0]\n",
        "x.yaml",
    )
    made = make_pool(config, tmp_path / "pool", ["hidden"], "float16")
    assert (made.manifest.dtype, made.manifest.seeds, len(made.candidates)) == ("float16", [0, 1], 8)
    assert made.image(0) is None
    candidates = pool_candidates(made)
    assert candidates.seed.tolist() == [0, 1, 0, 1]
    assert score_pool(verifiers.create("vhs"), "vhs", made).score.shape == (4, 2)
    with pytest.raises(PoolError, match=f"keeps hidden states of block {BLOCK}, not latents"):
        score_pool(verifiers.create("mllm-ae"), "mllm-ae", made)
    with pytest.raises(PoolError, match=f"not hidden states of block {BLOCK - 1}"):
        next(made.batches("hidden", BLOCK - 1))


def test_kinds_to_keep():
    assert kinds_to_keep(None) is None
    assert kinds_to_keep(["images", "images"]) == ["images"]
    with pytest.raises(PoolError, match="not 'pixels'"):
        kinds_to_keep(["pixels"])


def test_a_candidate_that_is_not_finite_is_not_frozen(tmp_path, monkeypatch):
    original = SanaSprint.denoise
    seen = []

    def spoiled(self, cond, noise):
        latents = original(self, cond, noise).clone()
        seen.extend(cond.prompts)
        latents[-1, 0, 0, 0] = torch.nan
        return latents

    monkeypatch.setattr(SanaSprint, "denoise", spoiled)
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: mllm-ae}]\n"
        "prompts: {source: nano, split: validation, limit: 2}\npool: 3\nbatch_size: 2\n",
        "pool.yaml",
    )
    with pytest.raises(
        CandidateError, match=r"the latents of candidate 1 of prompt 0 \('.*'\), seed 0, by"
    ) as error:
        make_pool(config, tmp_path / "pool")
    assert f"('{seen[1]}')" in str(error.value)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("odd", [torch.full((24, 1), torch.nan), torch.zeros(24, 1, dtype=torch.int64)])
def test_features_that_are_not_finite_floats_are_refused(copy, odd):
    name = f"hidden_block={BLOCK}/000024.safetensors"
    data = save({"features": odd})
    (copy / name).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda m: m["files"][name].update(sha256=sha256, size=len(data)))
    with pytest.raises(PoolError, match=r"000024\.safetensors is not a file of features: .* finite floats"):
        list(load_pool(copy).batches("hidden", BLOCK))


def test_a_score_that_is_not_finite_is_reported_with_its_candidate(pool, monkeypatch):
    verifier = verifiers.create("vhs")
    original = verifier.score
    seen = []

    def spoiled(prompts, features):
        found = original(prompts, features)
        seen.extend(prompts)
        if len(seen) > 24:  # the second batch: prompts 4 to 7
            with torch.inference_mode():
                found.score[7] = torch.inf
        return found

    monkeypatch.setattr(verifier, "score", spoiled)
    text = pool.prompts[5]["prompt"]
    with pytest.raises(ScoresError) as error:
        score_pool(verifier, "vhs", pool)
    assert str(error.value) == (
        f"verifier 'vhs' gave candidate 1 of prompt 5 ('{text}'), seed 0, by generator 'nano' the score inf; "
        "a score is a finite number."
    )
