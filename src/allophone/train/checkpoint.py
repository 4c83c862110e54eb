"""Saving and restoring a run: whole or not at all, checked by hash when read, no pickle.

A checkpoint is a folder ``step-00000120`` with ``model.safetensors``, ``optimizer.safetensors``, ``state.json`` and,
written last, ``manifest.json`` with the SHA-256 of the others. It is written under another name, synced to the disk
and renamed, so a folder with the right name is complete, and its hashes say whether it still is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from allophone.data.sampler import SamplerState
from allophone.errors import CheckpointError

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"

_FREE_TO_CHANGE = re.compile(r"(^|\.)train\.(log_every|save_every|keep_checkpoints|tensorboard|microbatches|parallel)$")
"""Settings that a resume may change; micro-batches are compared as ``batches_per_step``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything a run consists of after ``step`` updates."""

    step: int
    stream: SamplerState
    """Where the next batch comes from."""
    identity: Mapping[str, Any]
    """What the run is, as JSON values: settings, data and model hashes. A resume must agree with it."""
    model: Mapping[str, Tensor]
    """The method's state dict."""
    optimizer: Mapping[str, Tensor]
    """The optimizer's state by parameter name."""
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Sums and counts since the journal's last line."""
    seconds: float = 0.0
    """Time spent training so far."""


def save_checkpoint(folder: Path, snapshot: Snapshot, *, keep: int) -> Path:
    """Write one checkpoint and delete all but the newest ``keep``.

    Args:
        folder: Where the checkpoints of the run lie.
        snapshot: What to write.
        keep: Checkpoints kept, at least 1.

    Returns:
        The new checkpoint's folder.

    Raises:
        CheckpointError: It cannot be written, for example because the disk is full; earlier ones stay as they were.
    """
    final = folder / f"step-{snapshot.step:08d}"
    partial = folder / f".partial-{snapshot.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        partial.mkdir()
        _write(partial, snapshot)
        if final.exists():  # an older attempt at the same step, possibly damaged
            final.rename(folder / f".partial-old-{snapshot.step:08d}")
        partial.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_cannot_write(final, error)) from error
    _remove_partial(folder)
    for old in _slots(folder)[keep:]:
        shutil.rmtree(old)
    return final


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has got as far as its first checkpoint, whole or damaged."""
    return bool(_slots(folder))


def load_latest(folder: Path, identity: Mapping[str, Any]) -> tuple[Snapshot | None, list[str]]:
    """Read the newest checkpoint that is whole.

    Damaged ones that are newer are set aside as ``damaged-...``. Where none is whole, all stay as they are: else the
    next call would find no checkpoint and begin the run anew, over what is left of it.

    Args:
        folder: Where the checkpoints of the run lie; need not exist.
        identity: What the run that wants to go on is.

    Returns:
        The snapshot, or None where nothing was saved yet; and one line per damaged checkpoint.

    Raises:
        CheckpointError: Checkpoints exist but none is whole, or the run is another one; the message says which
            settings differ.
    """
    damaged: dict[Path, str] = {}
    for slot in _slots(folder):
        damage = _damage(slot)
        if damage is None:
            snapshot = _read(slot, identity)
            return snapshot, [_set_aside(newer, why) for newer, why in damaged.items()]
        damaged[slot] = damage
    if damaged:
        found = ", ".join(f"{slot.name} ({why})" for slot, why in damaged.items())
        raise CheckpointError(
            f"{folder}: none of the {len(damaged)} checkpoints is whole: {found}. Nothing was changed. Delete this "
            f"folder to train from the first step again, or give the run another name."
        )
    return None, []


def _set_aside(slot: Path, damage: str) -> str:
    """Rename a damaged checkpoint; returns what to tell."""
    slot.rename(_free_name(slot.parent, f"damaged-{slot.name}"))
    return f"Checkpoint {slot.name} is damaged ({damage}); it was set aside and the one before it taken."


def _slots(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _write(folder: Path, snapshot: Snapshot) -> None:
    _save_tensors(snapshot.model, folder / MODEL)
    _save_tensors(snapshot.optimizer, folder / OPTIMIZER)
    state = {
        "step": snapshot.step,
        "stream": {name: getattr(snapshot.stream, name) for name in ("epoch", "position", "seed")},
        "identity": snapshot.identity,
        "sums": snapshot.sums,
        "seconds": snapshot.seconds,
    }
    (folder / STATE).write_text(json.dumps(state, indent=1, ensure_ascii=False), encoding="utf-8")
    names = (MODEL, OPTIMIZER, STATE)
    for name in names:
        _sync(folder / name)
    manifest = {name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    (folder / MANIFEST).write_text(json.dumps({"step": snapshot.step, "files": manifest}, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies on the CPU, so that tensors that share memory are written like any other."""
    save_file({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, path)


def _damage(slot: Path) -> str | None:
    """What is wrong with a checkpoint on the disk; None when it is whole."""
    try:
        files = json.loads((slot / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in (MODEL, OPTIMIZER, STATE):
            size, expected = (slot / name).stat().st_size, files[name]["bytes"]
            if size != expected:
                return f"{name} has {size} bytes, expected {expected}"
            if _sha256(slot / name) != files[name]["sha256"]:
                return f"{name} does not have the SHA-256 of its manifest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def _read(slot: Path, identity: Mapping[str, Any]) -> Snapshot:
    state = json.loads((slot / STATE).read_text(encoding="utf-8"))
    _require_same(slot, state["identity"], json.loads(json.dumps(identity)))
    return Snapshot(
        step=state["step"],
        stream=SamplerState(**state["stream"]),
        identity=state["identity"],
        model=load_file(slot / MODEL),
        optimizer=load_file(slot / OPTIMIZER),
        sums={name: (float(pair[0]), float(pair[1])) for name, pair in state["sums"].items()},
        seconds=state["seconds"],
    )


def differences(saved: Any, asked: Any) -> list[str]:
    """What differs between two runs, given as JSON values, besides settings that a resume may change."""
    before, now = dict(_flatten(saved)), dict(_flatten(asked))
    return [
        f"{name} was {before.get(name, 'not set')!r}, is {now.get(name, 'not set')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not _FREE_TO_CHANGE.search(name)
    ]


def _require_same(slot: Path, saved: Any, asked: Any) -> None:
    differing = differences(saved, asked)
    if differing:
        raise CheckpointError(
            f"{slot} belongs to another run; {len(differing)} settings differ: {'; '.join(differing[:8])}. "
            f"Go on with the old settings, or give the run another name."
        )


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _cannot_write(path: Path, error: Exception) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there"
    except OSError:
        free = "the folder cannot be read either"
    return (
        f"Cannot write checkpoint {path}: {error}; {free}. Earlier checkpoints are untouched. "
        f"Make room or fix the folder, then start the same command again: it resumes."
    )


def _free_name(folder: Path, name: str) -> Path:
    """A path in ``folder`` that does not exist yet."""
    path, number = folder / name, 1
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path


def _remove_partial(folder: Path) -> None:
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make the system write a file or folder to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
