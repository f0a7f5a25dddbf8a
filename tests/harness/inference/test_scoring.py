from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.harness import cli
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.inference.scoring import ScoringError, load_inputs, read_prompts, score_all
from vhsbench.verifiers.checkpoint import save_checkpoint
from vhsbench.verifiers.checks import ScoresError

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


@pytest.fixture
def seen(monkeypatch):
    """A verifier of images that notes what it is given."""
    given = []
    real = verifiers.create("mllm-clip")

    class Noting:
        name, needs = "noting", "images"

        def score(self, prompts, images):
            given.extend(zip(prompts, [np.asarray(i) for i in images], strict=True))
            return real.score(["a photo of a star"] * len(prompts), images)

    return given, Noting()


def test_a_picture_scores_the_same_in_every_depth_and_orientation(tmp_path, made):
    """The right values: those of its 8-bit, upright twin."""
    grey = np.asarray(made["images"][0].convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: shown turned right again
    (tmp_path / "images").mkdir()
    Image.fromarray(grey).save(tmp_path / "images" / "0.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "images" / "1.png")
    made["images"][1].save(tmp_path / "images" / "2.png")
    turned = made["images"][1].transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "images" / "3.png", exif=exif)
    (tmp_path / "prompts.txt").write_text("a photo of two rings\n" * 4, encoding="utf-8")
    out = tmp_path / "scores.csv"
    done = invoke(
        "mllm-clip", "--images", tmp_path / "images", "--prompts", tmp_path / "prompts.txt", "--out", out
    )
    assert done.exit_code == 0, done.exception
    scores = pd.read_csv(out)["score"].tolist()
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[2] == pytest.approx(scores[3], abs=1e-5)
    assert abs(scores[0] - scores[2]) > 1e-3


def test_pictures_pair_with_prompts_in_natural_order(tmp_path, seen):
    given, verifier = seen
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    for name in ("._0.png", ".DS_Store"):
        (tmp_path / "images" / name).write_bytes(b"hidden")
    (tmp_path / "prompts.txt").write_text("".join(f"{i}\n" for i in range(12)), encoding="utf-8")
    inputs = load_inputs(tmp_path / "prompts.txt", tmp_path / "images", None)
    assert inputs.ignored == ""
    scores = score_all(verifier, inputs, 5)
    assert [(prompt, int(image[0, 0, 0])) for prompt, image in given] == [(str(i), i) for i in range(12)]
    assert scores["item"].tolist() == [f"{i}.png" for i in range(12)]


def test_what_is_no_picture_is_said_and_two_of_a_name_are_refused(folder):
    done = invoke("mllm-clip", "--images", folder / "images", "--prompts", folder / "prompts.txt")
    assert done.stderr.splitlines()[0] == (
        f"ignored in {folder / 'images'}: 1 name that is no picture, first notes.md"
    )
    Image.new("RGB", (8, 8)).save(folder / "images" / "1.jpg")
    with pytest.raises(ScoringError, match=r"holds 1\.jpg and 1\.png; keep one picture of a name"):
        load_inputs(folder / "prompts.txt", folder / "images", None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("as_json", [False, True])
def test_prompts_are_the_same_however_their_file_is_written(tmp_path, end, mark, as_json):
    prompts = ["a photo of a star", "two lines\u2028in one\x0cand \u732b", "a"]
    rows = [json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts] if as_json else prompts
    (tmp_path / "p").write_bytes(mark + end.join([*rows, ""]).encode())
    assert read_prompts(tmp_path / "p") == prompts


def test_the_line_of_a_bad_prompt_counts_blank_lines(tmp_path):
    (tmp_path / "p.jsonl").write_text('\n{"prompt": "a"}\n\n{"prompt": 3}\n', encoding="utf-8")
    with pytest.raises(ScoringError, match=r"p\.jsonl, line 4: no JSON object with a text 'prompt'"):
        read_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.txt").write_text("a\n\n" + "x" * 10_001, encoding="utf-8")
    with pytest.raises(
        ScoringError, match=r"p\.txt, line 3: the prompt has 10,001 characters; at most 10,000"
    ):
        read_prompts(tmp_path / "p.txt")


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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.nan, "'features' has numbers in row 1 that are NaN or infinite"),
        (-torch.inf, "'features' has numbers in row 1 that are NaN or infinite"),
    ],
)
def test_features_that_are_no_numbers_are_refused_by_row(folder, made, value, said):
    odd = made["hidden"].clone()
    odd[1, 2, 3] = value
    save_file({"features": odd.contiguous()}, folder / "odd.safetensors")
    with pytest.raises(ScoringError, match=rf"odd\.safetensors: {said}"):
        load_inputs(folder / "prompts.txt", None, folder / "odd.safetensors")


def test_features_of_whole_numbers_are_refused(folder, made):
    save_file({"features": made["hidden"].long()}, folder / "odd.safetensors")
    with pytest.raises(ScoringError, match="'features' holds int64, not floats"):
        load_inputs(folder / "prompts.txt", None, folder / "odd.safetensors")


def test_a_score_that_is_no_number_is_told_with_its_picture(folder, monkeypatch):
    verifier = verifiers.create("mllm-clip")
    original = verifier.score

    def spoiled(prompts, images):
        found = original(prompts, images)
        with torch.inference_mode():
            found.score[-1] = torch.nan
        return found

    monkeypatch.setattr(verifier, "score", spoiled)
    inputs = load_inputs(folder / "prompts.txt", folder / "images", None)
    said = r"verifier 'mllm-clip' gave 1\.png .prompt 'a photo of two rings'. the score nan"
    with pytest.raises(ScoresError, match=said):
        score_all(verifier, inputs, batch_size=2)
