from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vhsbench import generators
from vhsbench.generators.noise import candidate_seed
from vhsbench.generators.sana import SanaSprint
from vhsbench.harness.cli import app
from vhsbench.harness.geneval.folders import FolderError
from vhsbench.harness.geneval.metadata import MetadataError
from vhsbench.harness.inference.candidates import CandidateError
from vhsbench.harness.inference.contact_sheet import contact_sheet


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_makes_the_same_images_whatever_the_count(tmp_path):
    prompt = "a photo of a red circle"
    one = json.loads(run("generate", "nano", prompt, "--out", tmp_path / "one", "--json"))
    three = run("generate", "nano", prompt, "-n", 3, "--out", tmp_path / "three").split()
    assert len(one["images"]) == 1
    assert [f[-8:] for f in three] == ["0000.png", "0001.png", "0002.png"]
    images = [Image.open(f).tobytes() for f in three]
    assert Image.open(one["images"][0]).tobytes() == images[0]
    assert len(set(images)) == 3
    other = json.loads(run("generate", "nano", prompt, "--seed", 1, "--out", tmp_path / "other", "--json"))
    assert Image.open(other["images"][0]).tobytes() not in images


@pytest.mark.parametrize("verifier", ["vhs", "mllm-ae", "mllm-clip"])
def test_best_of_n_shows_candidates_scores_and_the_winner(tmp_path, verifier):
    sheet = tmp_path / "sheet.png"
    printed = run("best-of-n", "nano", verifier, "a photo of two stars", "-n", 3, "--out", sheet, "--json")
    found = json.loads(printed)
    assert len(found["scores"]) == 3
    assert found["winner"] == max(range(3), key=found["scores"].__getitem__)
    assert Image.open(sheet).width > 3 * 224


def test_the_winner_alone_is_framed():
    images = [Image.new("RGB", (64, 64), "red") for _ in range(4)]
    sheet = contact_sheet(images, [0.1, 0.9, -0.2, 0.3], 1, "a prompt")
    greens = [
        x for x in range(sheet.width) for y in (sheet.height // 3,) if sheet.getpixel((x, y)) == (0, 130, 70)
    ]
    assert greens
    assert min(greens) > 224
    assert max(greens) < 2 * 236 + 24
    none = contact_sheet(images, [0.1, 0.9, -0.2, 0.3], -1, "a prompt")
    assert (0, 130, 70) not in {c for _, c in none.getcolors(1 << 20)}


def test_numbers_that_are_none_are_one_sentence_and_no_picture(tmp_path, monkeypatch):
    original = SanaSprint.pixels

    def spoiled(self, latents):
        pixels = original(self, latents)
        return pixels * torch.nan if latents[0, 0, 0, 0] != first else pixels

    nano = generators.create("nano")
    prompt = "a photo of a red circle"
    noise = nano.noise([candidate_seed(4, 0, 0)])
    first = nano.denoise(nano.encode([prompt]), noise)[0, 0, 0, 0]
    monkeypatch.setattr(SanaSprint, "pixels", spoiled)
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["generate", "nano", prompt, "-n", "3", "--seed", "4", "--out", str(out)])
    assert isinstance(said.exception, CandidateError)
    assert f"the pixels of candidate 1 of prompt 0 ('{prompt}'), seed 4, by generator 'nano'" in str(
        said.exception
    )
    assert [f.name for f in out.iterdir()] == ["0000.png"]


def test_a_strategy_picks_and_shows_what_it_drew(tmp_path):
    sheet = tmp_path / "sheet.png"
    text = "cascade:vhs>mllm-clip,n=4,k=2"
    found = json.loads(
        run("best-of-n", "nano", "a photo of two stars", "--strategy", text, "--out", sheet, "--json")
    )
    first, second = (found["scores"][v] for v in ("vhs", "mllm-clip"))
    assert sorted(first, key=first.get)[2:] == sorted(second, key=first.get)  # the best two by VHS
    assert str(found["winner"]) == max(second, key=second.get)
    plain = json.loads(
        run("best-of-n", "nano", "vhs", "a photo of two stars", "-n", 4, "--out", sheet, "--json")
    )
    assert list(first.values()) == pytest.approx(plain["scores"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nano", "a photo of two stars", "--strategy", "cascade:vhs>mllm-clip,n=4"], "cannot run without k"),
        (["nano", "vhs", "a photo of two stars", "--strategy", "stop:vhs,n=4,tau=1"], "there is a generator and a prompt"),
        (["nano", "vhs"], "the prompt is missing"),
    ],
)  # fmt: skip
def test_what_a_strategy_lacks_is_said(arguments, said):
    result = CliRunner().invoke(app, ["best-of-n", *arguments])
    assert result.exit_code != 0
    assert said in " ".join((result.output + str(result.exception)).replace("│", " ").split())


