"""``allophone benchmark``."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from allophone.cli.console import Progress, progress, say
from allophone.cli.parser import Verbs, add_verb

NAMES = ("index", "ragged", "resume")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "benchmark",
        command,
        summary="Time us beside named peers on the same work, measure the index, or prove that a killed run resumes.",
        details="index: a million vectors, or --rows: how fast, how exact, how large.\n"
        "ragged: a batch of clips of 0.5 to 15 s, against transformers.\nresume: runs killed at random steps.",
        example="allophone benchmark ragged --json",
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=" or ".join(NAMES))
    parser.add_argument("--repeats", type=int, metavar="N", help="timed pairs (default: 5), or kills (default: 20)")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="vectors of index (default: 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def command(arguments: argparse.Namespace) -> None:
    """Run the benchmark."""
    with progress(arguments.name) as report:
        if arguments.name == "index":
            result = _index(arguments.rows, report)
        else:
            result = {"ragged": _ragged, "resume": _resume}[arguments.name](arguments.repeats, report)
    if arguments.json:
        say(json.dumps(result))
    else:
        for name, value in result.items():
            say(f"{name:<14} {value}")


def _index(rows: int, report: Progress) -> dict[str, Any]:
    from allophone.benchmarks.vectors import measure_index

    with tempfile.TemporaryDirectory() as folder:
        return measure_index(Path(folder), rows=rows, progress=report)


def _ragged(repeats: int | None, report: Progress) -> dict[str, Any]:
    from allophone.benchmarks.ragged import run

    return run(pairs=5 if repeats is None else repeats, progress=report)


def _resume(repeats: int | None, report: Progress) -> dict[str, Any]:
    from allophone.benchmarks.resume import prove_resume
    from allophone.config import to_dict

    with tempfile.TemporaryDirectory() as folder:
        proof = prove_resume(Path(folder), kills=20 if repeats is None else repeats, progress=report)
    return {"name": "resume"} | to_dict(proof)
