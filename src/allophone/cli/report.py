"""``allophone report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import wrote
from allophone.cli.parser import Verbs, add_out, add_verb


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "report",
        command,
        summary="Write one offline page from the results of one or more runs.",
        example="allophone report runs/demo --out report.html",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    add_out(parser, "the page", Path("report.html"))


def command(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from allophone.recipes.report import report

    wrote(report(arguments.runs, out=arguments.out))
