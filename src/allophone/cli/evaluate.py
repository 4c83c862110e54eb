"""``allophone evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import progress, say, wrote
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, languages


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "evaluate",
        command,
        summary="Score an encoder, frozen, beside chance, the same encoder with random weights, and filter banks.",
        example="allophone evaluate starter --corpus recordings/ --language bul --out runs/evaluate",
    )
    parser.add_argument("model", metavar="MODEL", help="encoder: 'starter', a folder or a hub id")
    add_corpus(parser)
    parser.add_argument("--language", type=languages, default=(), metavar="A,B,...", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of probes and intervals (default: 0)")
    add_out(parser, "the scores", Path("runs/evaluate"))
    add_plan(parser)


def command(arguments: argparse.Namespace) -> None:
    """Score the encoder."""
    from allophone.recipes.evaluate import evaluate

    with progress("evaluate") as report:
        result = evaluate(
            arguments.model,
            arguments.corpus,
            languages=arguments.language,
            seed=arguments.seed,
            out=arguments.out,
            plan=arguments.plan,
            progress=report,
        )
    if arguments.plan:
        say(str(result))
    else:
        wrote(arguments.out)
