"""VQAScore and Soft-TIFA on small Qwen VLs of the real classes, and the questions that prompts ask."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from vhsbench import verifiers
from vhsbench.harness import judges
from vhsbench.harness.common.questions import QuestionError
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.prompts import official
from vhsbench.verifiers import questions
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.rules import RULES, Trial
from vhsbench.verifiers.scorers import vlm as vlms
from vhsbench.verifiers.scorers.asking import SoftTifa, VqaScore, answers
from vhsbench.verifiers.scorers.atoms import atoms
from vhsbench.verifiers.scorers.vlm import HubReader, Vlm
from vhsbench.verifiers.verifier import FeatureError

PROMPTS = ["a red circle", "two dogs, left of a cat", "a red circle", "5 blue vases?"]
# t2v_metrics 3.0's Qwen2VLModel.forward with the fixtures' models, VQAScore's question and the answer "Yes"
T2V_METRICS = {
    "Qwen2_5_VLForConditionalGeneration": [9.23983811e-4, 7.52205437e-4, 2.36983225e-3, 9.10194009e-4],
    "Qwen3VLForConditionalGeneration": [3.31728719e-4, 6.33988238e-4, 2.12932180e-4, 3.91475100e-4],
}
NUMBER = {"question": "How many dogs are in the image?", "answer": "two"}
PLACE = {"question": "Is the dog left of the cat?", "answer": "Yes"}


def next_word(model, processor, question, image):
    """The probabilities of the first token of the answer, one question alone, by the model's own generation."""
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    out = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    return out.scores[0][0].softmax(-1)


@pytest.fixture
def soft_tifa(vlm):
    return lambda **options: SoftTifa("soft-tifa", Vlm(vlm[0], HubReader(vlm[1])), **options)


def test_vqa_score_is_t2v_metrics(vlm, pictures):
    model, processor = vlm
    scorer = VqaScore("vqa-score", Vlm(model, HubReader(processor)))
    scores = scorer.score(PROMPTS, pictures)
    expected = torch.tensor(T2V_METRICS[type(model).__name__])
    torch.testing.assert_close(scores.score, expected, atol=1e-8, rtol=1e-4)
    assert (scores.p_yes, scores.p_no) == (None, None)
    assert torch.equal(scorer.value(scores.score), scores.score)


def test_soft_tifa_is_the_mean_of_its_answers(vlm, soft_tifa, pictures):
    model, processor = vlm
    prompts = [
        {"prompt": "two dogs left of a cat", "questions": [NUMBER, PLACE]},
        {"prompt": "a photo of a cat"},
    ]
    forms = {
        "How many dogs are in the image? Answer in one word.": "two,Two, two, Two,2, 2",
        "Is the dog left of the cat? Answer in one word.": "Yes,yes, Yes, yes",
        "Is there a cat in the image? Answer in one word.": "Yes,yes, Yes, yes",
    }
    right = []
    for (question, words), image in zip(forms.items(), [pictures[0], pictures[0], pictures[1]], strict=True):
        p = next_word(model, processor, question, image)
        firsts = {processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in words.split(",")}
        right.append(float(sum(p[i] for i in firsts)))
    means = {
        "geometric": math.sqrt(right[0] * right[1]),
        "arithmetic": (right[0] + right[1]) / 2,
        "share": 0.0,
    }
    for combine, mean in means.items():
        scorer = soft_tifa(combine=combine)
        scorer.prepare(prompts)
        scores = scorer.score([prompt["prompt"] for prompt in prompts], pictures[:2]).score
        last = right[2] if combine != "share" else 0.0
        torch.testing.assert_close(scores, torch.tensor([mean, last]), atol=1e-7, rtol=1e-4)
    assert scorer.device.type == "cpu"


def test_soft_tifa_asks_more_questions_than_one_forward_takes(monkeypatch, soft_tifa, pictures):
    prompts = ["a photo of a red cat", "a photo of two dogs", "a photo of a cat above a dog"]
    together = soft_tifa().score(prompts, pictures[:3]).score
    monkeypatch.setattr(vlms, "ROWS", 2)
    torch.testing.assert_close(soft_tifa().score(prompts, pictures[:3]).score, together, atol=1e-7, rtol=1e-4)


