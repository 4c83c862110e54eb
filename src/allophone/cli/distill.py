"""``allophone distill``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, remember, say, stages, wrote
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, counts, languages
from allophone.cli.places import open_corpus

OPTIONS = "allophone.recipes.distill:DistillOptions"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "distill",
        command,
        summary="Teach a speech encoder meaning: its vector of an utterance becomes a text embedder's of its words.",
        details="Run the same command again to go on after an interruption. Works under torchrun. Scores whether\n"
        "speech finds texts that say the same, in its own and in other languages, on contents that were never met.",
        example="allophone distill --corpus starter --model starter --out runs/distill",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--model", default="starter", metavar="MODEL", help="speech encoder: 'starter', a folder or a hub id"
    )
    parser.add_argument(
        "--teacher",
        default="starter",
        metavar="MODEL",
        help="'starter' (vectors of the starter corpus' texts), a folder of vectors, or a text encoder: a folder or a "
        "hub id, such as sentence-transformers/LaBSE (default: starter)",
    )
    parser.add_argument(
        "--leave-out",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="languages whose recordings are not heard in training; their test recordings are scored",
    )
    parser.add_argument(
        "--transcriber",
        metavar="MODEL",
        help="also score the cascade: transcribe with this, then compare texts; needs a text encoder as --teacher",
    )
    parser.add_argument("--seeds", type=counts, default=(0,), metavar="A,B,...", help="of training (default: 0)")
    add_out(parser, "the run", Path("runs/distill"))
    add_plan(parser)
    add_options(parser, OPTIONS)


def command(arguments: argparse.Namespace) -> int:
    """Distil."""
    from allophone.distributed import process_group
    from allophone.recipes import distill

    options, corpus = make(OPTIONS, arguments), open_corpus(arguments.corpus)
    if arguments.plan:
        seeds, absent = len(arguments.seeds), arguments.leave_out
        say(distill.plan(arguments.model, corpus, arguments.teacher, options, seeds=seeds, leave_out=absent))
        return 0
    with remember(arguments), stages() as report, process_group():
        result = distill.distill(
            arguments.model,
            corpus,
            out=arguments.out,
            teacher=arguments.teacher,
            options=options,
            seeds=arguments.seeds,
            leave_out=arguments.leave_out,
            transcriber=arguments.transcriber,
            report=report,
            tell=say,
        )
    if result.tables is not None:
        say(result.tables.read_text(encoding="utf-8"))
        wrote(result.tables)
    return ended(result.finished, arguments.out)
