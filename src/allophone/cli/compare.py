"""``allophone compare``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allophone.cli.console import say, wrote
from allophone.cli.parser import Verbs, add_verb


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "compare",
        command,
        summary="Put evaluated models side by side and say which differences are real.",
        details="Paired bootstrap over items and seeds; Holm's correction over all comparisons of the call.",
        example="allophone compare runs/starter runs/mine --out comparison.md",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what `allophone evaluate --out` wrote")
    parser.add_argument(
        "--level", type=float, default=0.05, metavar="P", help="chance of a false alarm among equals (default: 0.05)"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="write the tables there too, as Markdown")
    parser.add_argument("--json", action="store_true", help="print the comparisons as one JSON object")


def command(arguments: argparse.Namespace) -> None:
    """Compare."""
    from allophone.config import to_dict
    from allophone.recipes.compare import compare_folders

    found = compare_folders(arguments.folders, level=arguments.level)
    if arguments.json:
        say(json.dumps({"level": found.level, "differences": [to_dict(one) for one in found.differences]}))
    else:
        say(found.markdown())
    if arguments.out is not None:
        arguments.out.write_text(found.markdown(), encoding="utf-8")
        wrote(arguments.out)
