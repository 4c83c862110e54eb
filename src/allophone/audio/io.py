"""Sound files to waveforms: mono float32 at 16 kHz, or an ``AudioError`` that says what is wrong with which file.

Decoding is soundfile's (libsndfile: WAV, FLAC, Ogg, Opus, MP3, AIFF, ...), found by content and not by file name;
formats it does not know (G.722, M4A/AAC, AMR, WMA, WebM) go through PyAV if that is installed.
Nothing here draws random numbers, caches, or changes loudness.

Shape letters: S samples at 16 kHz, N samples at the file's own rate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from allophone.audio.truncation import missing_end
from allophone.errors import AudioError
from allophone.frames import SAMPLE_RATE

Samples: TypeAlias = npt.NDArray[np.float32]
Audio: TypeAlias = str | Path | Tensor | npt.NDArray[Any] | Mapping[str, Any]
"""A path, a 1-D float array at 16 kHz, or ``{"array", "sampling_rate"}``."""

MAX_PEAK = 16.0
"""Largest sample, full scale being 1, that is taken for audio: 24 dB over full scale. Louder ones are integers that
were written as floats without dividing them, and clip to a square wave wherever samples are held as 16 bits."""
MIN_SAMPLES = 400
"""Fewest samples at 16 kHz that make one 25 ms frame."""
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .snd .caf .w64 .rf64 .wave .sph .nist "
    ".g722 .m4a .mp4 .aac .amr .3gp .wma .webm .mka".split()
)
"""File name endings, lower case, that are taken for audio when a folder is read."""

_PYAV_SUFFIXES = frozenset(".g722 .m4a .mp4 .aac .amr .3gp .wma .webm .mka".split())
_OVERRUN_SECONDS = 0.1
_UNKNOWN_LENGTH = 1 << 40
_BLOCK_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What a file's header says, without decoding it."""

    duration_seconds: float
    sample_rate: int
    """Hz, as stored."""
    channels: int
    format: str
    """Container, as found in the content: ``WAV``, ``FLAC``, ``OGG``, ``MP3``, ``G722``, ..."""
    subtype: str
    """Encoding: ``PCM_16``, ``VORBIS``, ``OPUS``, ..."""
    num_frames: int
    """Samples of each channel; 0 when the header does not tell."""