def test_soft_tifa_keeps_every_rule_of_a_verifier(soft_tifa, pictures):
    trial = Trial(soft_tifa(), ["a photo of a cat", "a photo of two dogs", "a car on Mars"], pictures[:3])
    assert all(rule.check(trial) for rule in RULES)


def test_soft_tifa_as_a_judge_reads_the_questions_of_metadata(monkeypatch, soft_tifa, pictures):
    scorer = soft_tifa(combine="arithmetic")
    monkeypatch.setattr(verifiers, "create", lambda name, **_: scorer)
    judge = judges.create("soft-tifa")
    asked = [{"prompt": "dogs", "questions": [NUMBER]}, {"prompt": "cats", "questions": [PLACE]}]
    verdicts = judge.judge(pictures[:2], asked)
    found = scorer.score(["dogs", "cats"], pictures[:2]).score
    assert [v.value for v in verdicts] == found.tolist()
    assert [v.correct for v in verdicts] == [value >= 0.5 for value in found.tolist()]
    with pytest.raises(QuestionError, match="prompt 'dogs': 'questions' is needed, a list"):
        judge.judge(pictures[:1], [{"prompt": "dogs", "questions": []}])


def test_a_folder_is_loaded_as_the_hub_has_it(monkeypatch, vlm_folder, pictures):
    monkeypatch.setattr(vlms, "try_out", questions._ask)  # what its child process does
    scorer = verifiers.create("vqa-score", checkpoint=vlm_folder)
    model = AutoModelForImageTextToText.from_pretrained(vlm_folder, trust_remote_code=False).eval()
    processor = AutoProcessor.from_pretrained(vlm_folder, trust_remote_code=False)
    said = 'Does this figure show "a cat"? Please answer yes or no.'
    p = next_word(model, processor, said, pictures[2])[processor.tokenizer.convert_tokens_to_ids("Yes")]
    torch.testing.assert_close(scorer.score(["a cat"], pictures[2:3]).score, p[None], atol=1e-8, rtol=1e-4)
    assert (
        verifiers.REGISTRY.identity("vqa-score", checkpoint=vlm_folder)["checkpoint"]
        == scorer.checkpoint_sha256
    )
    known = verifiers.REGISTRY.identity("soft-tifa", checkpoint=vlm_folder, combine="arithmetic")
    assert known["combine"] == "arithmetic"


def test_the_chat_template_may_be_the_processors_alone(monkeypatch, vlm_folder, pictures, tmp_path):
    monkeypatch.setattr(vlms, "try_out", questions._ask)
    for file in vlm_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="has no chat template"):
        verifiers.create("vqa-score", checkpoint=tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    score = verifiers.create("vqa-score", checkpoint=tmp_path).score(["a cat"], pictures[:1]).score
    whole = verifiers.create("vqa-score", checkpoint=vlm_folder).score(["a cat"], pictures[:1]).score
    torch.testing.assert_close(score, whole)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"model_type": "qwen2"}, "holds no VLM that can be read"),
        ("processor_config.json", {"processor_class": "Nothing"}, "holds no processor that can be read"),
        ("processor_config.json", {"image_processor": {"image_processor_type": "Qwen2VLImageProcessor"}},
         "its model cannot be asked by its processor"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused(monkeypatch, vlm_folder, tmp_path, file, change, said):
    monkeypatch.setattr(vlms, "try_out", questions._ask)
    for whole in vlm_folder.iterdir():
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
    known = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(known | change))
    with pytest.raises(CheckpointError, match=said):
        verifiers.create("vqa-score", checkpoint=tmp_path)


