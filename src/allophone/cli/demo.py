"""``allophone demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import progress, say, wrote
from allophone.cli.parser import Verbs, add_out, add_plan, add_verb

LANGUAGES = ("bul", "ell", "ita", "dan")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "demo",
        command,
        summary="Add a language to the starter encoder and report what was gained and what was kept.",
        details="Uses the recordings that come with the project, needs no network; the code is `allophone expand`'s.",
        example="allophone demo --language ell",
    )
    parser.add_argument(
        "--language",
        choices=LANGUAGES,
        default="bul",
        help="new language, one that the encoder never heard (default: bul)",
    )
    parser.add_argument("--fast", action="store_true", help="fewer steps and clips: two minutes instead of ten")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (default: 0)"
    )
    add_out(parser, "the run", Path("runs/demo"))
    add_plan(parser)


def command(arguments: argparse.Namespace) -> None:
    """Run the demo."""
    from allophone.recipes.demo import demo

    with progress("demo") as report:
        result = demo(
            arguments.out,
            fast=arguments.fast,
            language=arguments.language,
            seed=arguments.seed,
            plan=arguments.plan,
            progress=report,
        )
    if arguments.plan:
        say(str(result))
    else:
        wrote(arguments.out / "report.html", "report:")
