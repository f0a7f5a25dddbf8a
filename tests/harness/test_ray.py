"""The Ray engine, with the faults that clusters have, for real on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import psutil
import pytest
import torch

from harness.config import parse
from harness.status import status
from harness.sweep import local, run

ray = pytest.importorskip(
    "ray", reason="Ray is not installed (the extra vhsbench[ray]): its engine is untested"
)

from ray.cluster_utils import Cluster  # noqa: E402

from harness.ray_engine import RayEngine  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of this machine, one worker each; Ray's own files in a folder of a short name."""
    import harness

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


def wait_for(what, process=None, seconds=90):
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
    assert not any(psutil.pid_exists(int(pid)) for pid in pids), "a worker outlived the candidates"


def test_nano_gives_the_same_bytes_on_both_engines(faults, tmp_path, cluster):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: mllm-clip}]\n"
        "prompts: {source: nano, split: validation, limit: 24}\npool: 2\nbatch_size: 8\n"
        "gallery_prompts: 1\nthreads: 1\n",
        "nano.yaml",
    )
    threads = torch.get_num_threads()
    expected = faults.tables(run(config, tmp_path / "local"))
    torch.set_num_threads(threads)
    overlapped = config.model_copy(update={"overlap": True})
    out = run(overlapped, tmp_path / "ray", engine=RayEngine(cluster.address, 2, None))
    assert faults.tables(out) == expected


def test_a_worker_killed_with_kill_9(faults, tmp_path, cluster, caplog):
    expected = faults.tables(run(faults.config(), tmp_path / "local"))
    faults.set(slow=0.3)
    out = tmp_path / "ray"
    config = faults.config(overlap=True)
    thread, results = in_background(config, out, engine=RayEngine(cluster.address, 2, None))
    wait_for(lambda: shard_files(out))
    pids = {int(name.rsplit("-", 2)[1]) for name in faults.loads()} - {os.getpid()}
    os.kill(next(p for p in pids if psutil.pid_exists(p)), signal.SIGKILL)
    thread.join(120)
    assert results == [out]
    assert faults.tables(out) == expected
    assert "a worker ended" in caplog.text


def test_a_prompt_that_kills_its_workers(faults, tmp_path, cluster):
    whole = run(faults.config(seeds="[0]"), tmp_path / "local")
    prompts = [json.loads(line)["prompt"] for line in (whole / "prompts.jsonl").read_text().splitlines()]
    faults.set(die=prompts[9])
    out = run(faults.config(seeds="[0]"), tmp_path / "ray", engine=RayEngine(cluster.address, 2, None))
    found = status(out)["failed_prompts"]
    assert [row["prompt_id"] for row in found] == list(range(8, 16))
    assert found[0]["reason"] == "the worker ended 4 times in this shard"
    rest = pd.read_parquet(whole / "candidates.parquet").query("not 8 <= prompt_id < 16")
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "candidates.parquet"), rest.reset_index(drop=True), check_dtype=False
    )


def test_a_worker_too_large_for_the_cluster_is_refused(faults, tmp_path, cluster):
    config = faults.config().model_copy(update={"threads": 5})
    with pytest.raises(ValueError, match=r"needs 5 CPU.s. and 0 GPU.s., but the Ray cluster has 2 and 0"):
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
    driver = faults.drive(out, "ray", cluster.address)
    said = driver.communicate()[1]
    assert driver.returncode == 0, said
    assert faults.tables(out) == expected
    whole = {f for f, t in done.items() if f.stat().st_mtime_ns == t}
    assert len(whole) >= len(done) - 1, "a finished shard was done again"


def test_a_node_removed(faults, tmp_path, cluster):
    expected = faults.tables(run(faults.config(), tmp_path / "local"))
    node = cluster.add_node(num_cpus=1)
    faults.set(slow=0.3)
    out = tmp_path / "ray"
    thread, results = in_background(faults.config(), out, engine=RayEngine(cluster.address, 3, None))
    wait_for(lambda: shard_files(out))
    cluster.remove_node(node, allow_graceful=False)
    thread.join(180)
    assert results == [out]
    assert faults.tables(out) == expected


def test_ray_of_its_own_has_no_dashboard():
    code = (
        "import ray, harness.ray_engine as engine; engine._connect(None)\n"
        "print(ray.is_initialized(), bool(ray._private.worker._global_node.webui_url))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.strip().splitlines()[-1] == "True False"
