"""The Ray engine, with the faults that clusters have, for real on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
import typer

import vhsbench.harness.sweep.run
from vhsbench.harness.commands.run import Engine, sweep
from vhsbench.harness.common.processes import find, here, lives
from vhsbench.harness.config.run import ConfigError, parse
from vhsbench.harness.sweep.run import local, run
from vhsbench.harness.sweep.status import status

ray = pytest.importorskip(
    "ray", reason="Ray is not installed (the extra vhsbench[ray]): its engine is untested"
)

from ray.cluster_utils import Cluster  # noqa: E402

from vhsbench.harness.sweep import ray_engine  # noqa: E402
from vhsbench.harness.sweep.ray_engine import EngineError, RayEngine  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of this machine, one worker each; Ray's own files in a folder of a short name."""
    from vhsbench import harness

    root = os.path.dirname(os.path.dirname(harness.__file__))
    fakes = os.path.join(os.path.dirname(__file__), "fakes")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([fakes, root])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def shard_files(out):
    return list((out / "shards/candidates").glob("[!.]*.parquet"))


def alive(faults):
    """The processes that loaded a generator and live; one that has ended counts as gone before anybody asks for its status."""
    pids = {int(name.rsplit("-", 2)[1]) for name in faults.loads()} - {os.getpid()}
    found = [find((here()[0], pid)) for pid in pids]
    return [process.pid for process in found if process is not None and lives(process)]


def wait_for(what, process=None, seconds=240):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


def in_background(*arguments, **named):
    """run() in a thread; returns the thread and a list that its result or error will be in."""
    results = []

    def work():
        try:
            results.append(run(*arguments, **named))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, results


def test_two_workers_give_the_same_tables_and_load_each_model_once(faults, tmp_path, cluster):
    names = ("fake", "fake-other")
    expected = faults.tables(run(faults.config(names=names), tmp_path / "local", engine=local))
    before = len(faults.loads())
    out = run(faults.config(names=names), tmp_path / "ray", engine=RayEngine(cluster.address, 2, None))
    assert faults.tables(out) == expected
    loads = faults.loads()[before - 2 :]
    pids = {name.rsplit("-", 2)[1] for name in faults.loads()} - {str(os.getpid())}
    assert len(pids) == len(loads) - 2 <= 4  # a process a model; never one model twice in a process
    assert alive(faults) == [], "a worker outlived the candidates"


def test_nano_gives_the_same_bytes_on_both_engines(faults, tmp_path, cluster):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: mllm-clip}]\n"
        "prompts: {source: nano, split: validation, limit: 16}\npool: 2\nbatch_size: 8\n"
        "gallery_prompts: 1\nthreads: 1\n",
        "nano.yaml",
    )
    threads = torch.get_num_threads()
    expected = faults.tables(run(config, tmp_path / "local"))
    torch.set_num_threads(threads)
    overlapped = config.model_copy(update={"overlap": True})
    out = run(overlapped, tmp_path / "ray", engine=RayEngine(cluster.address, 1, None))
    assert faults.tables(out) == expected


def test_a_worker_killed_with_kill_9(faults, tmp_path, cluster, caplog):
    expected = faults.tables(run(faults.config(), tmp_path / "local"))
    faults.set(slow=0.3)
    out = tmp_path / "ray"
    config = faults.config(overlap=True)
    thread, results = in_background(config, out, engine=RayEngine(cluster.address, 2, None))
    wait_for(lambda: shard_files(out))
    os.kill(alive(faults)[0], signal.SIGKILL)
    thread.join(240)
    assert results == [out]
    assert faults.tables(out) == expected
    assert "a worker ended" in caplog.text


def test_a_worker_with_other_files_or_versions_is_refused_by_name(faults, tmp_path, cluster, monkeypatch):
    """A node whose files at the same path are others: here it is the driver that is told so."""
    checkpoint = tmp_path / "weights"
    checkpoint.write_text("one")
    config = faults.config(verifiers=f"[{{name: fake-known, checkpoint: '{checkpoint}'}}]")
    here = ray_engine.of_entry

    def elsewhere(*arguments):
        found = here(*arguments)
        verifiers = {"fake-known": found.inputs["verifiers"]["fake-known"] | {"checkpoint": "another"}}
        return replace(found, inputs=found.inputs | {"verifiers": verifiers})

    monkeypatch.setattr(ray_engine, "of_entry", elsewhere)
    with pytest.raises(EngineError) as error:
        run(config, tmp_path / "r", engine=RayEngine(cluster.address, 1, None))
    assert f"the worker on {socket.gethostname()} would make candidates of 'fake'" in str(error.value)
    assert "the checkpoint of verifier 'fake-known'" in str(error.value)
    assert not shard_files(tmp_path / "r")
    monkeypatch.setattr(ray_engine, "of_entry", here)
    out = run(config, tmp_path / "r", engine=RayEngine(cluster.address, 1, None))
    assert faults.tables(out) == faults.tables(run(config, tmp_path / "local"))


