"""``allophone transcribe train`` and ``allophone transcribe run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, remember, say, say_pieces, stages, wrote
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_group, add_out, add_plan, add_verb, counts, languages
from allophone.cli.places import open_corpus

OPTIONS = "allophone.recipes.transcribe:TranscribeOptions"


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "transcribe", summary="Speech to text in its own language.")
    parser = add_verb(
        group,
        "train",
        run_train,
        summary="Train an encoder to spell, and score it on contents never met.",
        details="Run the same command again to go on after an interruption. Works under torchrun.",
        example="allophone transcribe train --corpus starter --model starter --languages ita --out runs/transcribe",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--model", default="starter", metavar="MODEL", help="speech encoder: 'starter', a folder or a hub id"
    )
    parser.add_argument(
        "--languages", type=languages, default=(), metavar="A,B,...", help="only these of the corpus (default: all)"
    )
    parser.add_argument("--seeds", type=counts, default=(0,), metavar="A,B,...", help="of training (default: 0)")
    add_out(parser, "the run", Path("runs/transcribe"))
    add_plan(parser)
    add_options(parser, OPTIONS)
    _add_run(group)


def run_train(arguments: argparse.Namespace) -> int:
    """Train a transcriber."""
    from allophone.distributed import process_group
    from allophone.recipes import transcribe

    options, corpus = make(OPTIONS, arguments), open_corpus(arguments.corpus)
    if arguments.languages:
        corpus = corpus.where(language=arguments.languages)
    if arguments.plan:
        say(transcribe.plan(arguments.model, corpus, options, runs=len(arguments.seeds)))
        return 0
    with remember(arguments), stages() as report, process_group():
        result = transcribe.train_transcribers(
            arguments.model, corpus, out=arguments.out, options=options, seeds=arguments.seeds, report=report, tell=say
        )
    if result.tables is not None:
        say(result.tables.read_text(encoding="utf-8"))
        wrote(result.tables)
    return ended(result.finished, arguments.out)


def _add_run(group: Verbs) -> None:
    parser = add_verb(
        group,
        "run",
        run_files,
        summary="Write what recordings say, with a confidence from 0 to 1.",
        details="Long recordings are cut where they are quietest.",
        example="allophone transcribe run clip.wav --model runs/transcribe/seed-0/model",
    )
    parser.add_argument("audio", type=Path, nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="what `transcribe train` wrote")
    parser.add_argument(
        "--width", type=int, default=16, metavar="N", help="texts kept in the search; 1 is greedy (default: 16)"
    )


def run_files(arguments: argparse.Namespace) -> None:
    """Transcribe files."""
    from allophone.recipes.write_files import transcribe_file

    for path in arguments.audio:
        say_pieces(path, transcribe_file(arguments.model, path, width=arguments.width))
