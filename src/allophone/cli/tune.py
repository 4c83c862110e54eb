"""``allophone tune``."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from allophone.cli.console import ended, remember, say, stages
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_out, add_plan, add_verb, counts
from allophone.cli.places import open_corpus
from allophone.errors import ConfigError, suggest

SETTINGS, DATA = "allophone.run.tuning:TuneConfig", "allophone.recipes.tune:TuneData"
METHODS = ("pair", "contrast", "cross-entropy", "frozen")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "tune",
        command,
        summary="Tune an encoder to tell classes apart, by contrast of hard pairs or cross-entropy, and probe it.",
        details="Methods: pair (PairTune), contrast (the same without mining), cross-entropy, frozen (probes only). All"
        " take the same steps on the same batches. Run the same command again to go on after an interruption.",
        example="allophone tune --corpus recordings/ --label speaker --method pair,cross-entropy",
    )
    add_corpus(parser)
    parser.add_argument(
        "--label", required=True, choices=("speaker", "language", "label"), help="column that holds the classes"
    )
    parser.add_argument(
        "--method", type=methods, default=("pair",), metavar="A,B,...", help=f"{', '.join(METHODS)} (default: pair)"
    )
    parser.add_argument(
        "--base", default="starter", metavar="MODEL", help="encoder: 'starter', a folder or a hub id (default: starter)"
    )
    parser.add_argument("--seeds", type=counts, default=(0,), metavar="A,B,...", help="of training (default: 0)")
    add_out(parser, "the run", Path("runs/tune"))
    add_plan(parser)
    add_options(parser, SETTINGS)
    add_options(parser, DATA)


def methods(text: str) -> tuple[str, ...]:
    """Split ``pair,frozen``; an argparse type."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"unknown method '{name}'. {suggest(name, METHODS)}")
    return names


def command(arguments: argparse.Namespace) -> int:
    """Tune the encoder."""
    from allophone.distributed import process_group
    from allophone.recipes.tune import tune

    settings, data = make(SETTINGS, arguments), make(DATA, arguments)
    if not arguments.seeds:
        raise ConfigError("--seeds names no seed.")
    corpus = open_corpus(arguments.corpus)
    if arguments.plan:
        from allophone.recipes.tune import plan

        say(plan(arguments.base, corpus, arguments.label, arguments.method, len(arguments.seeds), settings, data))
        return 0
    trains = set(arguments.method) != {"frozen"}  # else nothing would have to be made again without a speaker
    with remember(arguments) if trains else nullcontext(), stages() as report, process_group():
        result = tune(
            arguments.base,
            corpus,
            label=arguments.label,
            out=arguments.out,
            methods=arguments.method,
            seeds=arguments.seeds,
            config=settings,
            data=data,
            report=report,
        )
    if result is not None:
        say(result.tables.read_text(encoding="utf-8"))
    return ended(result is not None, arguments.out / "report.html")
