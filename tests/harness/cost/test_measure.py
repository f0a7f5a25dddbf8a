from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from vhsbench import generators, verifiers
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.cost import measure as measuring
from vhsbench.harness.cost import meters, process, variants
from vhsbench.harness.cost.flops import count
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.nvml import THROTTLED, Gpu
from vhsbench.harness.cost.rounds import failed, measure, measure_in_turns
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.harness.report.costs import cost_table
from vhsbench.harness.store.tables import SCHEMAS
from vhsbench.verifiers.protocol import VerifierDefaults


@pytest.mark.parametrize("kind", ["vhs", "mllm-ae", "mllm-clip"])
def test_best_of_n_is_the_pools_best_and_batching_changes_nothing(nano, kind):
    verifier = verifiers.create(kind)
    prompt, seeds = "a photo of a blue cross left of a heart", [3, 1, 4, 1, 5]
    one = best_of_n(nano, verifier, prompt, seeds)
    many = best_of_n(nano, verifier, prompt, seeds, batch=4)
    torch.testing.assert_close(one.scores, many.scores, atol=1e-4, rtol=1e-4)
    assert one.index == int(one.scores.argmax())
    alone = nano.decode(nano.denoise(nano.encode([prompt]), nano.noise([seeds[one.index]])))[0]
    assert one.image.tobytes() == alone.tobytes()


def test_vhs_finishes_the_winner_alone(nano, monkeypatch):
    calls = []
    for stage in ("head", "tail", "decode", "denoise", "encode"):
        original = getattr(nano, stage)
        monkeypatch.setattr(
            nano, stage, lambda *a, f=original, s=stage, **k: (calls.append(s), f(*a, **k))[1]
        )
    best_of_n(nano, verifiers.create("vhs"), "a photo of a star", range(4))
    counts = {stage: calls.count(stage) for stage in ("encode", "head", "tail", "decode")}
    assert counts == {"encode": 1, "head": 4, "tail": 1, "decode": 1}


def cell(**changes) -> Cell:
    timing = TimingConfig(best_of_n=(1, 2), repeats=2, warm_up=0, **changes.pop("timing", {}))
    options = {"generator": "nano", "generator_options": {}, "verifier": "vhs", "verifier_options": {}}
    return Cell(**options | {"prompt": "a photo of a red heart", "timing": timing} | changes)


def measure_one(one: Cell):
    """In a process of its own."""
    (measured,) = measure_in_turns([one])
    return measured


def table(rows):
    frame = pd.DataFrame(rows)
    assert set(frame.columns) == set(SCHEMAS["costs"].names)
    return frame


def test_a_pipeline_is_measured_stage_by_stage_and_whole():
    measured = measure(cell(timing={"batch_sizes": (2,)}))
    rows = table(measured.rows)
    work = set(rows[["stage", "n", "batch"]].itertuples(index=False, name=None))
    stages = {"encode", "noise", "head", "score", "connector", "llm", "tail", "decode"}
    runs = {("end_to_end", 1, 1), ("end_to_end", 2, 1), ("end_to_end", 2, 2)}
    assert work == {(stage, 1, 1) for stage in stages} | runs
    assert (rows["status"] == "ok").all()
    assert (rows["wall_ms"] > 0).all()
    assert (rows["tflop"].notna() & rows["moved_gb"].notna() & rows["peak_rss_gb"].notna()).all()
    empty = ["event_ms", "peak_vram_gb", "peak_reserved_gb", "nvml_gb", "energy_j"]
    assert rows[empty].isna().all().all()  # unknown on a CPU, never zero
    assert set(rows.loc[rows["batch"] == 2, "variant"]) == {"batched"}
    assert set(rows.loc[rows["batch"] == 1, "variant"]) == {""}
    whole = rows[rows["stage"] == "end_to_end"]
    assert whole["phases_percent"].between(50, 100.01).all()
    one = rows.drop_duplicates(["stage", "n", "batch"]).set_index(["stage", "n", "batch"])["tflop"]
    assert dict(rows.dropna(subset=["block"])[["stage", "block"]].itertuples(index=False)) == {
        "head": "6", "tail": "6"
    }  # fmt: skip
    fixed = sum(one[s, 1, 1] for s in ("encode", "tail", "decode"))
    assert one["end_to_end", 2, 1] == pytest.approx(fixed + 2 * (one["head", 1, 1] + one["score", 1, 1]))


