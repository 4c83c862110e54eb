"""What a stage was made from, written beside what it made: a stage is skipped only where all of that is the same.

Settings, corpus and teacher count, each by its hash or in full; the mere existence of a folder does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from allophone.config import to_json
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError
from allophone.run.used import record_use
from allophone.train.checkpoint import differences

ORIGIN = "made_from.json"
CONFIG = "config.json"


def write_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write what is being made in ``folder`` from what, as JSON values."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{ORIGIN}"
    partial.write_text(json.dumps(origin, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / ORIGIN)


def begin_run(run_dir: Path, origin: Mapping[str, Any], config: Any, training: Iterable[Utterance]) -> None:
    """Write the origin of a run, what it trains on and its config, a frozen dataclass, before anything else."""
    write_origin(run_dir, origin)
    record_use(run_dir, {"trained": training})
    (run_dir / CONFIG).write_text(to_json(config), encoding="utf-8")


def origin_differences(folder: Path, origin: Mapping[str, Any]) -> list[str]:
    """In what a folder was made from something else; one line a setting, empty when it is the same.

    A folder of an earlier version has no such file; there the settings in ``config.json`` are compared, if it has that.
    Batches of a step are compared as a checkpoint does.
    """
    try:
        if (folder / ORIGIN).exists():
            saved = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
            return differences(_with_batches(saved), _with_batches(origin))
        if "config" in origin and (folder / CONFIG).exists():
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            return differences(_with_batches({"config": config}), _with_batches({"config": origin["config"]}))
    except ValueError as error:
        return [f"what it was made from cannot be read ({error})"]
    return []


def _with_batches(origin: Mapping[str, Any]) -> dict[str, Any]:
    """An origin that names the batches of a step by themselves: as ``train.microbatches`` they may change."""
    train = (origin.get("config") or {}).get("train") or {}
    return {**origin, **({"batches_per_step": train["microbatches"]} if "microbatches" in train else {})}


def require_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Refuse to take what lies in ``folder`` for something that it is not.

    Raises:
        CheckpointError: It was made from something else; the message names what differs.
    """
    found = origin_differences(folder, origin)
    if found:
        raise CheckpointError(
            f"{folder} was made from something else; {len(found)} settings differ: {'; '.join(found[:8])}. Go on with "
            f"the old settings, name another run folder, or delete this one to make it again; earlier ones stay."
        )
