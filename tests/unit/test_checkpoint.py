from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from allophone.data.sampler import SamplerState
from allophone.errors import CheckpointError
from allophone.train import checkpoint as module
from allophone.train.checkpoint import MODEL, OPTIMIZER, STATE, Snapshot, load_latest, save_checkpoint

IDENTITY = {"train": {"steps": 9, "log_every": 5, "betas": [0.9, 0.98]}, "run": {"corpus": {"hash": "abc"}}}


def snapshot(step: int, size: int = 100) -> Snapshot:
    tied = torch.full((size,), float(step))
    return Snapshot(
        step=step,
        stream=SamplerState(epoch=1, position=step, seed=4),
        identity=IDENTITY,
        model={"weight": tied, "tied": tied, "part": tied.view(2, -1).T, "count": torch.tensor(step)},
        optimizer={"exp_avg/weight": tied / 3, "step/weight": torch.tensor(float(step))},
        sums={"loss": (0.1 + step, 3.0)},
        seconds=12.5,
    )


def same(a: Snapshot | None, b: Snapshot) -> bool:
    assert a is not None
    tensors = [
        torch.equal(ours[name], theirs[name])
        for ours, theirs in ((a.model, b.model), (a.optimizer, b.optimizer))
        for name in theirs
    ]
    return all(tensors) and (a.step, a.stream, a.sums, a.seconds) == (b.step, b.stream, b.sums, b.seconds)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", IDENTITY) == (None, [])


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    loaded, warnings = load_latest(tmp_path, IDENTITY)
    assert same(loaded, snapshot(3)) and warnings == []


def test_newest_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        save_checkpoint(tmp_path, snapshot(step), keep=2)
    assert names(tmp_path) == ["step-00000011", "step-00000100"]
    assert same(load_latest(tmp_path, IDENTITY)[0], snapshot(100))


def test_nothing_is_pickled(tmp_path: Path) -> None:
    slot = save_checkpoint(tmp_path, snapshot(3), keep=2)
    assert {path.suffix for path in slot.iterdir()} == {".safetensors", ".json"}


def test_same_step_can_be_saved_again(tmp_path: Path) -> None:
    slot = save_checkpoint(tmp_path, snapshot(3), keep=2)
    flip_byte(slot / MODEL)
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    assert same(load_latest(tmp_path, IDENTITY)[0], snapshot(3))
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_byte, "SHA-256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (Path.unlink, "is missing"),
    ],
)
def test_damaged_checkpoint_is_set_aside(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], message: str
) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    damage(save_checkpoint(tmp_path, snapshot(6), keep=2) / name)
    loaded, warnings = load_latest(tmp_path, IDENTITY)
    assert same(loaded, snapshot(3))
    assert len(warnings) == 1 and "step-00000006 is damaged" in warnings[0] and message in warnings[0]
    assert names(tmp_path) == ["damaged-step-00000006", "step-00000003"]
    for step in (4, 5):  # a damaged one does not count among those kept
        save_checkpoint(tmp_path, snapshot(step), keep=2)
    assert same(load_latest(tmp_path, IDENTITY)[0], snapshot(5))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}}', None])
def test_manifest_that_says_nothing(tmp_path: Path, content: str | None) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    manifest = save_checkpoint(tmp_path, snapshot(6), keep=2) / module.MANIFEST
    manifest.unlink() if content is None else manifest.write_text(content)
    loaded, warnings = load_latest(tmp_path, IDENTITY)
    assert same(loaded, snapshot(3)) and "manifest.json" in warnings[0]


def test_no_whole_checkpoint(tmp_path: Path) -> None:
    for step in (3, 6):
        flip_byte(save_checkpoint(tmp_path, snapshot(step), keep=2) / MODEL)
    for _ in range(2):  # the second call must not find an empty folder and begin anew
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole") as caught:
            load_latest(tmp_path, IDENTITY)
        assert "Nothing was changed" in str(caught.value) and "SHA-256" in str(caught.value)
        assert names(tmp_path) == ["step-00000003", "step-00000006"]


def test_other_run_is_refused_with_the_fields(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    other = json.loads(json.dumps(IDENTITY))
    other["train"]["steps"] = 10
    other["run"]["corpus"]["hash"] = "xyz"
    other["run"]["new"] = True
    with pytest.raises(CheckpointError, match="3 settings differ") as caught:
        load_latest(tmp_path, other)
    for part in ("run.corpus.hash was 'abc', is 'xyz'", "train.steps was 9, is 10", "run.new was 'not set', is True"):
        assert part in str(caught.value)


def test_settings_without_influence_may_change(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=2)
    other = {**IDENTITY, "train": {"steps": 9, "log_every": 1, "save_every": 7, "betas": (0.9, 0.98)}}
    assert same(load_latest(tmp_path, other)[0], snapshot(3))


@pytest.mark.parametrize("moment", ["save_file", "_sync", "_sha256"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: full")]
)
def test_full_disk_leaves_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, error: Exception
) -> None:
    save_checkpoint(tmp_path, snapshot(3), keep=1)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, moment, fail)
    with pytest.raises(CheckpointError, match=r"Cannot write checkpoint .*step-00000006: .*MB are free.*Make room"):
        save_checkpoint(tmp_path, snapshot(6), keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000003"]
    assert same(load_latest(tmp_path, IDENTITY)[0], snapshot(3))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
def test_file_system_that_is_really_full(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        save_checkpoint(tmp_path, snapshot(3, size=10_000), keep=2)
        with pytest.raises(CheckpointError, match="Cannot write checkpoint"):
            save_checkpoint(tmp_path, snapshot(6, size=50_000), keep=2)
        assert names(tmp_path) == ["step-00000003"]
        assert same(load_latest(tmp_path, IDENTITY)[0], snapshot(3, size=10_000))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write checkpoint"):
        save_checkpoint(tmp_path / "file" / "checkpoints", snapshot(3), keep=1)


@pytest.mark.parametrize("name", ["rename", "_sync", "_sha256", "_save_tensors"])
def test_death_at_any_moment_leaves_one_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every call of ``name`` during a save is the last thing the process does, in turn."""

    class Died(BaseException):
        pass

    owner: Any = Path if name == "rename" else module
    real = getattr(owner, name)
    for survived in range(12):
        folder = tmp_path / str(survived)
        save_checkpoint(folder, snapshot(3), keep=1)
        left = [survived]

        def die(*arguments: Any, left: list[int] = left) -> Any:
            if left[0] == 0:
                raise Died
            left[0] -= 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, die)
        try:
            save_checkpoint(folder, snapshot(6), keep=1)
            finished = True
        except Died:
            finished = False
        monkeypatch.undo()
        loaded, warnings = load_latest(folder, IDENTITY)
        assert warnings == [] and loaded is not None and loaded.step in (3, 6)
        save_checkpoint(folder, snapshot(9), keep=1)
        assert names(folder) == ["step-00000009"]
        if finished:
            return
    pytest.fail(f"{name} was called more than 12 times")
