"""``allophone expand``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, say, stages
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, languages
from allophone.cli.places import open_corpus

SETTINGS = "allophone.run.expansion:ExpandConfig"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "expand",
        command,
        summary="Add a language to an encoder by LoRA: a language pack and a ledger of what was gained and kept.",
        details="Run the same command again to go on after an interruption.",
        example="allophone expand --corpus recordings/ --language swa --keep spa,fra",
    )
    add_corpus(parser)
    parser.add_argument("--language", required=True, metavar="ISO", help="the new language: swa, sw or swa_Latn")
    parser.add_argument(
        "--base", default="starter", metavar="MODEL", help="encoder: 'starter', a folder or a hub id (default: starter)"
    )
    parser.add_argument(
        "--keep",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="languages that must not get worse, from the corpus or the starter corpus: spa,fra",
    )
    add_out(parser, "the run", Path("runs/expand"))
    add_plan(parser)
    add_options(parser, SETTINGS)


def command(arguments: argparse.Namespace) -> int:
    """Expand the encoder."""
    from allophone.recipes.expand import expand, heard_hours

    settings = make(SETTINGS, arguments)
    corpus = open_corpus(arguments.corpus, arguments.language)
    if arguments.plan:
        from allophone.run.plan import plan_expansion
        from allophone.run.starter import open_base

        base, _ = open_base(arguments.base)
        hours = heard_hours(corpus, arguments.language, arguments.keep, settings)
        say(str(plan_expansion(base, settings, hours)))
        return 0
    with stages() as report:
        result = expand(
            arguments.base,
            corpus,
            language=arguments.language,
            out=arguments.out,
            keep=arguments.keep,
            config=settings,
            report=report,
        )
    return ended(result is not None, arguments.out / "report.html")
