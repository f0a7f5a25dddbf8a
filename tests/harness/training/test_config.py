from __future__ import annotations

from pathlib import Path

import pytest

from vhsbench.harness.config.experiments import bundled
from vhsbench.harness.config.run import ConfigError
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


def assert_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_train_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("finetun: {}\n", r"line 3, key 'finetun': unknown key; did you mean 'finetune'\?"),
        ("seed: -1\n", "line 3, key 'seed': input should be greater than or equal to 0, not -1."),
        ("seed: 4294967296\n", "key 'seed': input should be less than or equal to 4294967295, not 4294967296."),
        ("compare: {seeds: [-1]}\n", "key 'compare.seeds.0': input should be greater than or equal to 0, not -1."),
        ("compare: {seeds: [1, 1]}\n", "key 'compare.seeds': seed 1 is given twice."),
        ("compare: {pool: 5000}\n", "key 'compare.pool': input should be less than or equal to 4096, not 5000."),
        ("engine: {processes: 100000}\n", "key 'engine.processes': input should be less than or equal to 1024"),
        ("engine: {device: gpu}\n", "key 'engine.device': input should be 'cpu' or 'cuda', not 'gpu'."),
        ("finetune: {batch: true}\n", "key 'finetune.batch': input should be a valid integer, not True."),
        ("finetune: {epochs: .inf}\n", "key 'finetune.epochs': input should be a finite number, not inf."),
        ("finetune: {optimizer: {learning_rate: .nan}}\n", "key 'finetune.optimizer.learning_rate': input should be a finite number, not nan."),
        ("data: {labels: {variants: 10000000}}\n", "key 'data.labels.variants': input should be less than or equal to 1000000"),
        ("data: {batch_size: 5000}\n", "key 'data.batch_size': input should be less than or equal to 4096"),
        ("finetune:\n  batc: 3\n", r"line 4, key 'finetune.batc': unknown key; did you mean 'batch'\?"),
        ("engine: {processes: 3}\n", "a batch of 512 does not divide over 3 processes"),
        ("engine: {sharding: fsdp}\n", "sharding: fsdp needs device: cuda"),
        ("engine: {save_every: 15}\n", "save_every must be a multiple of log_every"),
        ("engine: {sharding: fsdp, device: cuda}\nfinetune: {optimizer: {name: muon}}\n", "choose adamw with sharding: fsdp"),
        ("ablations: {a: {finetune: {los: 1}}}\n", "ablation 'a', key 'finetune.los': unknown key"),
        ("ablations: {a: {verifier: {block: 9}}}\n", "ablation 'a': generator 'nano' has blocks 0 to 7"),
        ("ablations: {base: {}}\n", "'base' is the training itself"),
        ("ablations: {a: {generator: {options: {steps: 1}}}}\n", "ablation 'a' changes the generator"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, added, said):
    assert_refused(tmp_path, VHS + added, said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("llm: {name: nano}", "llm: {name: nano, sizes: {num_hidden_layers: 100000000}}", "key 'verifier.llm.sizes.num_hidden_layers': input should be less than or equal to 65536"),
        ("nano}", "nano, options: {dtype: half}}", "key 'generator.options': unknown dtype 'half'"),
        ("nano}\nver", "nan}\nver", "unknown generator 'nan'; did you mean 'nano'"),
        ("nano}", "nano, options: {device: cuda}}", "line 1, key 'generator.options': 'device' is no option here; it is given by the engine's 'device'"),
        ("nano}", "nano, options: {stepz: 1}}", "generator 'nano' has no option 'stepz'; did you mean 'steps'"),
        ("block: 5, ", "", "a vhs needs its block"),
        ("5", "8", "generator 'nano' has blocks 0 to 7, not block 8"),
        ("5", "[5, 8]", r"generator 'nano' has blocks 0 to 7, not block \(5, 8\)"),
        ("5", "[5, 3]", r"key 'verifier.block': a block, 0-based, or several in ascending order, not \[5, 3\]"),
        ("5", "five", "or several in ascending order, not 'five'"),
        ("5", "-1", "or several in ascending order, not -1"),
        ("vhs", "mllm-ae", "only a vhs reads a block"),
        ("{name: nano}\n", "{name: nano, options: {steps: 2}}\n", "but generator 'nano' takes 2 steps"),
        ("name: nano}\n", "name: sana-1.5}\n", "one-step generation, but generator 'sana-1.5' takes 16"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_one_sentence(tmp_path, old, new, said):
    assert_refused(tmp_path, VHS.replace(old, new, 1), said)


def test_overrides_change_nested_keys(tmp_path):
    file = write(tmp_path, VHS + "finetune: {batch: 32, epochs: 2}\n")
    config = load_train_config(file, ["finetune.loss.name=focal", "align=null", "seed=3"])
    assert (config.finetune.batch, config.finetune.epochs, config.finetune.loss.focus) == (32, 2, 2.0)
    assert (config.align, config.seed) == (None, 3)
    # together possible, one by one not
    both = load_train_config(file, ["engine.save_every=4", "engine.log_every=2"])
    assert (both.engine.save_every, both.engine.log_every) == (4, 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *[(wrong, "write KEY=VALUE") for wrong in ("seed", "=3", "a..b=1", "seed=[1")],
        ("finetune.batsch=1", r"--set finetune.batsch=1, key 'finetune.batsch': unknown key"),
    ],
)
def test_an_override_that_is_none_is_refused(tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        load_train_config(write(tmp_path, VHS), [wrong])


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


def test_short_forms_of_a_training(tmp_path):
    long = load_train_config(
        write(tmp_path, VHS + "data: {detector: {name: shapes}, captioner: {name: scene}}\n")
    )
    short = VHS.replace("generator: {name: nano}", "generator: nano")
    assert short != VHS
    assert load_train_config(write(tmp_path, short + "data: {detector: shapes, captioner: scene}\n")) == long
