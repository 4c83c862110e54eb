"""``allophone expand``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from allophone.cli.console import ended, remember, say, stages
from allophone.cli.options import add_options, make
from allophone.cli.parser import ON_CPU, Verbs, add_corpus, add_out, add_plan, add_verb, languages
from allophone.cli.places import open_corpus
from allophone.errors import ConfigError

if TYPE_CHECKING:
    from allophone.data.corpus import Corpus
    from allophone.run.expansion_config import ExpandConfig

SETTINGS = "allophone.run.expansion_config:ExpandConfig"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "expand",
        command,
        summary="Add a language to an encoder by LoRA: a language pack and a ledger of what was gained and kept.",
        details="Run the same command again to go on after an interruption. Several languages are added one after\n"
        "another, each to the model that the one before left; the page then shows how each is after each addition.\n"
        f"The folder RUN/model of an earlier run serves as --base.\n{ON_CPU}",
        example="allophone expand --corpus recordings/ --language swa --keep spa,fra",
    )
    add_corpus(parser)
    parser.add_argument(
        "--language",
        type=languages,
        required=True,
        metavar="ISO",
        help="the new language: swa, sw or swa_Latn; several are added in this order: bul,ell,ita,dan",
    )
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
    gate = parser.add_argument_group("gate")
    gate.add_argument(
        "--most-loss",
        type=float,
        metavar="PERCENT",
        help="write no pack that costs a kept language more than this on any test (default: no limit)",
    )
    gate.add_argument(
        "--loss-rule",
        choices=("clear", "sure"),
        default="clear",
        help="clear: a loss counts when its whole 95 %% interval is one; sure: the whole interval must lie within the "
        "limit (default: clear)",
    )
    add_out(parser, "the run", Path("runs/expand"))
    add_plan(parser)
    add_options(parser, SETTINGS)


def command(arguments: argparse.Namespace) -> int:
    """Expand the encoder."""
    from allophone.evaluate.gate import Gate
    from allophone.recipes.expand import expand
    from allophone.recipes.sequence import expand_in_sequence

    settings = make(SETTINGS, arguments)
    tags = arguments.language
    if not tags:
        raise ConfigError("--language names no language. Name one, or several with commas between them.")
    gate = None
    if arguments.most_loss is not None:
        gate = Gate(most_loss=arguments.most_loss, rule=arguments.loss_rule)
    corpus = open_corpus(arguments.corpus, tags[0])
    if arguments.plan:
        return _plan(arguments, settings, corpus)
    with remember(arguments), stages() as report:
        if len(tags) > 1:
            several = expand_in_sequence(
                arguments.base,
                corpus,
                languages=tags,
                out=arguments.out,
                keep=arguments.keep,
                config=settings,
                gate=gate,
                report=report,
            )
            return ended(several is not None, arguments.out / "report.html")
        one = expand(
            arguments.base,
            corpus,
            language=tags[0],
            out=arguments.out,
            keep=arguments.keep,
            config=settings,
            gate=gate,
            report=report,
        )
    if one is not None:
        say(one.summary)
    return ended(one is not None, arguments.out / "report.html")


def _plan(arguments: argparse.Namespace, settings: ExpandConfig, corpus: Corpus) -> int:
    """One plan a language; each keeps those before it."""
    from allophone.recipes.expand import heard_hours
    from allophone.run.plan import plan_expansion
    from allophone.run.starter import open_base

    base, _ = open_base(arguments.base)
    for number, language in enumerate(arguments.language):
        hours = heard_hours(corpus, language, (*arguments.keep, *arguments.language[:number]), settings)
        say(str(plan_expansion(base, settings, hours)))
    return 0
