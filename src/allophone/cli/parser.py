"""An ``argparse`` parser that says what was probably meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from allophone.errors import suggest

Command = Callable[[argparse.Namespace], int | None]
"""What a verb runs: parsed arguments to an exit code (None = 0)."""
Verbs = Any
"""What ``add_subparsers`` returns; argparse keeps its class private."""

USAGE_ERROR = 2
ON_CPU = "It computes on the CPU, also where there is a GPU."
"""Said by verbs whose long work one would look for on a GPU."""


class Parser(argparse.ArgumentParser):
    """Unknown verbs, options and choices end with the nearest known one; options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse as usual, but refuse here, where the known options are at hand, what is not one of them."""
        self._refuse_unknown(sys.argv[1:] if args is None else args)
        parsed, extras = super().parse_known_args(args, namespace)
        if extras:
            self.error(f"unexpected argument '{extras[0]}'.")
        return parsed, extras

    def _refuse_unknown(self, args: Sequence[str]) -> None:
        """Name a misspelt option before argparse complains that the one which was meant is missing."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for argument in args:
            name = argument.split("=")[0]
            if argument == "--" or (self._subparsers is not None and not argument.startswith("-")):
                return
            if argument.startswith("--") and name not in known:
                self.error(f"unknown option '{name}'. {suggest(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            kind = "verb" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if kind == "verb" else action, f"unknown {kind} '{value}'. {suggest(str(value), known)}"
            )

    def error(self, message: str) -> NoReturn:
        """Print one line and where to read more; exit code 2."""
        print(f"{self.prog}: error: {message}\nSee '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


def add_verb(verbs: Verbs, name: str, command: Command, *, summary: str, details: str = "", example: str) -> Parser:
    """Add a verb that runs ``command``; its help ends with an example that the tests parse."""
    parser: Parser = verbs.add_parser(
        name, help=summary, description=f"{summary}\n\n{details}".strip(), epilog=f"example:\n  {example}"
    )
    parser.set_defaults(command=command, example=example)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_group(verbs: Verbs, name: str, *, summary: str) -> Verbs:
    """Add a verb that only holds other verbs, as ``corpus`` holds ``import`` and ``audit``."""
    parser = verbs.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)


def every_verb(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Parsers of all verbs that run something, also of those below groups, in order."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    below = [verb for group in groups for one in group.choices.values() for verb in every_verb(one)]
    return below if groups else [parser]


def add_plan(parser: Parser) -> None:
    """Add ``--plan``."""
    parser.add_argument(
        "--plan", action="store_true", help="say what would be done, how long it takes and how much disk; then stop"
    )


def add_microbatches(parser: Parser) -> None:
    """Add ``--microbatches``."""
    parser.add_argument(
        "--microbatches",
        type=int,
        metavar="N",
        help="batches of one update, those of all processes together (default: one for each process)",
    )


def add_corpus(parser: Parser) -> None:
    """Add ``--corpus``, in whatever form :meth:`allophone.data.corpus.Corpus.open` takes."""
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="FOLDER", help="corpus, folder of audio or manifest to read"
    )


def add_engine(parser: Parser) -> None:
    """Add ``--engine`` and ``--address``, for work that a cluster can do."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this process, or a Ray cluster (default: local)"
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the Ray cluster's head, or auto (default: RAY_ADDRESS, else Ray starts on this machine)",
    )


def add_out(parser: Parser, what: str, default: Path | None = None) -> None:
    """Add ``--out``, required unless there is a default."""
    shown = f"where to write {what}" + (f" (default: {default})" if default else "")
    parser.add_argument("--out", type=Path, default=default, required=default is None, metavar="PATH", help=shown)


def languages(text: str) -> tuple[str, ...]:
    """Split ``eng,spa``; an argparse type."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def counts(text: str) -> tuple[int, ...]:
    """Split ``3000,12000``; an argparse type."""
    return tuple(int(part) for part in text.split(","))