def probe_audio(path: str | Path) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioError: The file is missing, a folder, unreadable, empty, not audio, or shorter than its header says.
    """
    path = Path(path)
    _require_readable(path)
    if _needs_pyav(path):
        return _probe_with_pyav(path)
    with _opened(path) as sound:
        num_frames = sound.frames if 0 < sound.frames < _UNKNOWN_LENGTH else 0
        info = AudioInfo(
            duration_seconds=num_frames / sound.samplerate,
            sample_rate=sound.samplerate,
            channels=sound.channels,
            format=sound.format,
            subtype=sound.subtype,
            num_frames=num_frames,
        )
    _require_whole(path, info)
    return info


def audio_blocks(
    path: str | Path, *, start: int = 0, num_frames: int | None = None, info: AudioInfo | None = None
) -> Iterator[Samples]:
    """Decode a file piece by piece at its own rate, channels averaged, in memory that does not grow with its length.

    Args:
        path: The file.
        start: First sample to decode, at the file's own rate.
        num_frames: Samples to decode; to the end when None.
        info: What :func:`probe_audio` said, if it was already asked.

    Yields:
        Float32 arrays of shape ``(at most 10 seconds,)``.

    Raises:
        AudioError: As :func:`probe_audio`; or samples end before the header says, are NaN or infinite, or lie beyond
            :data:`MAX_PEAK`.
    """
    path = Path(path)
    info = info or probe_audio(path)
    wanted = num_frames if num_frames is not None else (info.num_frames - start if info.num_frames else None)
    blocks = _pyav_blocks(path, start) if _needs_pyav(path) else _soundfile_blocks(path, start, info.sample_rate)
    decoded = 0
    for block in blocks:
        if wanted is not None and decoded + len(block) > wanted:
            block = block[: wanted - decoded]
        if not np.isfinite(block).all():
            bad = start + decoded + int(np.flatnonzero(~np.isfinite(block))[0])
            raise AudioError(
                f"{path}: holds NaN or infinite samples (first at sample {bad}, {bad / info.sample_rate:.3f} s). "
                "Write the file again from its source."
            )
        _require_scale(block, f"{path}: ")
        decoded += len(block)
        yield block
        if decoded == wanted:
            return
    if wanted is not None and not _needs_pyav(path) and decoded < wanted - info.sample_rate // 100:
        raise _truncated(path, (start + decoded) / info.sample_rate, (start + wanted) / info.sample_rate)


def load_audio(path: str | Path, *, offset_seconds: float = 0.0, duration_seconds: float | None = None) -> Tensor:
    """Decode a file, or a part of it, to the waveform that every model takes.

    Channels are averaged; other rates are resampled by soxr (HQ). A part that ends up to 0.1 s beyond the end of
    the file is cut there, because manifests round.

    Args:
        path: The file.
        offset_seconds: Where the part begins.
        duration_seconds: How long it is; to the end when None.

    Returns:
        Float32, shape ``(S,)``, 16 kHz, in [-1, 1] (float files and resampling may exceed it a little).

    Raises:
        AudioError: The file is missing, empty, not audio, truncated, holds NaN or samples beyond :data:`MAX_PEAK`, is
            shorter than 400 samples at 16 kHz, or does not have the part that was asked for.
    """
    path = Path(path)
    info = probe_audio(path)
    start, num_frames = _part(path, info, offset_seconds, duration_seconds)
    blocks = list(audio_blocks(path, start=start, num_frames=num_frames, info=info))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    waveform = to_16k(samples, info.sample_rate)
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(
            f"{path}: only {len(waveform)} samples at 16 kHz ({len(samples)} as stored); speech needs at least "
            f"{MIN_SAMPLES} (one 25 ms frame). Leave this file out."
        )
    return torch.from_numpy(waveform)


def to_16k(samples: Samples, sample_rate: int) -> Samples:
    """Resample mono samples, shape ``(N,)``, from ``sample_rate`` Hz to 16 kHz, shape ``(S,)``."""
    if sample_rate == SAMPLE_RATE or not len(samples):
        return np.ascontiguousarray(samples, dtype=np.float32)
    return np.asarray(soxr.resample(samples, sample_rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)


def to_waveform(audio: Audio) -> Tensor:
    """Accept what users have: a path, samples at 16 kHz, or samples with their rate.

    Args:
        audio: A path; a float array or tensor of shape ``(S,)`` at 16 kHz; or a mapping with ``"array"`` of shape
            ``(N,)`` and ``"sampling_rate"`` in Hz (as Hugging Face ``datasets`` has it).

    Returns:
        Float32, shape ``(S,)``, 16 kHz.

    Raises:
        AudioError: The file is not usable (see :func:`load_audio`), or the array is not 1-D float, finite, within
            :data:`MAX_PEAK`, and at least 400 samples long.
    """
    if isinstance(audio, str | Path):
        return load_audio(audio)
    array: Any = audio
    sample_rate = SAMPLE_RATE
    if isinstance(audio, Mapping):
        if "array" not in audio or "sampling_rate" not in audio:
            raise AudioError(f"Audio mapping has keys {sorted(audio)}; expected 'array' and 'sampling_rate'.")
        array, sample_rate = audio["array"], int(audio["sampling_rate"])
    samples = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise AudioError(
            f"Audio array has shape {samples.shape} and dtype {samples.dtype}; expected one dimension of floats in "
            "[-1, 1] (average the channels; divide 16-bit integers by 32768)."
        )
    waveform = to_16k(samples.astype(np.float32), sample_rate)
    if not np.isfinite(waveform).all():
        raise AudioError("Audio array holds NaN or infinite samples.")
    _require_scale(waveform, "Audio array: ")
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(f"Audio array has {len(waveform)} samples at 16 kHz; speech needs at least {MIN_SAMPLES}.")
    return torch.from_numpy(waveform.copy())


def _require_scale(samples: Samples, where: str) -> None:
    """Refuse samples, shape ``(N,)``, that are not in [-1, 1], nor anywhere near."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > MAX_PEAK:
        raise AudioError(
            f"{where}the loudest sample is {peak:.0f}, expected -1 to 1 (up to {MAX_PEAK:g} is taken). They look like "
            f"integers written as floats: divide them by their full scale (16 bit: 32768) and write them again."
        )


def _part(path: Path, info: AudioInfo, offset_seconds: float, duration_seconds: float | None) -> tuple[int, int | None]:
    """First sample and number of samples of a part, checked against the file's length when that is known."""
    end_seconds = None if duration_seconds is None else offset_seconds + duration_seconds
    if offset_seconds < 0 or (duration_seconds is not None and duration_seconds <= 0):
        raise AudioError(f"{path}: asked for {duration_seconds} s from {offset_seconds} s; both must be positive.")
    start = round(offset_seconds * info.sample_rate)
    if info.num_frames == 0:
        return start, None if duration_seconds is None else round(duration_seconds * info.sample_rate)
    last = max(offset_seconds, end_seconds or 0.0)
    if last > info.duration_seconds + _OVERRUN_SECONDS or start >= info.num_frames:
        raise AudioError(
            f"{path}: asked for the part up to {last:.3f} s, but it is {info.duration_seconds:.3f} s long. "
            "Correct the offset and duration in the manifest, or import the corpus again."
        )
    end = info.num_frames if end_seconds is None else min(round(end_seconds * info.sample_rate), info.num_frames)
    return start, end - start