@pytest.mark.parametrize("kind", ["vhs", "mllm-ae", "mllm-clip"])
@pytest.mark.parametrize(("n", "batch"), [(3, 1), (4, 2), (5, 4)])
def test_longer_runs_cost_what_counting_them_says(nano, kind, n, batch):
    verifier = verifiers.create(kind)

    def run(n, batch=1):
        return count(lambda: best_of_n(nano, verifier, "a photo of a red heart", range(n), batch))

    extended, counted = measuring.extended(run(1), run(2), n, batch), run(n, batch)
    assert extended.tflop == pytest.approx(counted.tflop, rel=1e-9)
    # what a batch reads of a weight by look-up grows with it, which a lower bound may leave out
    assert 0.9 * counted.weight_bytes <= extended.weight_bytes <= counted.weight_bytes
    assert batch > 1 or extended.weight_bytes == counted.weight_bytes
    assert extended.activation_bytes == pytest.approx(counted.activation_bytes, rel=1e-9)


def test_a_plugin_that_says_no_more_than_it_must_is_measured(faults):
    """Of another package: no modules, no parts of its score, no question."""
    options = {"generator": "fake", "generator_options": {"faults": str(faults.folder)}}
    measured = measure(cell(**options, verifier="fake-verifier"))
    rows = table(measured.rows)
    assert set(rows["stage"]) == {"encode", "noise", "denoise", "score", "decode", "end_to_end"}
    assert (rows["status"] == "ok").all()
    assert (measured.about["loaded"], measured.about["question_tokens"]) == ({}, None)


def test_a_verifier_is_told_of_its_prompts_metadata(monkeypatch):
    class Told(Exception):
        pass

    class Asking(VerifierDefaults):
        name, needs = "asking", "images"

        def prepare(self, prompts):
            raise Told(prompts)

    monkeypatch.setattr(verifiers, "create", lambda name: Asking())
    metadata = {"prompt": "a photo of a red heart", "questions": [{"question": "Is there a heart?"}]}
    with pytest.raises(Told) as told:
        measuring.Measurement(cell(verifier="asking", metadata=metadata))
    assert told.value.args == ([metadata],)


def test_what_stays_loaded_is_stated():
    vhs = measure(cell()).about
    clip = measuring.describe(generators.create("nano"), verifiers.create("mllm-clip"))
    assert vhs["needs"] == "hidden"
    assert {"text_encoder", "transformer", "vae", "connector", "llm"} <= set(vhs["loaded"])
    assert "clip" not in vhs["loaded"]
    assert clip["loaded"]["clip"]["parameters"] > 0
    assert vhs["loaded"]["transformer"]["dtype"] == "float32"
    assert vhs["attention_backends"]


def test_a_call_that_runs_out_of_memory_has_a_row_and_the_others_are_measured(monkeypatch):
    original = measuring.end_to_end

    def hungry(generator, verifier, prompt, ns, batch=1):
        def fail():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nMore.")

        runs = original(generator, verifier, prompt, ns, batch)
        return runs | {2: fail} if 2 in runs else runs

    monkeypatch.setattr(measuring, "end_to_end", hungry)
    rows = table(measure(cell()).rows)
    lost = rows[(rows["stage"] == "end_to_end") & (rows["n"] == 2)]
    assert lost[["status", "note"]].to_numpy().tolist() == [
        ["oom", "CUDA out of memory. Tried to allocate 80 GiB"]
    ]
    assert lost["wall_ms"].isna().all()
    assert (rows.drop(lost.index)["status"] == "ok").all()
    shown = cost_table(rows).set_index(["stage", "n"])
    assert shown.loc[("end_to_end", 2), "status"] == "oom"
    assert pd.isna(shown.loc[("end_to_end", 2), "median_ms"])
    assert shown.loc[("end_to_end", 1), "repeats"] == 2


