"""The benchmark of a sweep's speed: its shards, its sums, what it keeps between starts, and a dry run on nano."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vhsbench.harness.config.run import parse
from vhsbench.harness.sweep.shards import SMALLEST_SHARD


@pytest.fixture
def script(benchmark_script):
    return benchmark_script("sweep_speed")


def test_every_shard_has_prompts_of_all_tasks_and_no_prompt_comes_twice(script):
    prompts = [{"tag": number // 10} for number in range(83)]
    spread = script.of_all_tasks(prompts)
    assert len(spread) == len({id(p) for p in spread}) == 80
    for number in range(10):
        each = script.shard(number)
        assert each.stop - each.start == SMALLEST_SHARD
        assert len({p["tag"] for p in spread[each.start : each.stop]}) == SMALLEST_SHARD


@pytest.mark.parametrize("way", ["after", "plain", "fast"])
def test_ways_differ_in_what_they_say_alone(script, way):
    config = parse(script.FULL.format(**script.WAYS[way]), way)
    assert config.generators[0].variant == ("fast" if way == "fast" else None)
    assert config.detector.options["dtype"] == ("float16" if way == "fast" else "float32")
    assert config.overlap is (way != "after")
    assert (config.pool, config.batch_size, config.generators[0].key.split("+")[0]) == (8, 8, "sana-sprint")


def test_the_sum_of_rounds_is_a_median_with_its_range(script):
    rounds = {
        f"round {i}": {"candidates": 64, "wall_s": {"plain": 8.0, "fast": s}} for i, s in enumerate((4, 2, 1))
    }
    assert script.summed(rounds | {"stages": {}}) == {
        "rounds": 3, "images_per_s": {"plain": 8.0, "fast": 32.0}, "times_as_fast": 4.0, "range": [2.0, 8.0],
    }  # fmt: skip
    assert script.summed({"stages": {}}) == {}


def test_a_dry_run_measures_both_ways_and_a_second_start_only_what_is_missing(script, tmp_path, monkeypatch):
    file = tmp_path / "sweep.json"
    script.main(["--out", str(file), "--tiny", "--rounds", "1"])
    first = json.loads(file.read_text())
    (wall,) = [first["round 1"]["wall_s"]]
    assert list(wall) == ["plain", "fast"]
    assert first["round 1"]["candidates"] == SMALLEST_SHARD
    assert first["round 1"]["same_verdicts"] == 1.0
    assert first["round 1"]["most_score_difference"] < 1e-4
    assert first["summary"]["times_as_fast"] == pytest.approx(wall["plain"] / wall["fast"])
    for ms in first["stages"].values():
        assert ms.keys() >= {
            "encode",
            "noise",
            "head",
            "tail",
            "decode",
            "detect",
            "score:vhs",
            "score:mllm-clip",
            "rest",
        }
        assert sum(v for k, v in ms.items() if k != "all") == pytest.approx(ms["all"])
    monkeypatch.setattr(script, "Worker", None)  # nothing is built for what is known
    script.main(["--out", str(file), "--tiny", "--rounds", "1"])
    assert json.loads(file.read_text())["round 1"] == first["round 1"]
    with pytest.raises(SystemExit, match="was measured with"):
        script.main(["--out", str(file), "--tiny", "--way", "after", "--way", "plain"])
    monkeypatch.setattr(script, "Worker", lambda *given: SimpleNamespace(work=lambda shard: None))
    monkeypatch.setattr(script, "compared", lambda workers, number: first["round 1"])
    script.main(["--out", str(file), "--tiny", "--rounds", "2"])
    second = json.loads(file.read_text())
    assert second["summary"]["rounds"] == 2
    assert second["began"] == first["began"]  # of the start that compiled
