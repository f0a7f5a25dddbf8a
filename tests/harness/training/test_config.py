from __future__ import annotations

from pathlib import Path

import pytest

from vhsbench.harness.config.run import ConfigError, bundled
from vhsbench.harness.config.run import load_config as load_run_config
from vhsbench.harness.training.config import data_beside, load_train_config

VHS = "generator: {name: nano}\nverifier: {kind: vhs, block: 5, llm: {name: nano}}\n"


@pytest.mark.parametrize("name", bundled(trainings=True))
def test_bundled_trainings_and_their_ablations_are_possible(name):
    config = load_train_config(Path(name))
    assert config.name == name
    for ablation in config.ablations:
        assert config.ablation(ablation) != config


def test_the_papers_amounts():
    config = load_train_config(Path("train-vhs"))
    align, finetune = config.align, config.finetune
    assert align is not None
    assert (align.batch, align.epochs, align.train) == (512, 1, "connector")
    assert (align.optimizer.name, align.optimizer.learning_rate, align.optimizer.warm_up) == (
        "adamw",
        1e-3,
        0.03,
    )
    assert align.steps_for(558_000) == 1090
    assert (finetune.batch, finetune.epochs, finetune.optimizer.learning_rate) == (64, 10, 2e-5)
    assert finetune.steps_for(118_000) == 18_438
    assert (config.verifier.block, finetune.loss.weights, finetune.loss.gamma) == (7, "auto", 2.0)


def test_trainings_are_no_runs():
    assert not [n for n in bundled() if n.startswith("train-")]
    with pytest.raises(ConfigError, match="no bundled configuration"):
        load_run_config(Path("train-vhs"))