def test_a_throttled_round_taints_its_repeats(monkeypatch):
    answers = iter([[], ["thermal slowdown"]])
    monkeypatch.setattr(Gpu, "reasons", lambda gpu, names: next(answers) if names is THROTTLED else [])
    rows = table(measure(cell(verifier=None)).rows)
    whole = rows[rows["stage"] == "end_to_end"]
    by_repeat = whole.groupby("repeat")[["status", "note"]].first().to_numpy().tolist()
    assert [status for status, _ in by_repeat] == ["ok", "tainted"]
    assert "thermal slowdown" in by_repeat[1][1]
    assert (rows["wall_ms"] > 0).all()
    assert set(cost_table(rows)["status"]) == {"tainted"}
    assert set(cost_table(whole)["tainted"]) == {1}
    assert set(cost_table(rows[rows["stage"] == "decode"])["tainted"]) == {measuring.SAMPLES}


def test_a_cell_over_time_has_rows_that_say_so():
    rows = table(measure_one(cell(timing={"timeout_s": 0.05})).rows)
    assert rows["n"].tolist() == [1, 2]
    assert set(rows["status"]) == {"timeout"}
    assert rows[["wall_ms", "tflop", "device"]].isna().all().all()
    assert "0.05 s" in rows["note"].iloc[0]


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("nano", {}, 1),
        ("sana-1.5", {}, 16),
        ("sana-1.5", {"steps": 4}, 4),
        ("sana-sprint", {"steps": None}, 1),
    ],
)
def test_a_failed_cell_has_the_steps_that_its_generator_takes(name, options, steps):
    lost = failed(cell(generator=name, generator_options=options), "oom", "too large")
    assert {row["steps"] for row in lost.rows} == {steps}


def test_a_users_mistake_comes_back_from_the_fresh_process_as_it_is():
    with pytest.raises(RegistryError, match="did you mean 'nano'") as error:
        measure_one(cell(generator="nanno"))
    assert "Traceback" in "".join(error.value.__notes__)


