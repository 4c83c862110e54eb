"""From a corpus and its units to a trained vocoder in a folder, judged on clips that it did not hear.

Like every run: what is finished is not made again, and what was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.data.utterance import Utterance
from allophone.distributed import on_rank_zero
from allophone.evaluate.result import Result, Signature, result_from_interval, save_results
from allophone.evaluate.resynthesis import Resynthesis, chance_of_same_units, score_resynthesis
from allophone.frames import FrameClock
from allophone.methods.unit_vocoding import UnitVocoding, UnitVocodingConfig
from allophone.metrics.intervals import bootstrap
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig
from allophone.models.vocoder_conversion import Voices, load_vocoder, save_vocoder, vocoder_hash
from allophone.run.config import DataConfig
from allophone.run.execute import fit_threads, is_finished
from allophone.run.origin import begin_run, require_origin
from allophone.run.progress import Report, silent
from allophone.run.speaking import speak
from allophone.run.targets import aligned_units, build_sampler, usable
from allophone.seeding import derive, numpy_generator, torch_generator
from allophone.train.config import TrainConfig
from allophone.train.loop import CHECKPOINTS, TrainResult, train
from allophone.units.encode import Units

UNKNOWN = "unknown"
"""Speaker of utterances that name none."""
JUDGED_CLIPS = 60
"""Most held-out clips that a vocoder is judged on."""
Listen = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Units ``(T,)`` that some waveforms ``(S,)`` are heard as, by clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderRunConfig:
    """A complete training of a vocoder."""

    name: str
    """What the model card calls it."""
    seed: int
    """Of initialization, sampling, crops and dropout."""
    vocoder: UnitVocoderConfig
    """What is trained."""
    method: UnitVocodingConfig
    """Losses and discriminators."""
    data: DataConfig
    """What it hears."""
    train: TrainConfig
    """For how long and how."""


def voices_of(corpus: Corpus, codebook_hash: str) -> Voices:
    """Speakers and languages of a corpus, those heard longest first."""
    speakers: dict[str, float] = {}
    languages: dict[str, float] = {}
    for row in corpus:
        for table, name in ((speakers, row.speaker or UNKNOWN), (languages, row.language)):
            table[name] = table.get(name, 0.0) + row.duration_seconds
    ordered = [sorted(table, key=lambda name: (-table[name], name)) for table in (speakers, languages)]
    return Voices(codebook_hash=codebook_hash, speakers=tuple(ordered[0]), languages=tuple(ordered[1]))


def execute_vocoder(
    config: VocoderRunConfig,
    corpus: Corpus,
    units: Units,
    run_dir: Path,
    *,
    listen: Listen | None = None,
    report: Report = silent,
) -> TrainResult:
    """Train a vocoder, or go on with it, and judge it; nothing is done where the same one is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is heard; its dev split, or else its test split, is judged.
        units: Of all of it.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/``, ``model/`` and, where something is held out,
            ``result.json``.
        listen: Encodes made speech for the result; None leaves that out.
        report: Told how far each stage is.

    Raises:
        AllophoneError: What the stages raise.
    """
    training, _ = usable(corpus, config.data)
    voices, folder = voices_of(training, units.codebook_hash), run_dir / "model"
    origin = {"config": to_dict(config), "corpus": training.hash, "units": units.codebook_hash}
    if is_finished(folder) or (run_dir / CHECKPOINTS).exists():
        require_origin(run_dir, origin)
    if not is_finished(folder):
        on_rank_zero(lambda: begin_run(run_dir, origin, config, training))
        torch.manual_seed(derive(config.seed, "init"))
        rows = {row.id: (voices.speaker(row.speaker or UNKNOWN), voices.language(row.language)) for row in training}
        method = UnitVocoding(UnitVocoder(config.vocoder), config.method, units.clock, rows)
        fit_threads(method.vocoder)
        with closing(build_vocoder_stream(training, units, config)) as stream:
            result = train(method, stream, config.train, run_dir, identity=origin, progress=report("Training"))
        if result.stopped == "signal":
            return result
        card = _card(config, training, voices)
        parents = [units.codebook_hash]
        made = method.artifact()
        assert isinstance(made, UnitVocoder)
        on_rank_zero(
            lambda: save_vocoder(
                made, folder, card, voices=voices, parents=parents, created_by="allophone vocoder train"
            )
        )
    if not (run_dir / "result.json").exists():
        on_rank_zero(lambda: _judge(config, corpus, units, voices, run_dir, listen))
    return TrainResult(steps=config.train.steps, stopped="finished")


def build_vocoder_stream(training: Corpus, units: Units, config: VocoderRunConfig) -> BatchStream:
    """Batches of random clips of equal length with the units of their frames."""
    rows, data = training.utterances, config.data
    sampler = build_sampler(training, data, config.seed)
    aligned = aligned_units(units, rows, units.clock, 1)
    cache = int(data.cache_gibibytes * 2**30)
    return BatchStream(training, rows, aligned, sampler, units.clock, data.collate, cache_bytes=cache)


def _card(config: VocoderRunConfig, training: Corpus, voices: Voices) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(training.hours().items()))
    speakers = ", ".join(voices.speakers[:20]) + (" ..." if len(voices.speakers) > 20 else "")
    opens = "only in allophone" if config.vocoder.pitch else "in `transformers` as `SeamlessM4Tv2CodeHifiGan`"
    return (
        f"# {config.name}\n\nUnit vocoder trained with allophone: units of codebook {voices.codebook_hash}, "
        f"{config.vocoder.hop} samples each, to 16 kHz speech. {config.train.steps} updates. It opens {opens}.\n\n"
        f"Audio heard, hours: {hours}.\nVoices: {speakers}.\n\nIt imitates the voices of real people. Use it with "
        "their consent and say that speech is made.\n"
    )


def _judge(
    config: VocoderRunConfig, corpus: Corpus, units: Units, voices: Voices, run_dir: Path, listen: Listen | None
) -> None:
    """Write ``result.json``: the trained vocoder beside an untrained one and beside itself on shuffled units."""
    rows = held_out(corpus, units, voices, config.seed)
    if not rows:
        return
    trained = load_vocoder(run_dir / "model")
    torch.manual_seed(derive(config.seed, "init"))
    untrained = UnitVocoder(config.vocoder).eval()
    whole = {row.id: corpus.audio(row) for row in rows}
    recorded = {name: wave[: units.clock.samples(len(units[name]))] for name, wave in whole.items()}
    kept = {name: units[name][: units.clock.count(len(wave))] for name, wave in recorded.items()}
    recorded = {name: wave[: units.clock.samples(len(kept[name]))] for name, wave in recorded.items()}
    shuffled = {
        name: row[torch.randperm(len(row), generator=torch_generator(config.seed, "shuffle", name))]
        for name, row in kept.items()
    }
    systems = {"untrained": (untrained, kept), "shuffled units": (trained, shuffled), "trained": (trained, kept)}
    results: list[Result] = []
    data_hash = corpus.with_utterances(tuple(rows)).hash
    for name, (vocoder, given) in systems.items():
        made = speak_rows(vocoder, voices, rows, given, units.clock, recorded)
        scores = score_resynthesis(recorded, made, kept, None if listen is None else listen(made))
        model = vocoder_hash(vocoder) if vocoder is trained else "untrained"
        signature = Signature(data_hash=data_hash, model_hash=model, normalizer="none", seed=config.seed)
        results += _results(name, scores, signature, (config.seed,))
    chance = chance_of_same_units(list(kept.values()), units.num_units)
    save_results([*results, _chance(chance, len(rows), data_hash, config.seed)], run_dir / "result.json")


def speak_rows(
    vocoder: UnitVocoder,
    voices: Voices,
    rows: Sequence[Utterance],
    units: Mapping[str, Tensor],
    clock: FrameClock,
    recorded: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Units ``(T,)`` of utterances in their own voices, by id; as :func:`~allophone.run.speaking.speak` has it."""
    return {
        row.id: speak(
            vocoder,
            units[row.id],
            clock,
            speaker=voices.speaker(row.speaker or UNKNOWN),
            language=voices.language(row.language),
            recorded=recorded[row.id],
        )
        for row in rows
    }


