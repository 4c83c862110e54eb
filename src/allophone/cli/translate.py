"""``allophone translate train`` and ``allophone translate run``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from allophone.cli.console import ended, remember, say, say_pieces, stages, wrote
from allophone.cli.options import add_options, make
from allophone.cli.parser import Verbs, add_corpus, add_group, add_out, add_plan, add_verb, counts, languages
from allophone.cli.places import open_corpus
from allophone.errors import ConfigError

OPTIONS = "allophone.recipes.translate:TranslateOptions"
OUT = Path("runs/translate")
DEFAULT = OUT / "starter" / "seed-0" / "model"
"""What `allophone translate train --corpus starter` makes."""


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "translate", summary="Speech in one language to text in another.")
    _add_train(group)
    _add_run(group)


def _add_train(group: Verbs) -> None:
    parser = add_verb(
        group,
        "train",
        run_train,
        summary="Train a speech translator on a corpus with translations, and score it on contents never met.",
        details="Several encoders are trained and scored side by side. Run the same command again to go on after an\n"
        "interruption. Works under torchrun. --plan says how many parameters are trained, also at the paper's sizes.",
        example="allophone translate train --corpus starter --model starter --to eng --out runs/translate",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument(
        "--model",
        type=named,
        nargs="+",
        default=[("starter", "starter")],
        metavar="[NAME=]MODEL",
        help="speech encoders: 'starter', a folder (of a distilled model too) or a hub id, with a name for the tables",
    )
    parser.add_argument(
        "--to", type=languages, default=("eng",), metavar="A,B,...", help="languages to write (default: eng)"
    )
    parser.add_argument(
        "--decoder",
        metavar="MODEL",
        help="pretrained decoder: a folder or a hub id, such as facebook/mbart-large-50-many-to-many-mmt or "
        "facebook/nllb-200-distilled-600M (default: a small one from nothing)",
    )
    parser.add_argument(
        "--leave-out",
        type=languages,
        default=(),
        metavar="A,B,...",
        help="languages whose recordings are not heard in training; their test recordings are scored (zero-shot)",
    )
    parser.add_argument(
        "--cascade",
        nargs=2,
        metavar=("RECOGNIZER", "TRANSLATOR"),
        help="also score these: transcribe (openai/whisper-base), then translate the text "
        "(facebook/nllb-200-distilled-600M); folders or hub ids",
    )
    parser.add_argument("--seeds", type=counts, default=(0,), metavar="A,B,...", help="of training (default: 0)")
    add_out(parser, "the run", OUT)
    add_plan(parser)
    add_options(parser, OPTIONS)


def named(text: str) -> tuple[str, str]:
    """Split ``name=folder``; a name is made of the folder where none is given. An argparse type."""
    name, found, model = text.partition("=")
    if found:
        return name, model
    place = Path(text)
    return (place.parent.name if place.name == "model" else place.name) or text, text


def by_name(models: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Name to model.

    Raises:
        ConfigError: Two have one name, so that one would be trained and scored in place of the other.
    """
    found: dict[str, str] = {}
    for name, model in models:
        if name in found:
            raise ConfigError(
                f"--model {found[name]} and --model {model} are both called {name!r} in tables and folders. Name them "
                f"yourself: --model first={found[name]} second={model}."
            )
        found[name] = model
    return found


def run_train(arguments: argparse.Namespace) -> int:
    """Train translators."""
    from allophone.distributed import process_group
    from allophone.recipes import translate, translate_plan

    models = by_name(arguments.model)
    options, corpus = make(OPTIONS, arguments), open_corpus(arguments.corpus)
    if arguments.plan:
        say(
            translate_plan.plan(
                next(iter(models.values())),
                corpus,
                languages=arguments.to,
                decoder=arguments.decoder,
                options=options,
                encoders=len(models),
                seeds=len(arguments.seeds),
                leave_out=arguments.leave_out,
            )
        )
        return 0
    pair = arguments.cascade
    cascade = None if pair is None else translate.Cascade(transcriber=pair[0], translator=pair[1])
    with remember(arguments), stages() as report, process_group():
        result = translate.train_translators(
            models,
            corpus,
            out=arguments.out,
            languages=arguments.to,
            decoder=arguments.decoder,
            options=options,
            seeds=arguments.seeds,
            leave_out=arguments.leave_out,
            cascade=cascade,
            report=report,
            tell=say,
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
        summary="Write what recordings say in another language, with a confidence from 0 to 1.",
        details="Long recordings are cut where they are quietest.",
        example="allophone translate run clip.wav --to eng",
    )
    parser.add_argument("audio", type=Path, nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--to", default="eng", metavar="LANGUAGE", help="language to write (default: eng)")
    parser.add_argument(
        "--model",
        type=Path,
        default=DEFAULT,
        metavar="FOLDER",
        help=f"what `translate train` wrote (default: {DEFAULT})",
    )
    parser.add_argument("--beams", type=int, default=5, metavar="N", help="texts kept in the search (default: 5)")


def run_files(arguments: argparse.Namespace) -> None:
    """Translate files."""
    from allophone.recipes.write_files import translate_file

    for path in arguments.audio:
        say_pieces(path, translate_file(arguments.model, path, arguments.to, beams=arguments.beams))
