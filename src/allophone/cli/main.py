"""``allophone VERB``: find the verb, run it, turn errors into one line and an exit code.

Exit codes: 0 done, 1 the input's fault, 2 the command line's fault, 75 stopped after saving (run again to go on),
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from allophone import __version__
from allophone.cli import (
    align,
    benchmark,
    claims,
    classify,
    compare,
    corpus,
    demo,
    distill,
    doctor,
    evaluate,
    expand,
    mlsuperb,
    pack,
    pretrain,
    report,
    search,
    transcribe,
    translate,
    tune,
    units,
    vocoder,
)
from allophone.cli.console import complain, processes
from allophone.cli.parser import Parser, every_verb
from allophone.errors import AllophoneError, ConfigError

FAILED, INTERRUPTED = 1, 130
VERBS = (
    demo,
    doctor,
    corpus,
    pretrain,
    expand,
    pack,
    align,
    tune,
    distill,
    translate,
    transcribe,
    units,
    vocoder,
    search,
    classify,
    evaluate,
    compare,
    mlsuperb,
    report,
    benchmark,
    claims,
)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="allophone",
        description="Add a language to an open speech model, and see what was gained and what was kept.",
        epilog="`pretrain`, `align`, `tune`, `distill` and the `train` of `translate`, `transcribe` and `vocoder`\n"
        "train on the first GPU, where there is one; everything else computes on the CPU.\n\n"
        "start here:\n  allophone demo",
    )
    parser.add_argument("--version", action="version", version=f"allophone {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    for verb in VERBS:
        verb.add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    arguments.line = list(sys.argv[1:] if argv is None else argv)
    try:
        _refuse_copies(arguments, parser)
        return arguments.command(arguments) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (AllophoneError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            complain(str(error))
        return FAILED


def _refuse_copies(arguments: argparse.Namespace, parser: Parser) -> None:
    """Started by ``torchrun``, most verbs would do the same work several times in the same place."""
    if processes() > 1 and not getattr(arguments, "shared", False):
        shared = [verb.prog for verb in every_verb(parser) if verb.get_default("shared")]
        raise ConfigError(
            f"{processes()} processes were started (WORLD_SIZE), but only {', '.join(shared)} share their work. Leave "
            "out torchrun, or unset WORLD_SIZE."
        )


def entry() -> None:
    """What the ``allophone`` script calls."""
    raise SystemExit(main())
