"""What a speaker's recordings are in: codebooks, models and packs under run folders, and what making them anew takes.

The answer comes from lineage: the table of recordings beside a run (``used.parquet``), and the hashes of what each
thing was made from. What was made from something that heard the speaker has heard the speaker too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from allophone.errors import CheckpointError, DataError
from allophone.models.conversion import read_json
from allophone.run.used import USED, read_use
from allophone.train.loop import CHECKPOINTS
from allophone.units.encode import described_units

COMMAND_FILE = "command.json"
Kind = Literal["codebook", "model", "pack", "units", "checkpoints"]
FILES: dict[str, Kind] = {
    "allophone.json": "model",
    "codebook.json": "codebook",
    "units.parquet": "units",
    CHECKPOINTS: "checkpoints",
}
"""What tells that there is something; ``allophone.json`` may also be a pack's."""
How = Literal["directly", "through what it was made from", "not recorded", "cannot be read"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Affected:
    """A thing on disk that a speaker is in."""

    folder: Path
    kind: Kind
    how: How
    uses: tuple[tuple[str, int], ...] = ()
    """For ``directly``: what for, and how many recordings."""
    through: tuple[str, ...] = ()
    """Folders of what it was made from that the speaker is in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """Everything that was found."""

    speaker: str
    affected: tuple[Affected, ...]
    """The speaker is in these."""
    unknown: tuple[Affected, ...]
    """Nobody wrote down which recordings these were made from, or what they were made of cannot be read."""
    clean: int
    """Things that the speaker is not in."""
    commands: tuple[str, ...]
    """What makes the affected ones anew, in the order to run them; ``CORPUS`` is the corpus without the speaker."""


@dataclass(slots=True)
class _Thing:
    folder: Path
    kind: Kind
    hash: str
    parents: set[str]
    uses: dict[str, list[dict[str, str | None]]] | None
    readable: bool = True
    """Else nobody knows what it was made from."""


def withdraw(speaker: str, runs: Sequence[Path]) -> Withdrawal:
    """Find what a speaker's recordings are in. Nothing is changed.

    Args:
        speaker: As the corpus names them.
        runs: Folders to look through, with all that lies in them.

    Raises:
        DataError: A folder does not exist, or a table of recordings cannot be read.
    """
    missing = [str(run) for run in runs if not run.is_dir()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such folder. Name folders that hold runs, such as runs/.")
    things = [thing for run in runs for thing in _things(run)]
    heard = {id(thing): _uses_of(thing, speaker) for thing in things}
    tainted = {thing.hash for thing in things if heard[id(thing)]}
    while True:
        more = {thing.hash for thing in things if thing.parents & tainted} - tainted
        if not more:
            break
        tainted |= more
    where = {thing.hash: thing.folder for thing in things}
    affected, unknown = [], []
    how: How
    for thing in things:
        uses = heard[id(thing)]
        through = tuple(sorted({str(where[parent]) for parent in thing.parents & tainted} - {str(thing.folder)}))
        if uses:
            counted = tuple((use, count) for use, count in uses.items())
            affected.append(
                Affected(folder=thing.folder, kind=thing.kind, how="directly", uses=counted, through=through)
            )
        elif thing.hash in tainted:
            how = "through what it was made from"
            affected.append(Affected(folder=thing.folder, kind=thing.kind, how=how, through=through))
        elif thing.uses is None or not thing.readable:
            how = "not recorded" if thing.readable else "cannot be read"
            unknown.append(Affected(folder=thing.folder, kind=thing.kind, how=how))
    return Withdrawal(
        speaker=speaker,
        affected=tuple(affected),
        unknown=tuple(unknown),
        clean=len(things) - len(affected) - len(unknown),
        commands=tuple(dict.fromkeys(_commands([one.folder for one in affected], runs))),
    )


def _uses_of(thing: _Thing, speaker: str) -> dict[str, int]:
    """Recordings of the speaker by use, as far as they are in the thing itself: labels alone leave no trace in it."""
    counted = {use: sum(row["speaker"] == speaker for row in rows) for use, rows in (thing.uses or {}).items()}
    return {use: count for use, count in counted.items() if count and (use != "labelled" or thing.kind == "units")}


def _things(run: Path) -> Iterator[_Thing]:
    """Everything with a hash under a folder, and the checkpoints of its runs, in order of path."""
    for path in sorted(found for name in FILES for found in run.rglob(name)):
        thing = _thing(path)
        if thing is not None:
            thing.uses = _uses(thing.folder, run)
            yield thing


def _thing(path: Path) -> _Thing | None:
    """What a file (or a folder of checkpoints) describes; None where it is something else."""
    folder, kind = path.parent, FILES[path.name]
    if kind == "checkpoints":
        return _Thing(path, "checkpoints", f"checkpoints of {folder}", set(), None) if path.is_dir() else None
    try:
        if kind == "units":
            parent = described_units(path).get("codebook_hash")
            return _Thing(folder, "units", f"units of {folder}", _known(parent), None)
        values = read_json(path)
    except CheckpointError:
        return _Thing(folder, kind, f"unreadable {path}", set(), None, readable=False)
    return _codebook(folder, values) if kind == "codebook" else _model_or_pack(folder, values)


def _codebook(folder: Path, values: dict[str, Any]) -> _Thing | None:
    info = values.get("info")
    if not isinstance(info, dict) or "hash" not in values:
        return None
    return _Thing(folder, "codebook", values["hash"], _known(info.get("model_hash"), info.get("parent")), None)


def _model_or_pack(folder: Path, values: dict[str, Any]) -> _Thing | None:
    if "model_hash" in values:
        return _Thing(folder, "model", values["model_hash"], _known(*values.get("parents", ())), None)
    if "base_model_hash" not in values:
        return None
    names = ("base_model_hash", "root_model_hash", "codebook_hash", "targets_codebook_hash")
    parents = _known(*(values.get(name) for name in names), *values.get("packs_below", ()))
    return _Thing(folder, "pack", values.get("pack_hash", f"pack in {folder}"), parents, None)


def _known(*hashes: str | None) -> set[str]:
    return {one for one in hashes if one}


def _uses(folder: Path, run: Path) -> dict[str, list[dict[str, str | None]]] | None:
    """Recordings behind a folder: the nearest table on the way up; else, for model and checkpoints, all of the run."""
    place = folder
    tables: list[Path] = []
    while not tables:
        tables = [place] if (place / USED).is_file() else []
        if place == run:
            break
        place = place.parent
    if not tables and folder.name in ("model", CHECKPOINTS) and folder != run:
        tables = sorted(path.parent for path in folder.parent.rglob(USED))
    found: dict[str, list[dict[str, str | None]]] = {}
    for table in tables:
        for use, rows in (read_use(table) or {}).items():
            found.setdefault(use, []).extend(rows)
    return found if tables else None


def _commands(folders: Sequence[Path], runs: Sequence[Path]) -> Iterator[str]:
    """The recorded command of each run that an affected folder is part of, oldest first, on the smaller corpus."""
    roots = {run.resolve() for run in runs}
    made: dict[Path, float] = {}
    bare: list[Path] = []
    for folder in folders:
        place = folder.resolve()
        while not (place / COMMAND_FILE).is_file() and place not in roots and place != place.parent:
            place = place.parent
        if (place / COMMAND_FILE).is_file():
            made[place] = (place / COMMAND_FILE).stat().st_mtime
        elif not any(folder.resolve().is_relative_to(one) for one in bare):
            bare.append(folder.resolve())
    for place in sorted(made, key=lambda one: made[one]):
        arguments = json.loads((place / COMMAND_FILE).read_text(encoding="utf-8"))["arguments"]
        yield _on_smaller_corpus([_made_anew(word, made) for word in arguments], place)
    for folder in bare:
        yield f"# {folder}: made from Python, no command is recorded; make it again on CORPUS with its config.json"


def _made_anew(word: str, made: Collection[Path]) -> str:
    """A word of a command; a path in a run that is made anew (``--base=old/model``, ``ssl=old/model``) moves along."""
    name, equals, value = word.rpartition("=")
    path = Path(value).resolve()
    run = next((one for one in made if path.is_relative_to(one)), None)
    if not value or run is None:
        return word
    return f"{name}{equals}{_anew(run) / path.relative_to(run)}"


def _anew(run: Path) -> Path:
    """Where a run is made again."""
    return run.with_name(f"{run.name}-withdrawn")


def _on_smaller_corpus(arguments: list[str], place: Path) -> str:
    """A command line with another corpus and another folder to write to."""
    line = list(arguments)
    for option, value in (("--corpus", "CORPUS"), ("--out", str(_anew(place)))):
        for number, word in enumerate(line):
            if word == option and number + 1 < len(line):
                line[number + 1] = value
            elif word.startswith(f"{option}="):
                line[number] = f"{option}={value}"
    if "--out" not in line and not any(word.startswith("--out=") for word in line):
        line += ["--out", str(_anew(place))]
    return shlex.join(["allophone", *line])
