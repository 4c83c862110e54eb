"""``allophone doctor``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allophone.cli.console import say
from allophone.cli.parser import Verbs, add_verb
from allophone.config import to_dict

MARKS = {"good": "ok  ", "warning": "note", "bad": "BAD "}


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "doctor",
        command,
        summary="Look at this machine: devices, codecs, disk, versions; one line each, with the mend.",
        details="Exit code 1 when something is bad. Changes nothing and needs no network.",
        example="allophone doctor",
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def command(arguments: argparse.Namespace) -> int:
    """Run the checks and print them."""
    from allophone.run.doctor import doctor

    checks = doctor(Path.cwd())
    if arguments.json:
        say(json.dumps([to_dict(check) for check in checks], indent=2))
    else:
        for check in checks:
            say(
                f"{MARKS[check.status]}  {check.name:<9} {check.found}"
                + (f"\n{'':16}{check.mend}" if check.mend else "")
            )
    return int(any(check.status == "bad" for check in checks))