def test_a_prompt_that_kills_its_workers(faults, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "DEATHS", 2)  # each takes a process that loads torch
    whole = run(faults.config(seeds="[0]"), tmp_path / "local")
    prompts = [json.loads(line)["prompt"] for line in (whole / "prompts.jsonl").read_text().splitlines()]
    faults.set(die=prompts[9])
    out = run(faults.config(seeds="[0]"), tmp_path / "ray", engine=RayEngine(cluster.address, 1, None))
    found = status(out)["failed_prompts"]
    assert [row["prompt_id"] for row in found] == list(range(8, 16))
    assert found[0]["reason"] == "the worker ended 2 times in this shard"
    rest = pd.read_parquet(whole / "candidates.parquet").query("not 8 <= prompt_id < 16")
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "candidates.parquet"), rest.reset_index(drop=True), check_dtype=False
    )


def test_a_worker_too_large_for_the_cluster_is_refused(faults, tmp_path, cluster):
    config = faults.config().model_copy(update={"threads": 5})
    with pytest.raises(
        ValueError, match=r"needs 5 CPU.s. and 0 GPU.s. of one node, but the Ray cluster has 2 and 0"
    ):
        run(config, tmp_path / "many", engine=RayEngine(cluster.address, None, None))


def test_the_driver_killed_and_restarted(faults, tmp_path, cluster):
    expected = faults.tables(run(faults.config(), tmp_path / "local"))
    faults.set(slow=0.3)
    out = tmp_path / "ray"
    driver = faults.drive(out, "ray", cluster.address)
    wait_for(lambda: shard_files(out), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert status(out)["state"] == "stopped"
    done = {f: f.stat().st_mtime_ns for f in shard_files(out)}
    assert 0 < len(done) < 6
    faults.set()
    run(faults.config(), out, engine=RayEngine(cluster.address, 1, None))
    assert faults.tables(out) == expected
    whole = {f for f, t in done.items() if f.stat().st_mtime_ns == t}
    assert len(whole) >= len(done) - 1, "a finished shard was done again"


def test_ctrl_c_ends_the_workers_and_says_how_to_resume(faults, tmp_path, cluster, capsys):
    faults.set(slow=1)
    out = tmp_path / "ray"

    def interrupt():
        wait_for(lambda: shard_files(out))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(typer.Exit) as stop:
        sweep(faults.config(), str(out), Engine.ray, cluster.address, 1, None, bars=False)
    thread.join()
    assert stop.value.exit_code == 130
    assert "stopped; nothing that was finished is lost: resume with `vhsbench" in capsys.readouterr().err
    assert status(out)["state"] == "stopped"
    assert alive(faults) == []


def test_a_node_removed(faults, tmp_path, cluster):
    expected = faults.tables(run(faults.config(), tmp_path / "local"))
    node = cluster.add_node(num_cpus=1)
    faults.set(slow=0.3)
    out = tmp_path / "ray"
    thread, results = in_background(faults.config(), out, engine=RayEngine(cluster.address, 3, None))
    wait_for(lambda: shard_files(out))
    cluster.remove_node(node, allow_graceful=False)
    thread.join(240)
    assert results == [out]
    assert faults.tables(out) == expected


@pytest.mark.parametrize(("share", "gpus", "given"), [(None, 2, ["0", "1"]), (0.5, 1, ["0", "0"])])
def test_workers_get_gpus_and_costs_wait_until_they_are_gone(
    faults, tmp_path, cluster, monkeypatch, share, gpus, given
):
    """GPUs that Ray counts and names, but that are not there."""
    node = cluster.add_node(num_cpus=2, num_gpus=gpus)
    alive_at_costs = []

    def costs(*_):
        alive_at_costs.append(alive(faults))

    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", costs)
    faults.set(slow=3)
    config, out = faults.config().model_copy(update={"device": "cuda"}), tmp_path / "ray"
    try:
        thread, results = in_background(config, out, engine=RayEngine(cluster.address, None, share))
        wait_for(lambda: results or len(faults.loads()) == 2)  # else one of them might do it all
        faults.set()
        thread.join(240)
    finally:
        cluster.remove_node(node)
    assert results == [out]
    loads = [file.read_text() for file in (faults.folder / "loads").iterdir()]
    assert sorted(loads) == given
    assert alive_at_costs == [[]], "a worker lived while costs were measured"
    assert len(pd.read_parquet(out / "candidates.parquet")) == 24 * 2 * 3


def test_costs_are_not_measured_beside_a_worker_that_does_not_end(faults, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "_END_S", 0.2)
    monkeypatch.setattr(ray_engine, "lives", lambda process: True)
    monkeypatch.setattr(
        vhsbench.harness.sweep.run, "measure_costs", lambda *_: pytest.fail("costs were measured")
    )
    with pytest.raises(ValueError, match=r"worker process \d+ has not ended within 0.2 s"):
        run(faults.config(limit=8, seeds="[0]"), tmp_path / "ray", engine=RayEngine(cluster.address, 1, None))


@pytest.mark.parametrize(
    ("device", "share", "said"),
    [
        ("cuda:1", None, "the device is 'cuda', not 'cuda:1': Ray gives each worker its GPU"),
        ("cuda", 0.0, "--gpus-per-worker 0 gives workers no GPU, which device 'cuda' needs"),
        ("cuda", 1.5, "a share of one GPU .0.5. or a whole number, not 1.5"),
        ("cuda", None, r"needs 1 CPU.s. and 1 GPU.s. of one node, but the Ray cluster has 2 and 0 on 2 node"),
    ],
)
def test_gpus_that_ray_cannot_give_are_refused(faults, tmp_path, cluster, device, share, said):
    config = faults.config().model_copy(update={"device": device})
    with pytest.raises(ConfigError, match=said):
        run(config, tmp_path / "r", engine=RayEngine(cluster.address, None, share))


@pytest.mark.parametrize(
    ("have", "need", "room"),
    [((8, 0), (1, 0), 8), ((8, 2), (1, 1), 2), ((8, 2), (1, 0.5), 4), ((64, 4), (1, 0.4), 8),
     ((64, 1), (1, 0.1), 10), ((2, 4), (1, 0.5), 2), ((8, 3), (1, 2), 1), ((8, 0), (1, 0.5), 0)],
)  # fmt: skip
def test_a_share_of_a_gpu_is_of_one_gpu(have, need, room):
    assert ray_engine._room(*have, *need) == room


def test_ray_of_its_own_is_on_loopback_without_a_dashboard_and_ends_with_its_driver(faults, tmp_path, family):
    """Ray's own processes, and workers in the middle of a shard that takes minutes, when the driver is killed."""
    environment = {k: v for k, v in family.environment.items() if k != "RAY_ADDRESS"}
    driver = faults.drive(tmp_path / "ray", "ray", env=environment)
    wait_for(lambda: shard_files(tmp_path / "ray"), driver)
    assert driver.stdout.readline() == "dashboard: False\n"
    assert len(family.living()) >= 5
    addresses = listening(family.living())
    assert len(addresses) >= 5
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    faults.set(slow=300)
    time.sleep(1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert family.left() == []


def listening(processes):
    """The addresses of all sockets at which processes listen."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("inet")
            found += [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN]
    return found


def test_a_worker_ends_with_a_driver_whatever_ray_does(faults, tmp_path):
    """A driver that is another process of this machine, and an actor that Ray knows nothing of."""
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    code = (
        "import os, sys, time; from pathlib import Path; from vhsbench.harness.config.run import load_config\n"
        "from vhsbench.harness.common.processes import here; from vhsbench.harness.sweep.ray_engine import _Actor\n"
        "from vhsbench.harness.sweep.run import load_prompts; config = load_config(Path(sys.argv[1]))\n"
        "driver = (here()[0], int(sys.argv[2]))\n"
        "_Actor().load(config.model_dump(mode='json'), load_prompts(config), 0, 1, driver)\n"
        "print('loaded', flush=True); time.sleep(600)"
    )
    file = tmp_path / "config.yaml"
    file.write_text(faults.yaml(limit=8))
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(driver.pid)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline() == "loaded\n"
    assert worker.poll() is None
    driver.kill()  # and its parent, this test, asks for no status
    assert worker.wait(60) == -signal.SIGKILL
    driver.wait()


def test_the_private_switch_of_ray_is_what_it_was():
    """Fails where a version of Ray changes it: then `harness/sweep/ray_loopback.py` needs another way."""
    from ray._private import ray_constants

    from vhsbench.harness.sweep.ray_loopback import _SWITCH

    assert _SWITCH == "ENABLE_RAY_CLUSTER"
    assert ray_constants.ENABLE_RAY_CLUSTER is (sys.platform not in ("darwin", "win32"))
    code = (
        "from ray._private import ray_constants, services\n"
        "services.node_ip_address_from_perspective = lambda address=None: '192.0.2.1'\n"
        "print(services.get_node_ip_address())\n"
        "ray_constants.ENABLE_RAY_CLUSTER = False\n"
        "print(services.get_node_ip_address())\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["192.0.2.1", "127.0.0.1"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_ray_that_listens_on_the_network_all_the_same_is_refused(monkeypatch, gone):
    from ray._private import ray_constants

    from vhsbench.harness.sweep import ray_loopback

    if gone:
        monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    ended = []
    address = ["192.0.2.1"]
    fake = SimpleNamespace(
        nodes=lambda: [{"NodeManagerAddress": address[0]}], shutdown=lambda: ended.append(1), __version__="9"
    )
    monkeypatch.setattr(ray_loopback, "ray", fake)
    with (
        pytest.raises(ConfigError, match=r"Ray 9 cannot be kept to this machine .it listens on 192\.0\.2\.1"),
        ray_loopback.on_loopback(),
    ):
        pass
    assert ended == [1]
    address[0] = "::1"
    with ray_loopback.on_loopback():
        assert gone or ray_constants.ENABLE_RAY_CLUSTER is False
    assert gone or ray_constants.ENABLE_RAY_CLUSTER is True
