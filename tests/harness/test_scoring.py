from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import verifiers
from harness import cli
from harness.common.errors import VhsbenchError
from harness.scoring import ScoringError, load_inputs, score_all
from verifiers.checkpoint import save_checkpoint

PROMPTS = ["a photo of a star", "a photo of two rings", "a photo of a red circle"]


@pytest.fixture(scope="module")
def made(nano):
    """Three candidates of nano: images, hidden states after block 2, latents."""
    cond = nano.encode(PROMPTS)
    hidden = nano.head(cond, nano.noise([1, 2, 3]), 2)
    latents = nano.tail(hidden)
    return {"images": nano.decode(latents), "hidden": hidden.features, "latents": latents}


@pytest.fixture
def folder(tmp_path, made):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(made["images"]):
        image.save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "notes.md").write_text("not an image")
    for name in ("hidden", "latents"):
        save_file({"features": made[name].contiguous()}, tmp_path / f"{name}.safetensors")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"tag": "x", "prompt": p}) + "\n" for p in PROMPTS)
    )
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["score", *map(str, arguments)], catch_exceptions=True)


@pytest.mark.parametrize(
    ("verifier", "option", "source", "prompts", "out"),
    [
        ("mllm-clip", "--images", "images", "prompts.txt", "scores.parquet"),
        ("vhs", "--features", "hidden.safetensors", "prompts.jsonl", "deep/scores.csv"),
        ("mllm-ae", "--features", "latents.safetensors", "prompts.txt", "scores.csv"),
    ],
)
def test_scores_are_the_verifiers_own(folder, made, verifier, option, source, prompts, out):
    done = invoke(
        verifier,
        option,
        folder / source,
        "--prompts",
        folder / prompts,
        "--out",
        folder / out,
        "--batch-size",
        2,
    )
    assert done.exit_code == 0, done.exception
    file = folder / out
    found = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    assert list(found.columns) == ["index", "item", "prompt", "verifier", "p_yes", "p_no", "score"]
    assert found["prompt"].tolist() == PROMPTS
    read = made[{"mllm-clip": "images", "vhs": "hidden", "mllm-ae": "latents"}[verifier]]
    expected = verifiers.create(verifier).score(PROMPTS, read)
    for name in ("p_yes", "p_no", "score"):
        torch.testing.assert_close(
            torch.tensor(found[name].to_numpy()).float(), getattr(expected, name), atol=1e-4, rtol=1e-4
        )


def test_without_a_file_the_scores_are_printed(folder):
    done = invoke("mllm-clip", "--images", folder / "images", "--prompts", folder / "prompts.txt")
    lines = done.stdout.splitlines()
    assert lines[0] == "index,item,prompt,verifier,p_yes,p_no,score"
    assert lines[1].startswith("0,0.png,a photo of a star,mllm-clip,")
    assert len(lines) == 4


def test_a_checkpoint_and_its_statistics(folder, made):
    vhs = verifiers.create("vhs")
    mine = folder / "mine"
    pair = (vhs.tokens.mean, vhs.tokens.variance)
    save_checkpoint(mine, vhs.model, vhs.question.tokenizer, vhs.card, pair, torch.float32)
    (mine / "normalization.safetensors").unlink()
    done = invoke(
        "vhs", "--features", folder / "hidden.safetensors", "--prompts", folder / "prompts.txt",
        "--checkpoint", mine, "--normalization", *(mine / f"block_{vhs.block}_{s}.pt" for s in ("mean", "variance")),
        "--generator", "nano", "--out", folder / "scores.csv",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    found = torch.tensor(pd.read_csv(folder / "scores.csv")["score"].to_numpy()).float()
    torch.testing.assert_close(found, vhs.score(PROMPTS, made["hidden"]).score, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vhs", "--prompts", "prompts.txt"], "give either --images or --features"),
        (["vhs", "--images", "images", "--prompts", "prompts.txt"], "reads hidden, not images: give --features"),
        (["mllm-clip", "--features", "latents.safetensors", "--prompts", "prompts.txt"],
         "reads images, not features: give --images"),
        (["mllm-clip", "--images", "nowhere", "--prompts", "prompts.txt"], "nowhere is not a folder"),
        (["vhs", "--features", "nowhere", "--prompts", "prompts.txt"], "nowhere is not a file"),
        (["vhs", "--features", "prompts.txt", "--prompts", "prompts.txt"], "is not a safetensors file"),
        (["vhs", "--features", "latents.safetensors", "--prompts", "prompts.txt"], r"reads hidden, not a tensor"),
        (["vhs", "--features", "hidden.safetensors", "--prompts", "prompts.txt", "--out", "scores.txt"],
         "is a .parquet or a .csv file"),
        (["vhss", "--features", "hidden.safetensors", "--prompts", "prompts.txt"], "did you mean 'vhs'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(folder, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    error = invoke(*arguments).exception
    assert said in str(error)
    assert "\n" not in str(error)
    assert isinstance(error, VhsbenchError)


def test_prompts_that_do_not_fit_are_refused(folder):
    (folder / "two.txt").write_text("a\nb\n")
    with pytest.raises(ScoringError, match=r"2 prompts in .*two\.txt do not fit 3 images"):
        load_inputs(folder / "two.txt", folder / "images", None)
    (folder / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    with pytest.raises(ScoringError, match=r"bad\.jsonl, line 2: no JSON object with a text 'prompt'"):
        load_inputs(folder / "bad.jsonl", folder / "images", None)
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScoringError, match=r"bad\.txt, line 1: not text in UTF-8"):
        load_inputs(folder / "bad.txt", folder / "images", None)


def test_a_damaged_image_is_named(folder):
    whole = (folder / "images" / "1.png").read_bytes()
    (folder / "images" / "1.png").write_bytes(whole[: len(whole) // 2])
    inputs = load_inputs(folder / "prompts.txt", folder / "images", None)
    with pytest.raises(ScoringError, match=r"1\.png cannot be read"):
        score_all(verifiers.create("mllm-clip"), inputs, 8)


def test_features_of_another_width_or_name_are_refused(folder):
    save_file({"features": torch.zeros(3, 4, 99)}, folder / "narrow.safetensors")
    inputs = load_inputs(folder / "prompts.txt", None, folder / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"features of width 128, but was given \[3, 4, 99\]"):
        score_all(verifiers.create("vhs"), inputs, 8)
    save_file({"states": torch.zeros(3, 4, 99)}, folder / "other.safetensors")
    with pytest.raises(ScoringError, match="lacks a tensor 'features'; it holds 'states'"):
        load_inputs(folder / "prompts.txt", None, folder / "other.safetensors")
    save_file({"features": torch.zeros(3, 4)}, folder / "flat.safetensors")
    with pytest.raises(ScoringError, match=r"has shape \[3, 4\], not \[B, T, C\]"):
        load_inputs(folder / "prompts.txt", None, folder / "flat.safetensors")


def test_progress_begins_at_none_and_ends_at_all(folder):
    inputs = load_inputs(folder / "prompts.txt", None, folder / "latents.safetensors")
    seen = []
    score_all(verifiers.create("mllm-ae"), inputs, 2, lambda *counts: seen.append(counts))
    assert seen == [(0, 3), (2, 3), (3, 3)]
