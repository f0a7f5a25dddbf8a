"""What a run is doing, read from its directory while it goes on, or after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.locks import is_held
from vhsbench.harness.common.text import decode, parse_json
from vhsbench.harness.store.folder import Folder, StorageError
from vhsbench.harness.store.keys import JUDGED_BY
from vhsbench.harness.store.tables import LOCK, StoreError, read_info
from vhsbench.harness.sweep.progress import NAME

if TYPE_CHECKING:
    from rich.console import Console

_SILENT_S = 120.0  # after which a driver elsewhere is taken for gone


def status(where: str | Path, now_s: float | None = None) -> dict[str, Any]:
    """Return state, phases with rate and time left, incidents, and judges that the run has no longer. Raises StoreError."""
    folder = Folder(where)
    info = read_info(folder)
    if info is None:
        raise StoreError(f"{where} is not a run directory: it has no run.json.")
    now_s = time.time() if now_s is None else now_s
    try:
        journal = parse_json(decode(folder.read(NAME), f"{folder}/{NAME}"), f"{folder}/{NAME}")
        phases = [_phase(name, p) for name, p in journal["phases"].items()]
        incidents = [dict(i) for i in journal["incidents"]]
        updated_s = float(journal["updated_s"])
        host, pid, said = str(journal["host"]), int(journal["pid"]), str(journal["status"])
    except FileNotFoundError:
        phases, incidents, updated_s, host, pid, said = [], [], now_s, "", 0, ""
    except (ReadError, StorageError) as error:
        raise StoreError(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{folder}/{NAME} is damaged: {error}.") from error
    going = folder.local is not None and is_held(folder.local / LOCK)
    if folder.local is None:
        going = said == "running" and abs(now_s - updated_s) < _SILENT_S  # a clock may have been set back
    complete = info["status"] == "complete"
    failed = [i for i in incidents if i.get("kind") == "failed"]
    return {
        "run": str(folder),
        "state": "complete" if complete else "running" if going else "stopped",
        "host": host,
        "pid": pid,
        "updated_s_ago": round(max(0.0, now_s - updated_s), 1),
        "phases": phases,
        "failed_prompts": failed,
        "incidents": [i for i in incidents if i.get("kind") != "failed"],
        "dropped_judges": _dropped(folder, info),
    }


def _dropped(folder: Folder, info: Mapping[str, Any]) -> list[str]:
    """List the judges whose shards are kept although the run has them no longer."""
    judges = info.get("identity", {}).get("judges", {})
    return sorted(
        {key.rpartition(JUDGED_BY)[2] for key in folder.names("shards/verdicts", ".parquet")} - {*judges}
    )


def show(found: dict[str, Any], console: Console) -> None:
    """Print a status for a person."""
    console.print(f"{found['run']}: {found['state']}", highlight=False, markup=False)
    for phase in found["phases"]:
        line = f"  {phase['phase']}: {phase['done']} of {phase['of']}"
        if phase["per_minute"] is not None:
            line += f", {phase['per_minute']:.1f} a minute"
        if phase["left_s"] is not None and found["state"] == "running" and phase["done"] < phase["of"]:
            line += f", {phase['left_s'] / 60:.1f} min left"
        console.print(line, highlight=False, markup=False)
    for row in found["failed_prompts"]:
        text = f"  failed: {row['generator']}, seed {row['seed']}, prompt {row['prompt_id']}: {row['reason']}"
        console.print(text, highlight=False, markup=False)
    for row in found["incidents"]:
        text = f"  {row['kind'].replace('_', ' ')}: {row['generator']}, seed {row['seed']}, "
        text += f"prompt {row['prompt_id']}, batch of {row['batch']}: done again with half"
        console.print(text, highlight=False, markup=False)
    for judge in found["dropped_judges"]:
        text = f"  shards of judge '{judge}', which the run has no longer, are kept: put it back, and it need not judge again"
        console.print(text, highlight=False, markup=False)
    if found["state"] == "stopped":
        console.print(f"  resume it with `vhsbench run CONFIG --out {found['run']}`", markup=False)


def _phase(name: str, phase: dict[str, Any]) -> dict[str, Any]:
    done, of = int(phase["done"]), int(phase["of"])
    since = done - int(phase["done_before"])
    spent_s = float(phase["spent_s"])
    per_s = since / spent_s if since and spent_s > 0 else None
    return {
        "phase": name,
        "done": done,
        "of": of,
        "per_minute": 60 * per_s if per_s else None,
        "left_s": (of - done) / per_s if per_s else None,
    }