PROMPTS = [
    {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a photo of a red circle"},
    {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"},
]  # fmt: skip


def write_prompts(file, prompts=PROMPTS):
    file.write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return file


def refused(*arguments: object) -> str:
    with pytest.raises(FolderError) as error:
        CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return str(error.value)


def test_a_geneval_folder_is_read_back_and_judged(tmp_path):
    prompts, folder = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "images"
    asked = ("generate", "nano", "--geneval", folder, "--prompts", prompts, "-n", 2)
    assert json.loads(run(*asked, "--json")) == {"folder": str(folder), "prompts": 2, "made": 4, "resumed": 0}
    assert json.loads((folder / "00001/metadata.jsonl").read_text()) == PROMPTS[1]
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == [
        f"0000{prompt}/samples/000{i}.png" for prompt in (0, 1) for i in (0, 1)
    ]
    results = tmp_path / "results.jsonl"
    judged = run("geneval", "evaluate", folder, "--detector", "shapes", "--out", results, "--json")
    assert json.loads(judged)["evaluated"] == 4
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["tag"] for row in rows] == ["colors", "colors", "single_object", "single_object"]
    # the candidates of a run: prompt 0 is what `generate` makes of it, prompt 1 has noise of its own
    run("generate", "nano", PROMPTS[0]["prompt"], "-n", 2, "--out", tmp_path / "first")
    for i in range(2):
        assert (folder / f"00000/samples/000{i}.png").read_bytes() == (
            tmp_path / f"first/000{i}.png"
        ).read_bytes()
    painter = generators.create("nano")
    seeds = [candidate_seed(0, 1, 1)]
    (image,) = painter.decode(painter.denoise(painter.encode([PROMPTS[1]["prompt"]]), painter.noise(seeds)))
    assert Image.open(folder / "00001/samples/0001.png").tobytes() == image.tobytes()


def test_a_geneval_folder_resumes_and_grows(tmp_path):
    prompts, folder = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "images"
    asked = ("generate", "nano", "--geneval", folder, "--prompts", prompts)
    run(*asked, "-n", 2)
    before = {f: f.read_bytes() for f in folder.rglob("*.png")}
    gone = folder / "00001/samples/0000.png"
    gone.unlink()
    assert run(*asked, "-n", 3) == f"3 images of 2 prompts in {folder} (3 from before)\n"
    assert {f: f.read_bytes() for f in before} == before
    assert len(list(folder.rglob("*.png"))) == 6
    write_prompts(
        prompts, [*PROMPTS, {**PROMPTS[1], "include": [{"class": "ring", "count": 1}], "prompt": "a ring"}]
    )
    assert json.loads(run(*asked, "-n", 1, "--json"))["made"] == 1


def test_a_geneval_folder_of_something_else_is_not_mixed(tmp_path):
    prompts, folder = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "images"
    asked = ("generate", "nano", "--geneval", folder, "--prompts", prompts)
    run(*asked)
    before = sorted(folder.rglob("*"))
    assert (
        refused(*asked, "--seed", 1)
        == f"{folder} holds images made otherwise (generation.json: 'seed' differs); give another folder."
    )
    assert "'generator' differs" in refused(*asked, "--steps", 2)
    write_prompts(prompts, PROMPTS[::-1])
    assert "00000/metadata.jsonl is of another prompt than line 1" in refused(*asked).replace("\\", "/")
    write_prompts(prompts, PROMPTS[:1])
    assert "holds prompt 00001, but there are 1 prompts" in refused(*asked)
    write_prompts(prompts)
    (folder / "generation.json").unlink()
    assert "no generation.json that says what made it" in refused(*asked)
    assert sorted(folder.rglob("*")) == [f for f in before if f.name != "generation.json"]
    prompts.write_text('{"prompt": "a star", "tag": "shape", "include": []}\n')
    with pytest.raises(MetadataError, match=r"prompts\.jsonl, line 1, key 'tag'"):
        run(*asked)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["a star", "--geneval", "x", "--prompts", "y"], "give a prompt, or --geneval"),
        (["--geneval", "x"], "go together"),
        ([], "give a prompt, or --geneval"),
        (["--geneval", "x", "--prompts", "y", "--out", "z"], "leave out --out"),
    ],
)
def test_generate_needs_a_prompt_or_a_geneval_folder(more, said):
    result = CliRunner().invoke(app, ["generate", "nano", *more], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.output
