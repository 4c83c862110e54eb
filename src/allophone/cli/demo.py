"""``allophone demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, say, stages
from allophone.cli.parser import Verbs, add_out, add_plan, add_verb


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
        default="bul",
        metavar="ISO",
        help="new language that the encoder never heard: bul, ell, ita or dan (default: bul)",
    )
    parser.add_argument("--fast", action="store_true", help="fewer steps, clips and probes: a quick look")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (default: 0)"
    )
    add_out(parser, "the run", Path("runs/demo"))
    add_plan(parser)


def command(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from allophone.recipes.demo import demo

    if arguments.plan:
        return _plan(arguments)
    with stages() as report:
        result = demo(
            arguments.out, language=arguments.language, fast=arguments.fast, seed=arguments.seed, report=report
        )
    if result is not None:
        say(result.summary)
    return ended(result is not None, arguments.out / "report.html")


def _plan(arguments: argparse.Namespace) -> int:
    from allophone.recipes.demo import demo_config
    from allophone.recipes.expand import KEEP, heard_hours
    from allophone.run.plan import plan_expansion
    from allophone.run.starter import STARTER, open_base, starter_corpus

    base, _ = open_base(STARTER)
    config = demo_config(fast=arguments.fast, seed=arguments.seed)
    say(str(plan_expansion(base, config, heard_hours(starter_corpus(), arguments.language, KEEP, config))))
    return 0