def concerned(corpus: Corpus) -> Corpus:
    """Utterances that are heard or judged: the training split with the dev split, or else with the test split."""
    judged = next((split for split in ("dev", "test") if any(row.split == split for row in corpus)), None)
    return corpus.with_utterances(tuple(row for row in corpus if row.split in (None, "train", judged)))


def held_out(corpus: Corpus, units: Units, voices: Voices, seed: int, *, most: int = JUDGED_CLIPS) -> list[Utterance]:
    """At most so many clips that are not trained on, drawn by seed, whose voice and language were heard."""
    rows = [
        row
        for row in concerned(corpus)
        if row.split in ("dev", "test")
        and len(units.labels.get(row.id, ()))
        and (row.speaker or UNKNOWN) in voices.speakers
        and row.language in voices.languages
    ]
    chosen = numpy_generator(seed, "held out").permutation(len(rows))[:most]
    return [rows[index] for index in sorted(chosen)]


def _results(name: str, scores: Resynthesis, signature: Signature, seeds: tuple[int, ...]) -> list[Result]:
    mel = result_from_interval(
        f"mel distance, {name}",
        bootstrap(scores.mel),
        unit="nats",
        higher_is_better=False,
        signature=signature,
        seeds=seeds,
    )
    if not np.isfinite(scores.same_units).all():
        return [mel]
    same = result_from_interval(
        f"same units, {name}",
        bootstrap(scores.same_units, scores.frames).scaled(100.0),
        unit="%",
        higher_is_better=True,
        signature=signature,
        seeds=seeds,
    )
    return [mel, same]


def _chance(share: float, clips: int, data_hash: str, seed: int) -> Result:
    value = 100 * share
    return Result(
        name="same units, chance",
        value=value,
        low=value,
        high=value,
        n=clips,
        unit="%",
        higher_is_better=True,
        seeds=(),
        signature=Signature(data_hash=data_hash, model_hash="chance", normalizer="none", seed=seed),
    )
