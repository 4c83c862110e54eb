"""``allophone align``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, say, stages, wrote
from allophone.cli.parser import Parser, Verbs, add_corpus, add_microbatches, add_out, add_verb, languages
from allophone.cli.places import open_corpus


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "align",
        command,
        summary="Bring recordings and texts into one space, by contrast with transcripts and translations.",
        details="Run the same command again to go on after an interruption. Works under torchrun. Scores retrieval on\n"
        "contents that were never met, beside chance, random weights and a filter bank.",
        example="allophone align --corpus starter --model starter --out runs/align",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--model", default="starter", metavar="MODEL", help="speech encoder: 'starter', a folder or a hub id"
    )
    parser.add_argument(
        "--text",
        metavar="MODEL",
        help="text encoder: a folder or a hub id, such as sentence-transformers/LaBSE (default: a small one, trained "
        "from nothing, that knows the words of this corpus alone)",
    )
    parser.add_argument(
        "--pooling",
        default="auto",
        choices=("auto", "mean", "cls", "pooler"),
        help="of --text: mean of the tokens (E5), first token (BGE-M3), its pooler (LaBSE); auto: as the model's "
        "1_Pooling says, mean where it has none (default: auto)",
    )
    parser.add_argument(
        "--prefix", default="", metavar="TEXT", help="stands before every text for --text (E5: 'query: ')"
    )
    parser.add_argument(
        "--languages", type=languages, default=(), metavar="A,B,...", help="of texts: fra_Latn (default: those spoken)"
    )
    parser.add_argument(
        "--leave-out",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="languages whose recordings are not heard, though their texts are read and their test recordings scored",
    )
    parser.add_argument(
        "--recipe",
        default="small",
        metavar="NAME",
        help="'small': one CPU; 'frozen': the same, but the speech encoder stays; 'standard': a GPU (default: small)",
    )
    _add_augmentation_and_cascade(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="updates (default: the recipe's)")
    add_microbatches(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything drawn (default: 0)")
    add_out(parser, "the run", Path("runs/align"))


def _add_augmentation_and_cascade(parser: Parser) -> None:
    parser.add_argument(
        "--augment",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="perturb the audio: noise, reverb, mask, gain, speed (default: none)",
    )
    parser.add_argument(
        "--augment-text",
        type=languages,
        metavar="A,B,...",
        help="vary the texts: paraphrase, languages; '' for neither (default: the recipe's)",
    )
    parser.add_argument(
        "--transcriber",
        metavar="MODEL",
        help="also score the cascade: transcribe with this (openai/whisper-base, a folder), then compare texts",
    )
    parser.add_argument(
        "--transcribe",
        type=int,
        metavar="N",
        help="at most so many recordings, evenly over languages (default: all; a second or two each on a CPU)",
    )


def command(arguments: argparse.Namespace) -> int:
    """Train the towers."""
    from allophone.distributed import process_group
    from allophone.recipes.align import align

    corpus = open_corpus(arguments.corpus)
    with stages() as report, process_group():
        result = align(
            arguments.model,
            corpus,
            out=arguments.out,
            text=arguments.text,
            pooling=arguments.pooling,
            prefix=arguments.prefix,
            languages=arguments.languages,
            leave_out=arguments.leave_out,
            recipe=arguments.recipe,
            augment=arguments.augment,
            augment_text=arguments.augment_text,
            steps=arguments.steps,
            microbatches=arguments.microbatches,
            seed=arguments.seed,
            transcriber=arguments.transcriber,
            transcribed=arguments.transcribe,
            report=report,
            tell=say,
        )
    if result.tables is not None:
        say(result.tables.read_text(encoding="utf-8"))
        wrote(result.tables)
    return ended(result.finished, result.folder)
