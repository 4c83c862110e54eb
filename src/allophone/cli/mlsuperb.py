"""``allophone mlsuperb``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import say, stages, wrote
from allophone.cli.parser import ON_CPU, Verbs, add_corpus, add_out, add_verb, counts, languages


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "mlsuperb",
        command,
        summary="Score an encoder, frozen, and its controls by ML-SUPERB, on its folder as it is handed out.",
        details="Without --fast the probes train as published: days on one machine. "
        "`allophone corpus export --to mlsuperb` makes such a folder of a corpus of yours.\n"
        f"Run the same command again to go on after an interruption, or to add a row.\n{ON_CPU}",
        example="allophone mlsuperb starter --corpus eighth_version/ --amount 10min --fast --out runs/mlsuperb",
    )
    parser.add_argument("model", metavar="MODEL", help="encoder: 'starter', a folder or a hub id")
    add_corpus(parser)
    parser.add_argument(
        "--version", choices=("1", "2"), default="1", help="2: that of 2.0 and the 2025 challenge (default: 1)"
    )
    parser.add_argument("--amount", choices=("10min", "1h"), default="10min", help="training audio (default: 10min)")
    parser.add_argument(
        "--rows",
        type=languages,
        default=None,
        metavar="A,B,...",
        help="of model, random encoder, filter bank, chance, all read by the same probes (default: all)",
    )
    parser.add_argument(
        "--seeds", type=counts, default=(0,), metavar="A,B,...", help="seeds of probes and random encoders (default: 0)"
    )
    parser.add_argument("--fast", action="store_true", help="short probes; the numbers are not the benchmark's")
    add_out(parser, "the scores", Path("runs/mlsuperb"))


def command(arguments: argparse.Namespace) -> None:
    """Train and score the probes."""
    from allophone.errors import ConfigError
    from allophone.recipes.mlsuperb import ROWS, ml_superb
    from allophone.recipes.mlsuperb2 import ml_superb_2_run

    if arguments.version == "2":
        if len(arguments.seeds) > 1:
            raise ConfigError(f"--version 2 takes one seed; got {len(arguments.seeds)}. Run it once a seed.")
        with stages() as report:
            challenge = ml_superb_2_run(
                arguments.model,
                arguments.corpus,
                out=arguments.out,
                rows=arguments.rows or ROWS,
                seed=arguments.seeds[0],
                fast=arguments.fast,
                report=report,
            )
        say(challenge.table.read_text(encoding="utf-8"))
        wrote(challenge.table)
        return
    with stages() as report:
        run = ml_superb(
            arguments.model,
            arguments.corpus,
            out=arguments.out,
            amount=arguments.amount,
            rows=arguments.rows or ROWS,
            seeds=arguments.seeds,
            fast=arguments.fast,
            report=report,
        )
    say(run.table.read_text(encoding="utf-8"))
    wrote(run.table)
