"""From a corpus with texts to a speech embedder and a text embedder of one space, in a folder.

Like every run: what is finished is not made again, and what was interrupted goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from allophone.config import to_dict
from allophone.data.captioning import CaptionConfig, Captioner, content_facts, tellable
from allophone.data.corpus import Corpus
from allophone.data.heard import listen, save_heard
from allophone.data.loader import BatchStream, WaveformCache
from allophone.data.utterance import Utterance
from allophone.distributed import on_rank_zero
from allophone.errors import ConfigError, DataError
from allophone.methods.audio_text_contrast import AudioTextContrast, AudioTextContrastConfig
from allophone.models.aligned import INFO_FILE, Aligned, AlignedInfo, HeardCorpus, aligned_hash, save_aligned
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedder, TextEmbedderConfig
from allophone.models.text_encoder import open_text_encoder, text_model_hash
from allophone.models.text_tower import WEIGHTS, TextTowerConfig, write_text_tower
from allophone.run.config import DataConfig
from allophone.run.execute import fit_threads
from allophone.run.origin import begin_run, require_origin
from allophone.run.progress import Report, Tell, counted, silent, to_nobody
from allophone.run.targets import build_sampler, usable
from allophone.run.texts import heard_whole
from allophone.seeding import derive
from allophone.train.checkpoint import has_checkpoint
from allophone.train.config import TrainConfig
from allophone.train.loop import CHECKPOINTS, TrainResult, train

CREATED_BY = "allophone align"
TOWER = "text-tower"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """A complete training of two towers by contrast."""

    name: str
    """What the model card calls it."""
    seed: int
    """Of initialization, sampling, captions and dropout."""
    speech: SpeechEmbedderConfig
    """What stands behind the speech encoder."""
    text: TextEmbedderConfig
    """What stands behind the text encoder, and what of that is trained."""
    tower: TextTowerConfig | None
    """A text encoder made from nothing; None = one that is named."""
    captions: CaptionConfig
    """What the texts tell."""
    method: AudioTextContrastConfig
    """The loss."""
    data: DataConfig
    """What is heard."""
    train: TrainConfig
    """For how long and how."""

    def __post_init__(self) -> None:
        if self.tower is not None and self.text.training != "full":
            raise ConfigError("A text tower from nothing knows nothing: text.training must be 'full'.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """What a run leaves."""

    folder: Path
    """Model folder."""
    result: TrainResult
    """How training ended; ``signal`` means: call again to go on."""
    heard: Corpus
    """Utterances that are trained on."""
    left_out: dict[str, int]
    """Utterances of the training split that are not trained on, by the reason why."""


def heard_utterances(corpus: Corpus, config: AlignConfig) -> tuple[Corpus, dict[str, int]]:
    """Utterances that are trained on, and how many of the training split are not, by the reason why.

    Raises:
        DataError: None has anything that a caption could tell and is short enough.
    """
    training, short = usable(corpus, config.data)
    shortest, longest = config.data.min_seconds, config.data.collate.crop_seconds
    pieces = "content" not in config.captions.kinds  # of which all else is as true as of the whole
    whole = [row for row in training if pieces or heard_whole(row, config.data)]
    rows = tellable(whole, config.captions)
    if not rows:
        raise DataError(
            f"{corpus.folder}: none of {len(training)} utterances of the training split has a text in the languages "
            f"{list(config.captions.languages or ('any',))} and at most {longest:g} s. Contrast needs texts: add them "
            "to the corpus, or name other languages."
        )
    left_out = {
        f"shorter than {shortest:g} s": sum(short.values()),
        f"longer than {longest:g} s": len(training) - len(whole),
        "without a text": len(whole) - len(rows),
    }
    return training.with_utterances(rows), {why: count for why, count in left_out.items() if count}


def execute_alignment(
    config: AlignConfig,
    corpus: Corpus,
    run_dir: Path,
    *,
    encoder: Encoder,
    text: str | Path | None = None,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> Alignment:
    """Train two towers, or go on with them; nothing is done where the same ones are finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is heard.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/`` and ``model/``.
        encoder: Of speech; it is changed in place.
        text: Folder or hub id of the text encoder; None = ``config.tower``.
        report: Told how far each stage is.
        tell: Told what is left out.

    Raises:
        AllophoneError: What the stages raise.
    """
    heard, left_out = heard_utterances(corpus, config)
    if left_out:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
        tell(f"Left out of {len(heard) + sum(left_out.values())} recordings to train on: {reasons}.")
    folder, begun_from = run_dir / "model", model_hash(encoder)
    named = None if text is None else open_text_encoder(text, pooler=config.text.pooling == "pooler")
    origin = {
        "config": to_dict(config),
        "corpus": heard.hash,
        "encoder": begun_from,
        "text": None if named is None else text_model_hash(*named),
    }
    done = TrainResult(steps=config.train.steps, stopped="finished")
    if is_aligned(folder) or (run_dir / CHECKPOINTS).exists():
        require_origin(run_dir, origin)
    if is_aligned(folder):
        return Alignment(folder=folder, result=done, heard=heard, left_out=left_out)
    on_rank_zero(lambda: begin_run(run_dir, origin, config, heard))
    towers = _text_embedder(config, heard, run_dir, named)
    torch.manual_seed(derive(config.seed, "init"))
    method = AudioTextContrast(SpeechEmbedder(encoder, config.speech), towers, config.method)
    fit_threads(method.speech)
    identity = {**origin, "text_hash": towers.encoder_hash}
    with closing(build_caption_stream(heard, encoder, config)) as stream:
        result = train(method, stream, config.train, run_dir, identity=identity, progress=report("Training"))
    if result.stopped == "finished":
        parents = (begun_from, towers.encoder_hash)
        on_rank_zero(lambda: _save(method, config, corpus, heard, folder, parents, counted(report("Ledger"))))
    return Alignment(folder=folder, result=result, heard=heard, left_out=left_out)


def is_aligned(folder: Path) -> bool:
    """Whether a folder holds both towers, whole."""
    return (folder / INFO_FILE).exists()


def _text_embedder(config: AlignConfig, heard: Corpus, run_dir: Path, named: tuple[Any, Any] | None) -> TextEmbedder:
    if (named is None) == (config.tower is None):
        raise ConfigError("Name a text encoder, or have one made from nothing; one of the two.")
    if named is None:
        on_rank_zero(lambda: _make_tower(config, heard, run_dir))
        named = open_text_encoder(run_dir / TOWER)
    tokenizer, model = named
    torch.manual_seed(derive(config.seed, "text projection"))
    return TextEmbedder(model, tokenizer, config.text)


def _make_tower(config: AlignConfig, heard: Corpus, run_dir: Path) -> None:
    """A text tower for this run. One that lies there is of this run only where a checkpoint is."""
    assert config.tower is not None
    if has_checkpoint(run_dir / CHECKPOINTS) and (run_dir / TOWER / WEIGHTS).exists():
        return
    facts = content_facts(heard, config.captions.languages).values()
    texts = sorted({wording for found in facts for fact in found for _, wording in fact.wordings})
    write_text_tower(texts, run_dir / TOWER, config.tower, config.seed)


def build_caption_stream(heard: Corpus, encoder: Encoder, config: AlignConfig) -> BatchStream[Utterance]:
    """Batches of clips of similar length, with a text each."""
    rows, data = heard.utterances, config.data
    return BatchStream(
        heard,
        rows,
        None,
        build_sampler(heard, data, config.seed),
        encoder.clock,
        data.collate,
        cache_bytes=int(data.cache_gibibytes * 2**30),
        captions=Captioner(rows, config.captions),
    )


def _save(
    method: AudioTextContrast,
    config: AlignConfig,
    corpus: Corpus,
    heard: Corpus,
    folder: Path,
    parents: tuple[str, ...],
    progress: Callable[[int, int], None],
) -> None:
    entry = HeardCorpus(
        name=corpus.name,
        hash=heard.hash,
        whole_hash=corpus.hash,
        utterances=len(heard),
        hours=round(sum(heard.hours().values()), 4),
        languages=heard.languages,
        used_for="contrast with text",
    )
    info = AlignedInfo(
        hash=aligned_hash(method.speech, method.text),
        temperature=float(method.log_temperature.detach().exp()),
        seed=config.seed,
        heard=(entry,),
    )
    model = Aligned(speech=method.speech, text=method.text, info=info)
    save_heard(listen(heard.utterances, WaveformCache(heard), config.captions.languages, progress), folder)
    save_aligned(model, folder, _card(config, heard, parents), parents=parents, created_by=CREATED_BY)


def _card(config: AlignConfig, heard: Corpus, parents: tuple[str, ...]) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(heard.hours().items()))
    makers = Counter(str(row.extra["text_made_by"]) for row in heard if row.extra.get("text_made_by"))
    machines = "".join(f" {count} of the texts were written by {maker}." for maker, count in sorted(makers.items()))
    tower = "a small text tower trained from nothing on the texts of this corpus" if config.tower else "a text encoder"
    return (
        f"# {config.name}\n\nSpeech and text in one space, trained with allophone by contrast of recordings with their "
        f"transcripts and translations ({config.method.loss}, {config.train.steps} updates). Speech encoder "
        f"{parents[0]}; text: {tower} ({config.text.training}), `text/`. Compare cosines of the vectors.\n\n"
        f"Heard: {heard.name}, {len(heard)} utterances; hours: {hours}. Languages of texts: "
        f"{', '.join(config.captions.languages or ('all that the corpus has',))}.{machines}\n\n"
        "It finds recordings by what is said, as far as the words, or words like them, were in training. It is no "
        "transcriber, and a voice or a channel that it never heard lowers its scores.\n"
    )
