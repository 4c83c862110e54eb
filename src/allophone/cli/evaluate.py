"""``allophone evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import say, stages, wrote
from allophone.cli.parser import ON_CPU, Verbs, add_corpus, add_out, add_plan, add_verb, counts, languages
from allophone.cli.places import open_corpus


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "evaluate",
        command,
        summary="Score an encoder, frozen, beside chance, the same encoder with random weights, and filter banks.",
        details=f"`allophone compare` puts several such folders side by side.\n{ON_CPU}",
        example="allophone evaluate starter --corpus recordings/ --suite quick --language bul --out runs/evaluate",
    )
    parser.add_argument("model", metavar="MODEL", help="encoder: 'starter', a folder or a hub id")
    add_corpus(parser)
    parser.add_argument(
        "--suite",
        choices=("quick", "full"),
        default="full",
        help="how much: some minutes, or everything (default: full)",
    )
    parser.add_argument("--language", type=languages, default=(), metavar="A,B,...", help="only these (default: all)")
    parser.add_argument(
        "--seeds", type=counts, default=(0,), metavar="A,B,...", help="seeds of probes and random encoders (default: 0)"
    )
    add_out(parser, "the scores", Path("runs/evaluate"))
    add_plan(parser)


def command(arguments: argparse.Namespace) -> None:
    """Score the encoder."""
    from allophone.recipes.evaluate import evaluate, heard_hours, suite_config

    corpus = open_corpus(arguments.corpus)
    if arguments.plan:
        from allophone.run.plan import plan_evaluation
        from allophone.run.starter import open_base

        chosen = corpus.where(language=arguments.language or None)
        base, _ = open_base(arguments.model)
        say(str(plan_evaluation(base, len(arguments.seeds), heard_hours(chosen, suite_config(arguments.suite)))))
        return
    with stages() as report:
        result = evaluate(
            arguments.model,
            corpus,
            out=arguments.out,
            suite=arguments.suite,
            languages=arguments.language,
            seeds=arguments.seeds,
            report=report,
        )
    say(result.tables.read_text(encoding="utf-8"))
    wrote(result.page)
