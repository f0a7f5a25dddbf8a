"""The full-size pipelines' cost on `meta`, within 1% of the figures known of them."""

from __future__ import annotations

import pytest
import torch

from vhsbench import generators, verifiers
from vhsbench.harness.cost.counting import count_pipeline
from vhsbench.harness.cost.flops import count
from vhsbench.verifiers.mllm import QuestionTokens


def llm_tflop(tokens: int) -> float:
    """Qwen2.5-0.5B by hand: 24 layers of 896, 2 of 14 heads for keys and values, 4864 in the MLP; one answer."""
    weights = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    return (2 * weights * tokens + 24 * 2 * 2 * 896 * tokens**2 + 2 * 896 * 151936) / 1e12


@pytest.fixture(scope="module")
def sana():
    return {v: count_pipeline("sana-sprint", v) for v in ("vhs", "mllm-ae", "mllm-clip")}


def test_sana_sprint_with_vhs(sana):
    stages = sana["vhs"].stages
    assert stages["head"].tflop + stages["tail"].tflop == pytest.approx(2.967, rel=0.01)
    assert 0.38 < stages["head"].tflop / 2.967 < 0.42  # 8 of 20 blocks, and the text's part
    assert stages["decode"].tflop == pytest.approx(8.369, rel=0.01)
    assert stages["llm"].tflop == pytest.approx(llm_tflop(1024 + 55 + 38), rel=1e-6)
    assert stages["llm"].tflop == pytest.approx(0.907, rel=0.001)
    assert not any(cost.uncounted for cost in stages.values())


def test_sana_sprint_with_the_other_verifiers(sana):
    clip = sana["mllm-clip"].stages
    assert clip["denoise"].tflop == pytest.approx(2.967, rel=0.01)
    assert clip["denoise"].parameters == pytest.approx(1.610e9, rel=0.01)
    assert clip["encode"].parameters == pytest.approx(2.614e9, rel=0.01)
    assert clip["clip"].tflop == pytest.approx(0.382 * 23 / 24, rel=0.01)  # its last layer is not run
    assert clip["llm"].tflop == pytest.approx(llm_tflop(576 + 55 + 38), rel=1e-6)
    assert clip["llm"].tflop == pytest.approx(0.518, rel=0.001)
    assert sana["mllm-ae"].stages["llm"].tflop == pytest.approx(0.907, rel=0.001)


def test_the_question_is_as_long_as_its_prompt(sana):
    assert sana["vhs"].prompt == "a photo of a bench"
    assert sana["vhs"].question == QuestionTokens(55, 38)
    longer = count_pipeline("sana-sprint", "vhs", prompt="a photo of a red circle above a blue square")
    assert longer.question == QuestionTokens(55, 43)
    assert longer.stages["llm"].tflop == pytest.approx(llm_tflop(1024 + 98), rel=1e-6)
    guessed = count_pipeline("sana-sprint", "vhs", prompt="a photo of a dirigible")
    assert guessed.question == QuestionTokens(55, 38, (" dirigible",))
    assert count_pipeline("sana-sprint", None).question is None


def test_who_pays_what(sana):
    vhs, clip = sana["vhs"].tflop, sana["mllm-clip"].tflop
    assert vhs.per_candidate < clip.per_candidate / 5
    assert vhs.fixed > clip.fixed
    rows = {row["stage"]: row for row in sana["vhs"].rows(4)}
    assert list(rows) == ["encode", "noise", "head", "connector", "llm", "tail", "decode"]
    assert rows["head"]["total_tflop"] == 4 * rows["head"]["tflop"]
    assert rows["decode"]["paid"] == "fixed"
    assert sum(row["total_tflop"] for row in rows.values()) == pytest.approx(vhs.predict(4), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "tflop", "parameters"),
    [("sd3.5-turbo", 31.12, 8.06e9), ("pixart-alpha-dmd", 1.236, 0.611e9), ("flux-schnell", 69.47, 11.89e9)],
)
def test_the_dit_of_other_families(name, tflop, parameters):
    generator = generators.create(name, weights="random", device="meta", steps=1)
    cond, noise = _meta(generator)
    cost = count(lambda: generator.denoise(cond, noise))
    assert cost.tflop == pytest.approx(tflop, rel=0.01)
    assert cost.parameters == pytest.approx(parameters, rel=0.01)


def _meta(generator):
    kept = []
    count(lambda: kept.append(generator.encode(["a photo of a red heart"])))
    return kept[0], generator.noise([0])


def test_gemma_and_a_long_sequence_of_the_llm():
    sana = generators.create("sana-sprint", weights="random", device="meta")
    ids = torch.zeros(1, 300, dtype=torch.long, device="meta")
    assert count(lambda: sana.pipeline.text_encoder(ids)).tflop == pytest.approx(1.234, rel=0.01)
    pixart = count_pipeline("pixart-alpha-dmd", "mllm-ae").stages
    assert pixart["llm"].tflop == pytest.approx(llm_tflop(4096 + 55 + 38), rel=1e-6)


def test_steps_beyond_the_second_are_counted_from_two():
    three = count_pipeline("nano", "vhs", steps=3)
    generator = generators.create("nano", steps=3)
    cond, noise = _meta(generator)
    block = verifiers.create("vhs").block
    head = count(lambda: generator.head(cond, noise, block))
    assert three.steps == 3
    assert three.stages["head"].tflop == pytest.approx(head.tflop, rel=1e-9)
    assert three.stages["head"].weight_bytes == head.weight_bytes
    assert three.stages["head"].parameters == head.parameters
