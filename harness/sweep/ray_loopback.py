"""A Ray that is started here listens on this machine alone: the one private name of Ray that is used, kept apart."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import ray

from vhsbench.harness.config.run import ConfigError

_SWITCH = "ENABLE_RAY_CLUSTER"  # off on a Mac, where a Ray so listens on 127.0.0.1; elsewhere its ports are the network's


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that is started meanwhile listen on loopback.

    Raises ConfigError, and ends that Ray, if it listens on the network all the same: another version's switch.
    """
    ray_constants: Any = None
    with suppress(ImportError):
        ray_constants = import_module("ray._private.ray_constants")
    before = getattr(ray_constants, _SWITCH, None)
    if before is not None:
        setattr(ray_constants, _SWITCH, False)
    try:
        yield
    finally:
        if before is not None:
            setattr(ray_constants, _SWITCH, before)
    addresses = [str(node["NodeManagerAddress"]) for node in ray.nodes()]
    if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        ray.shutdown()
        raise ConfigError(
            f"Ray {ray.__version__} cannot be kept to this machine (it listens on {', '.join(addresses)}): install "
            "another version, or start a cluster with `ray start` and name it in --address."
        )