def test_random_weights_are_asked_without_a_tokenizer(monkeypatch, vlm, pictures):
    small = vlm[0].config
    text = small.text_config.to_dict() | {"vocab_size": 152064}
    sizes = {"text_config": text, "vision_config": small.vision_config.to_dict()}
    model = vlms.random_vlm(type(vlm[0]).__name__, sizes, torch.device("cpu"), torch.float32)
    scores = VqaScore("vqa-score", model).score(PROMPTS, pictures).score
    alone = torch.cat(
        [VqaScore("", model).score([p], [i]).score for p, i in zip(PROMPTS, pictures, strict=True)]
    )
    torch.testing.assert_close(scores, alone, atol=1e-9, rtol=1e-3)
    assert len(set(scores.tolist())) == 4


@pytest.mark.parametrize(
    ("name", "parameters", "source"),
    [("vqa-score", 8_292_166_656, "Qwen/Qwen2.5-VL-7B-Instruct@cc594898"),
     ("soft-tifa", 8_767_123_696, "Qwen/Qwen3-VL-8B-Instruct@0c351dd0")],
)  # fmt: skip
def test_the_published_vlms_are_pinned(name, parameters, source, pictures):
    listed = verifiers.describe(name)
    assert (listed.parameters, listed.source[: len(source)]) == (parameters, source)
    with pytest.raises(
        CheckpointError, match=r"'Qwen/\S+' \(revision '[0-9a-f]{40}'\) is not in the hub cache"
    ):
        verifiers.create(name)


def test_flops_of_a_vlm_are_not_counted_without_a_device(monkeypatch, pictures):
    scorer = VqaScore("vqa-score", Vlm(torch.nn.Linear(1, 1, device="meta"), None))
    with pytest.raises(FeatureError, match="a VLM computes nothing on 'meta'"):
        scorer.score(["a"], pictures[:1])


def test_an_unknown_way_to_combine_is_refused(soft_tifa):
    with pytest.raises(
        CheckpointError, match="unknown combine 'geometrc' of 'soft-tifa'; did you mean 'geometric'"
    ):
        soft_tifa(combine="geometrc")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a photo of a bench", ["Is there a bench in the image?"]),
        ("a photo of two clocks", ["Are there exactly two clocks in the image?"]),
        ("a photo of an orange cat", ["Is there a cat in the image?", "Is there an orange cat in the image?"]),
        ("a photo of an orange", ["Is there an orange in the image?"]),
        ("a photo of a dog right of a teddy bear",
         ["Is there a dog in the image?", "Is there a teddy bear in the image?",
          "Is the dog to the right of the teddy bear?"]),
        ("a photo of a red circle above a blue circle left of a star",
         ["Is there a circle in the image?", "Is there a red circle in the image?",
          "Is there a blue circle in the image?", "Is there a star in the image?",
          "Is the red circle above the blue circle?", "Is the blue circle to the left of the star?"]),
        ("a photo of a black and white dog", ['Does this image show "a photo of a black and white dog"?']),
        ("A cat on the moon.", ['Does this image show "A cat on the moon."?']),
    ],
)  # fmt: skip
def test_the_questions_of_a_text(prompt, asked):
    assert [question.question for question in atoms(prompt)] == asked
    assert {question.answer for question in atoms(prompt)} == {"yes"}


def test_every_prompt_of_geneval_and_nano_is_asked_by_its_objects():
    for prompt in [*official(), *nano_prompts()["evaluation"]]:
        asked = [question.question for question in atoms(prompt["prompt"])]
        for wanted in prompt["include"]:
            stem = wanted["class"].split()[0][:4]
            assert any(stem in question.lower() for question in asked), prompt
            assert any(wanted.get("color", "") in question for question in asked), prompt
        relations = sum("position" in wanted for wanted in prompt["include"])
        assert sum(question.startswith("Is the ") for question in asked) == relations, prompt
        assert not asked[0].startswith("Does this"), prompt


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_any_text_asks_something(text):
    assert all(question.question for question in atoms(text))
    assert all(question.question for question in atoms(f"a photo of {text}"))


def test_the_forms_of_an_answer():
    assert set(answers("Yes")) == {"Yes", "yes", " Yes", " yes"}
    assert set(answers("two")) == {"two", "Two", "2", " two", " Two", " 2"}
