"""``allophone classify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import say, stages, wrote
from allophone.cli.parser import Verbs, add_verb, languages
from allophone.cli.places import open_corpus

KINDS = ("emotion", "keyword", "language", "sound", "speaker")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "classify",
        command,
        summary="Sort recordings into classes by the names of the classes alone.",
        details="With --corpus, scores the labelled test split: by name, and by 1, 5 and 8 examples a class.",
        example="allophone classify runs/align/model a.wav b.wav --labels happy,sad,angry --kind emotion",
    )
    parser.add_argument("model", metavar="MODEL", help="what `align` wrote: a folder or a hub id")
    parser.add_argument("clips", type=Path, nargs="*", metavar="FILE", help="recordings; before the options")
    parser.add_argument("--labels", type=languages, required=True, metavar="A,B,...", help="names of the classes")
    parser.add_argument(
        "--kind", choices=KINDS, default="keyword", help="what the labels are (default: keyword, a word that is said)"
    )
    parser.add_argument(
        "--languages", type=languages, default=(), metavar="A,B,...", help="of prompts: fra_Latn (default: all)"
    )
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="labelled corpus to score")
    parser.add_argument(
        "--spoken",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="with --corpus: spot keywords in these languages (of all splits), called what the corpus' texts call them",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of drawn examples (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/classify"), metavar="PATH", help="where scores go")


def command(arguments: argparse.Namespace) -> None:
    """Classify clips or score a corpus."""
    from allophone.errors import ConfigError
    from allophone.recipes.classify import classify, classify_corpus

    if bool(arguments.clips) == (arguments.corpus is not None):
        raise ConfigError("Give either recordings, or --corpus with a labelled corpus.")
    if arguments.spoken and arguments.corpus is None:
        raise ConfigError("--spoken scores the keywords of a corpus; give --corpus instead of recordings.")
    prompts = arguments.languages or None
    if arguments.corpus is None:
        for one in classify(arguments.model, arguments.clips, arguments.labels, kind=arguments.kind, languages=prompts):
            found = "  ".join(f"{label} {value:.3f}" for label, value in one.probabilities.items())
            say(f"{one.path}  {found}")
        return
    if arguments.spoken:
        _spot(arguments)
        return
    with stages() as report:
        scored = classify_corpus(
            arguments.model,
            open_corpus(arguments.corpus),
            arguments.labels,
            out=arguments.out,
            kind=arguments.kind,
            languages=prompts,
            seed=arguments.seed,
            report=report,
        )
    say(scored.tables.read_text(encoding="utf-8"))
    wrote(scored.tables)


def _spot(arguments: argparse.Namespace) -> None:
    from allophone.recipes.keywords import spot_keywords
    from allophone.text.languages import parse_language

    with stages() as report:
        spotted = spot_keywords(
            arguments.model,
            open_corpus(arguments.corpus),
            arguments.labels,
            [parse_language(one).tag for one in arguments.spoken],
            out=arguments.out,
            seed=arguments.seed,
            report=report,
        )
    say(spotted.tables.read_text(encoding="utf-8"))
    wrote(spotted.tables)