def test_a_process_that_the_system_kills_is_out_of_memory(monkeypatch, tmp_path):
    # a module of its own, which the fresh process can import by name
    (tmp_path / "endings.py").write_text(
        "import os, signal\n"
        "def killed(cell, pipe, passes): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def ends(cell, pipe, passes): os._exit(3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    endings = importlib.import_module("endings")
    monkeypatch.setattr(process, "serve", endings.killed)
    measured = measure_one(cell())
    assert {row["status"] for row in measured.rows} == {"oom"}
    monkeypatch.setattr(process, "serve", endings.ends)
    with pytest.raises(measuring.MeasureError, match="exit code 3"):
        measure_one(cell())


class Card(Gpu):
    """A GPU that NVML tells nothing of but energy, 100 J between any two questions, and other processes."""

    known, joules = True, 0.0

    def __init__(self, mig=False, others=()):
        super().__init__("none")
        self.mig, self._others = mig, others

    def energy_j(self):
        self.joules += 100
        return None if self.mig else self.joules

    def others(self):
        return self._others

    def neighbours(self):
        return []


@pytest.mark.parametrize(
    ("card", "energy", "note"),
    [
        (Card(), True, ""),
        (Card(mig=True), False, "energy left empty: this is a MIG instance, and NVML counts the whole card's"),
        (Card(others=None), True,
         "other processes on the GPU: unknown, NVML shows none of this process's namespace; "
         "energy is the whole card's"),
        (Card(others=[77]), False, "energy left empty: other processes on the GPU"),
    ],
    ids=["alone", "MIG", "container", "others"],
)  # fmt: skip
def test_energy_of_a_card_that_others_use_is_not_this_process_own(monkeypatch, fake_time, card, energy, note):
    monkeypatch.setattr(measuring.Gpu, "of", lambda device: card)
    monkeypatch.setattr(meters, "_IDLE_S", 0)
    monkeypatch.setattr(meters, "_ENERGY_S", 0)
    monkeypatch.setattr(measuring, "others_on", lambda gpu, since_s: "")
    rows = table(measure(cell(verifier=None)).rows)
    assert set(rows["energy_j"].notna()) == {energy}
    assert all(note in said and (note or not said) for said in rows["note"])


def test_channels_last_changes_the_layout_and_not_the_image():
    generator, plain = generators.create("nano"), generators.create("nano")
    moved, _ = variants.apply("channels-last", generator, None, ["a photo of a red heart"])
    assert 0 <= moved["image_difference"] <= 1
    kernel = next(p for p in generator.pipeline.vae.decoder.parameters() if p.dim() == 4 and p.shape[-1] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    cond, noise = plain.encode(["a photo of a red heart"]), plain.noise([0])
    latents = plain.denoise(cond, noise)
    ours, theirs = (np.asarray(g.decode(latents)[0], dtype=int) for g in (generator, plain))
    assert abs(ours - theirs).max() <= 1


def test_torch_compile_wraps_every_block_and_the_llm(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled.append(f) or f)
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    # pytest's own patch would leave these settings hidden
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        moved, _ = variants.apply("torch-compile", generator, verifier, ["a photo of a red heart"])
    nothing = (
        "score_difference",
        "scores_changed_percent",
        "image_difference",
        "image_percent",
        "features_percent",
    )
    assert moved == dict.fromkeys(nothing, 0.0)
    assert len(compiled) == generator.blocks + 1
    with pytest.raises(variants.VariantError, match="shows none"):
        variants.VARIANTS["channels-last"](SimpleNamespace(name="other", modules=dict), None)
    with pytest.raises(variants.VariantError, match="needs a CUDA device"):
        variants.VARIANTS["cuda-graphs"](generator, verifier)


def test_a_memory_tracker_sees_a_tensor_of_known_size():
    device = torch.device("cpu")
    held = psutil.Process().memory_info().rss / 1e9
    peak = meters.peak_memory(lambda: torch.ones(250_000_000), device, Gpu.of(device))["peak_rss_gb"]
    assert peak is not None
    assert held + 0.9 <= peak
    again = meters.peak_memory(lambda: None, device, Gpu.of(device))["peak_rss_gb"]
    assert again == pytest.approx(peak, rel=0.01)  # of the process so far: it only grows


def test_the_peak_is_this_process_own_not_its_parents():
    ballast = b"x" * 300_000_000  # resident here
    code = "from vhsbench.harness.cost.environment import peak_rss_gb; print(peak_rss_gb())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.005 < float(printed.stdout) < len(ballast) / 1e9


def test_energy_is_above_idle_alone(monkeypatch, fake_time):
    busy_s = 0.0

    def energy_j():
        return 40 * fake_time.now + 60 * busy_s  # 100 W at work, 40 W idle

    def work():
        nonlocal busy_s
        fake_time.sleep(0.02)
        busy_s += 0.02

    monkeypatch.setattr(meters, "time", fake_time)
    gpu = SimpleNamespace(energy_j=energy_j, others=list)
    idle = meters.idle_power(gpu)
    assert idle == pytest.approx(40)
    assert meters.energy_per_call(work, gpu, idle) == pytest.approx(60 * 0.02)
    gpu.others = lambda: None  # cannot be told: the rows say so
    assert meters.energy_per_call(work, gpu, idle) == pytest.approx(60 * 0.02)
    gpu.others = lambda: [1234]
    assert meters.energy_per_call(work, gpu, idle) is None
    cpu = Gpu.of(torch.device("cpu"))
    assert meters.idle_power(cpu) is None
    assert meters.energy_per_call(lambda: None, cpu, None) is None


def test_going_on_from_an_earlier_block_is_measured_with_the_later_verifier():
    timing = TimingConfig(repeats=3, warm_up=1, best_of_n=(1,))
    cell = Cell(
        "nano", {}, "vhs", {"generator": "nano"}, "a photo of a red circle", timing, 1, after={"early": 2}
    )
    rows = pd.DataFrame(measure(cell).rows)
    tflop = rows.groupby("stage")["tflop"].first()
    # blocks 3 to 5 of the head's 0 to 5; the rest is what all calls of the pipeline do again
    assert 0.45 * tflop["head"] < tflop["advance:early"] < 0.6 * tflop["head"]
    assert (rows["stage"] == "advance:early").sum() >= 3