def write(tmp_path, text: str) -> Path:
    file = tmp_path / "train.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VHS + "finetun: {}\n", r"line 3, key 'finetun': unknown key; did you mean 'finetune'\?"),
        (VHS + "seed: -1\n", "line 3, key 'seed': input should be greater than or equal to 0, not -1."),
        (VHS + "seed: 4294967296\n", "key 'seed': input should be less than or equal to 4294967295, not 4294967296."),
        (VHS + "compare: {seeds: [-1]}\n", "key 'compare.seeds.0': input should be greater than or equal to 0, not -1."),
        (VHS + "compare: {seeds: [1, 1]}\n", "key 'compare.seeds': seed 1 is given twice."),
        (VHS + "compare: {pool: 5000}\n", "key 'compare.pool': input should be less than or equal to 4096, not 5000."),
        (VHS + "engine: {processes: 100000}\n", "key 'engine.processes': input should be less than or equal to 1024"),
        (VHS + "engine: {device: gpu}\n", "key 'engine.device': input should be 'cpu' or 'cuda', not 'gpu'."),
        (VHS + "finetune: {batch: true}\n", "key 'finetune.batch': input should be a valid integer, not True."),
        (VHS + "finetune: {epochs: .inf}\n", "key 'finetune.epochs': input should be a finite number, not inf."),
        (VHS + "finetune: {optimizer: {learning_rate: .nan}}\n", "key 'finetune.optimizer.learning_rate': input should be a finite number, not nan."),
        (VHS + "data: {labels: {variants: 10000000}}\n", "key 'data.labels.variants': input should be less than or equal to 1000000"),
        (VHS + "data: {batch_size: 5000}\n", "key 'data.batch_size': input should be less than or equal to 4096"),
        (VHS.replace("llm: {name: nano}", "llm: {name: nano, sizes: {num_hidden_layers: 100000000}}"), "key 'verifier.llm.sizes.num_hidden_layers': input should be less than or equal to 65536"),
        (VHS.replace("nano}", "nano, options: {dtype: half}}", 1), "key 'generator.options': unknown dtype 'half'"),
        (VHS + "finetune:\n  batc: 3\n", r"line 4, key 'finetune.batc': unknown key; did you mean 'batch'\?"),
        (VHS.replace("nano}\nver", "nan}\nver"), "unknown generator 'nan'; did you mean 'nano'"),
        (VHS.replace("nano}", "nano, options: {device: cuda}}", 1), "line 1, key 'generator.options': 'device' is no option here; it is given by the engine's 'device'"),
        (VHS.replace("nano}", "nano, options: {stepz: 1}}", 1), "generator 'nano' has no option 'stepz'; did you mean 'steps'"),
        (VHS.replace("block: 5, ", ""), "a vhs needs its block"),
        (VHS.replace("5", "8"), "generator 'nano' has blocks 0 to 7, not block 8"),
        (VHS.replace("5", "[5, 8]"), r"generator 'nano' has blocks 0 to 7, not block \(5, 8\)"),
        (VHS.replace("5", "[5, 3]"), r"key 'verifier.block': a block, 0-based, or several in ascending order, not \[5, 3\]"),
        (VHS.replace("5", "five"), "or several in ascending order, not 'five'"),
        (VHS.replace("5", "-1"), "or several in ascending order, not -1"),
        (VHS.replace("vhs", "mllm-ae"), "only a vhs reads a block"),
        (VHS.replace("{name: nano}\n", "{name: nano, options: {steps: 2}}\n", 1), "but generator 'nano' takes 2 steps"),
        (VHS.replace("name: nano}\n", "name: sana-1.5}\n", 1), "one-step generation, but generator 'sana-1.5' takes 16"),
        (VHS + "engine: {processes: 3}\n", "a batch of 512 does not divide over 3 processes"),
        (VHS + "engine: {sharding: fsdp}\n", "sharding: fsdp needs device: cuda"),
        (VHS + "engine: {save_every: 15}\n", "save_every must be a multiple of log_every"),
        (
            VHS + "engine: {sharding: fsdp, device: cuda}\nfinetune: {optimizer: {name: muon}}\n",
            "choose adamw with sharding: fsdp",
        ),
        (VHS + "ablations: {a: {finetune: {los: 1}}}\n", "ablation 'a', key 'finetune.los': unknown key"),
        (VHS + "ablations: {a: {verifier: {block: 9}}}\n", "ablation 'a': generator 'nano' has blocks 0 to 7"),
        (VHS + "ablations: {base: {}}\n", "'base' is the training itself"),
        (VHS + "ablations: {a: {generator: {options: {steps: 1}}}}\n", "ablation 'a' changes the generator"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_train_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_overrides_change_nested_keys(tmp_path):
    file = write(tmp_path, VHS + "finetune: {batch: 32, epochs: 2}\n")
    config = load_train_config(file, ["finetune.loss.name=focal", "align=null", "seed=3"])
    assert (config.finetune.batch, config.finetune.epochs, config.finetune.loss.focus) == (32, 2, 2.0)
    assert (config.align, config.seed) == (None, 3)
    # together possible, one by one not
    both = load_train_config(file, ["engine.save_every=4", "engine.log_every=2"])
    assert (both.engine.save_every, both.engine.log_every) == (4, 2)
    for wrong in ("seed", "=3", "a..b=1", "seed=[1"):
        with pytest.raises(ConfigError, match="write KEY=VALUE"):
            load_train_config(file, [wrong])
    with pytest.raises(ConfigError, match=r"--set finetune.batsch=1, key 'finetune.batsch': unknown key"):
        load_train_config(file, ["finetune.batsch=1"])


def test_an_ablation_reads_another_blocks_data_beside_the_bases(tmp_path):
    config = load_train_config(
        write(
            tmp_path,
            VHS + "ablations: {two: {verifier: {block: 2}}, focal: {finetune: {loss: {name: focal}}}}\n",
        )
    )
    folders = {
        name: data_beside(config, config.ablation(name), tmp_path).data.folders(tmp_path / "x", "hidden")[
            "train"
        ]
        for name in config.ablations
    }
    assert folders["focal"] == tmp_path / "data" / "hidden" / "train"
    assert folders["two"] == tmp_path / "data-block-2" / "hidden" / "train"
    with pytest.raises(ConfigError, match="has no ablation 'tow'; did you mean 'two'"):
        config.with_ablations(["tow"])