def _require_readable(path: Path) -> None:
    """Raise when there is no file with at least one byte that we may read."""
    if path.is_symlink() and not path.exists():
        raise AudioError(f"{path}: cannot be read: a link to {path.readlink()}, which does not exist.")
    if not path.exists():
        raise AudioError(f"{path}: no such file. Check the path and the folder that it is relative to.")
    if not path.is_file():
        raise AudioError(f"{path}: cannot be read: a folder or device, not a file.")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
    if empty:
        raise AudioError(f"{path}: empty file (0 bytes). Copy it again from its source.")


def _needs_pyav(path: Path) -> bool:
    """Whether libsndfile does not read this format; a misnamed WAV, FLAC or Ogg file is still its own."""
    if path.suffix.lower() not in _PYAV_SUFFIXES:
        return False
    with path.open("rb") as file:
        return file.read(4) not in (b"RIFF", b"fLaC", b"OggS", b"FORM")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A soundfile reader, with decoding failures told as ``AudioError``."""
    try:
        sound = soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(
            f"{path}: not audio that can be decoded ({reason}). Convert it to WAV or FLAC, or leave it out."
        ) from error
    with sound:
        try:
            yield sound
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path}: truncated or damaged: decoding stops before the end of its "
                f"{sound.frames / sound.samplerate:.2f} s ({error.error_string.rstrip('.')}). "
                "Copy it again from its source."
            ) from error


def _soundfile_blocks(path: Path, start: int, sample_rate: int) -> Iterator[Samples]:
    with _opened(path) as sound:
        if start:
            sound.seek(start)
        while True:
            block = sound.read(_BLOCK_SECONDS * sample_rate, dtype="float32", always_2d=True)
            if not len(block):
                return
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _truncated(path: Path, seconds: float, declared: float) -> AudioError:
    return AudioError(
        f"{path}: truncated: only {seconds:.2f} s can be decoded, its header says {declared:.2f} s. "
        "Copy it again from its source."
    )


def _require_whole(path: Path, info: AudioInfo) -> None:
    """Find a cut-off file from its bytes, where libsndfile adjusts the length without a word."""
    missing = missing_end(path, info.format)
    if missing is not None:
        raise AudioError(
            f"{path}: truncated: {missing}; {info.duration_seconds:.2f} s can be decoded. "
            "Copy it again from its source."
        )


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise AudioError(
            "PyAV is not installed, and this format (G.722, M4A, AMR, WMA, WebM) needs it: "
            "pip install av, or convert the files to WAV or FLAC."
        ) from error
    return av


@contextlib.contextmanager
def _av_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first audio stream."""
    try:
        av = _pyav()
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    try:
        with av.open(str(path), format="g722" if path.suffix.lower() == ".g722" else None) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no audio stream. Leave it out.")
            yield container, container.streams.audio[0]
    except (av.FFmpegError, OSError) as error:
        raise AudioError(
            f"{path}: not audio that can be decoded ({error}). Convert it to WAV or FLAC, or leave it out."
        ) from error


def _probe_with_pyav(path: Path) -> AudioInfo:
    with _av_stream(path) as (container, stream):
        rate, codec = int(stream.codec_context.sample_rate), stream.codec_context.name
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if codec == "g722":
            seconds = path.stat().st_size * 2 / rate
        return AudioInfo(
            duration_seconds=seconds,
            sample_rate=rate,
            channels=int(stream.codec_context.channels),
            format=str(container.format.name).split(",")[0].upper(),
            subtype=str(codec).upper(),
            num_frames=round(seconds * rate),
        )


def _pyav_blocks(path: Path, start: int) -> Iterator[Samples]:
    """As :func:`_soundfile_blocks`; what lies before ``start`` is decoded and thrown away."""
    with _av_stream(path) as (container, stream):
        planar = _pyav().AudioResampler(format="fltp")
        position = 0
        for frame in container.decode(stream):
            for plane in planar.resample(frame):
                block = plane.to_ndarray().mean(axis=0, dtype=np.float32)
                skip = max(0, start - position)
                position += len(block)
                if skip < len(block):
                    yield block[skip:]
