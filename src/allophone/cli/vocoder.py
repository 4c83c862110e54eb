"""``allophone vocoder train|score`` and ``allophone resynthesize``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from allophone.cli.console import ended, remember, say, stages, wrote
from allophone.cli.parser import Parser, Verbs, add_corpus, add_group, add_microbatches, add_out, add_plan, add_verb
from allophone.cli.places import model_folder, open_corpus

if TYPE_CHECKING:
    from allophone.data.corpus import Corpus


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "vocoder", summary="Vocoders: from discrete units to speech.")
    _add_train(group)
    _add_score(group)
    _add_resynthesize(verbs)


def _add_encoder(parser: Parser, *, required: bool = False) -> None:
    parser.add_argument("--model", required=required, metavar="MODEL", help="encoder: 'starter', a folder or a hub id")
    parser.add_argument(
        "--codebook", type=Path, metavar="FOLDER", help="what `units fit` wrote (default: the one beside the model)"
    )


def _add_train(group: Verbs) -> None:
    parser = add_verb(
        group,
        "train",
        run_train,
        summary="Train a unit HiFi-GAN on the voices of a corpus, and judge it on what is held out.",
        details="Run the same command again to go on after an interruption. Works under torchrun. The folder opens in\n"
        "transformers as SeamlessM4Tv2CodeHifiGan (not with --pitch).",
        example="allophone vocoder train --corpus starter --language ita --model starter --out runs/vocoder",
    )
    parser.set_defaults(shared=True)
    add_corpus(parser)
    parser.add_argument("--language", metavar="CODE", help="only this language of the corpus (default: all)")
    _add_encoder(parser)
    parser.add_argument("--units", type=Path, metavar="FILE", help="units of this corpus that are there already")
    parser.add_argument(
        "--recipe",
        default="small",
        metavar="NAME",
        help="'small': minutes on one core; 'standard': as published, for a GPU (default: small)",
    )
    parser.add_argument(
        "--pitch", action="store_true", help="follow the melody of recordings too; then units alone cannot be spoken"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="updates (default: the recipe's)")
    add_microbatches(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything drawn (default: 0)")
    add_out(parser, "the run", Path("runs/vocoder"))
    add_plan(parser)


def run_train(arguments: argparse.Namespace) -> int:
    """Train a vocoder."""
    from allophone.distributed import process_group
    from allophone.recipes.vocoder import plan_training, train_vocoder

    corpus = _corpus(arguments)
    if arguments.plan:
        plan = plan_training(
            corpus,
            model=arguments.model,
            codebook=arguments.codebook,
            units=arguments.units,
            recipe=arguments.recipe,
            pitch=arguments.pitch,
            steps=arguments.steps,
            microbatches=arguments.microbatches,
            seed=arguments.seed,
        )
        say(str(plan))
        return 0
    with remember(arguments), stages() as report, process_group():
        result = train_vocoder(
            corpus,
            out=arguments.out,
            model=arguments.model,
            codebook=arguments.codebook,
            units=arguments.units,
            recipe=arguments.recipe,
            pitch=arguments.pitch,
            steps=arguments.steps,
            microbatches=arguments.microbatches,
            seed=arguments.seed,
            report=report,
            tell=say,
        )
    for one in result.results:
        say(f"{one.name:<32} {one.text} {one.unit}")
    return ended(result.finished, result.folder)


def _corpus(arguments: argparse.Namespace) -> Corpus:
    corpus = open_corpus(arguments.corpus)
    return corpus if arguments.language is None else corpus.where(language=arguments.language)


def _add_score(group: Verbs) -> None:
    parser = add_verb(
        group,
        "score",
        run_score,
        summary="Have a vocoder's speech judged: transcripts, predicted opinions, pitch, voices.",
        details="Held-out clips with a text become units and speech again. A recognizer transcribes the recordings,\n"
        "the speech, and speech of shuffled units; errors are counted with texts normalized and as they are.",
        example="allophone vocoder score --vocoder runs/vocoder/model --model starter --corpus starter --language ita "
        "--transcriber openai/whisper-base --out runs/heard",
    )
    parser.add_argument("--vocoder", type=Path, required=True, metavar="FOLDER", help="what `vocoder train` wrote")
    add_corpus(parser)
    parser.add_argument("--language", metavar="CODE", help="only this language of the corpus (default: all)")
    _add_encoder(parser, required=True)
    parser.add_argument(
        "--transcriber", required=True, metavar="MODEL", help="speech recognizer of transformers: folder or hub id"
    )
    parser.add_argument(
        "--mos", type=Path, metavar="FOLDER", help="what scripts/get_mos_predictor.py wrote (default: no opinions)"
    )
    parser.add_argument(
        "--voices", type=Path, metavar="FOLDER", help="what `tune --label speaker` wrote (default: no voices compared)"
    )
    parser.add_argument("--clips", type=int, default=60, metavar="N", help="at most so many (default: 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the clips (default: 0)")
    add_out(parser, "the scores", Path("runs/heard"))


def run_score(arguments: argparse.Namespace) -> None:
    """Judge a vocoder."""
    from allophone.recipes.resynthesis_score import open_judges, score_vocoder

    heard_by = open_judges(arguments.transcriber, arguments.mos, arguments.voices)
    with stages() as report:
        found = score_vocoder(
            arguments.vocoder,
            _corpus(arguments),
            arguments.out,
            model=model_folder(arguments.model),
            codebook=arguments.codebook,
            heard_by=heard_by,
            clips=arguments.clips,
            seed=arguments.seed,
            report=report,
        )
    say(found.scores.read_text(encoding="utf-8"))
    wrote(found.transcripts)


def _add_resynthesize(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "resynthesize",
        run_resynthesize,
        summary="Recordings to units and back to speech, or units to speech, with a vocoder.",
        example="allophone resynthesize --vocoder runs/vocoder/model --audio a.wav --model starter --out a-again.wav",
    )
    parser.add_argument("--vocoder", type=Path, required=True, metavar="FOLDER", help="what `vocoder train` wrote")
    parser.add_argument("--audio", type=Path, nargs="+", default=(), metavar="FILE", help="recordings")
    _add_encoder(parser)
    parser.add_argument("--units", type=Path, metavar="FILE", help="instead of recordings: what `units encode` wrote")
    parser.add_argument("--id", nargs="+", default=(), metavar="ID", help="which utterances of it (default: all)")
    parser.add_argument("--speaker", metavar="NAME", help="voice (default: the one that the vocoder heard most)")
    parser.add_argument("--language", metavar="CODE", help="language (default: the one that it heard most)")
    parser.add_argument(
        "--durations",
        choices=("kept", "predicted"),
        default="kept",
        help="units last as long as in the recording, or as the vocoder predicts (default: kept)",
    )
    add_out(parser, "speech: a .wav file for one clip, else a folder")


def run_resynthesize(arguments: argparse.Namespace) -> None:
    """Speak units."""
    from allophone.recipes.resynthesize import resynthesize

    with stages() as report:
        resynthesize(
            arguments.vocoder,
            arguments.out,
            audio=arguments.audio,
            model=arguments.model and model_folder(arguments.model),
            codebook=arguments.codebook,
            units=arguments.units,
            ids=arguments.id,
            speaker=arguments.speaker,
            language=arguments.language,
            durations=arguments.durations,
            report=report,
        )
    wrote(arguments.out)
