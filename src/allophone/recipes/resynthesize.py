"""Recordings to units and back to speech; or units from a file to speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile
import torch
from torch import Tensor

from allophone.audio.io import load_audio
from allophone.errors import ConfigError, DataError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.nn.codebook import Codebook
from allophone.recipes.vocoder import with_codebook
from allophone.run.progress import Report, silent
from allophone.run.speaking import Speech, speak
from allophone.units.encode import Units, encode_units

Durations = Literal["kept", "predicted"]


@dataclass(frozen=True, slots=True)
class _Clip:
    name: str
    units: Tensor
    clock: FrameClock
    recorded: Tensor | None


def resynthesize(
    vocoder: Path,
    out: Path,
    *,
    audio: Sequence[Path] = (),
    model: str | Path | None = None,
    codebook: Path | None = None,
    units: Path | None = None,
    ids: Sequence[str] = (),
    speaker: str | None = None,
    language: str | None = None,
    durations: Durations = "kept",
    report: Report = silent,
) -> list[Path]:
    """Speak units with a vocoder.

    Args:
        vocoder: Folder that ``allophone vocoder train`` wrote.
        out: A ``.wav`` file for one clip; otherwise a folder that receives one WAV file a clip.
        audio: Recordings, which become units first; each is taken as one voice.
        model: With ``audio``: encoder that the codebook was fitted on.
        codebook: Its folder. With ``audio`` None = the one beside the model; with ``units`` only needed where they were
            anchored to the vocoder's.
        units: Instead of ``audio``: a file that ``allophone units encode`` wrote.
        ids: With ``units``: which of them; none = all.
        speaker: Name of a voice of the vocoder; None = the one it heard most.
        language: The same for languages.
        durations: ``kept``: units last as long as in the recording; ``predicted``: repeats are dropped and the vocoder
            decides.
        report: Told how far it is.

    Returns:
        The files, in order.

    Raises:
        ConfigError: Not exactly one of ``audio`` and ``units`` is given, ``audio`` comes without a model, or ``out`` is
            one file for several clips.
        DataError: The units are of another codebook, an id has no units, or a voice is not known.
    """
    if bool(audio) == (units is not None) or (audio and model is None):
        raise ConfigError("Say what to speak: either recordings and the model that makes units of them, or units.")
    speech = Speech.load(vocoder)
    row, tongue = speech.voices.speaker(speaker), speech.voices.language(language)
    if units is None:
        assert model is not None
        names, clips = [str(path) for path in audio], _of_audio(audio, model, codebook, speech)
    else:
        loaded = Units.load(units)
        names, clips = list(ids) or list(loaded), _of_units(loaded, ids, _ids(loaded, codebook, speech))
    files = _files(out, [Path(name).stem if units is None else name for name in names])
    progress = report("Speaking")
    for number, (clip, file) in enumerate(zip(clips, files, strict=True), 1):
        waveform = speak(
            speech.vocoder,
            clip.units,
            clip.clock,
            speaker=row,
            language=tongue,
            recorded=clip.recorded,
            predict_durations=durations == "predicted",
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE, subtype="PCM_16")
        progress(number, len(files), {})
    return files


def _of_audio(audio: Sequence[Path], model: str | Path, codebook: Path | None, speech: Speech) -> Iterator[_Clip]:
    base, book = with_codebook(model, codebook)
    ids = speech.ids(book)
    for path in audio:
        waveform = load_audio(path)
        units = encode_units(lambda wave=waveform: iter([("clip", wave)]), book, encoder=base.encoder)  # type: ignore[misc]
        yield _Clip(str(path), ids[units["clip"]], book.info.clock, waveform)


def _ids(units: Units, codebook: Path | None, speech: Speech) -> Tensor:
    """What the vocoder calls each unit. Shape ``(K,)``."""
    if codebook is None:
        speech.require(units.codebook_hash)
        return torch.arange(units.num_units)
    book = Codebook.load(codebook)
    units.check(book)
    return speech.ids(book)


def _of_units(units: Units, names: Sequence[str], ids: Tensor) -> Iterator[_Clip]:
    missing = [name for name in names if name not in units.labels]
    if missing:
        raise DataError(
            f"The units hold no utterance {missing[0]!r}; they hold {len(units)}, such as {next(iter(units))!r}."
        )
    for name in names or units:
        yield _Clip(name, ids[units[name]], units.clock, None)


def _files(out: Path, names: Sequence[str]) -> list[Path]:
    """One file a clip; names are made safe and, where they then coincide, numbered."""
    if out.suffix.lower() == ".wav":
        if len(names) != 1:
            raise ConfigError(f"{out} is one file, but there are {len(names)} clips; name a folder.")
        return [out]
    files: list[Path] = []
    for name in names:
        stem = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "clip"
        file, number = out / f"{stem}.wav", 1
        while file in files:
            number += 1
            file = out / f"{stem}-{number}.wav"
        files.append(file)
    return files
