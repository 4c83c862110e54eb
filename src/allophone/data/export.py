"""A corpus as manifests that other programs read: TSV, NeMo, lhotse cuts, AudioFolder (Hugging Face), ML-SUPERB.

Sound files stay where they are and are named by absolute path. TSV and NeMo are read back by the importers as they
are; AudioFolder has no offsets, so that parts of files are written out as FLAC, and ML-SUPERB's folders hold WAV.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import soundfile

from allophone.audio.io import probe_audio
from allophone.data.corpus import Corpus
from allophone.data.mlsuperb_layout import write_mlsuperb
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, suggest
from allophone.frames import SAMPLE_RATE

ExportFormat: TypeAlias = Literal["tsv", "nemo", "lhotse", "audiofolder", "mlsuperb"]

_COLUMNS = (
    "id",
    "path",
    "offset_seconds",
    "duration_seconds",
    "language",
    "speaker",
    "text",
    "label",
    "group",
    "split",
)


def export_corpus(corpus: Corpus, out: str | Path, *, to: ExportFormat) -> Path:
    """Write a corpus in another format.

    Args:
        corpus: What to write.
        out: The file, or for ``audiofolder`` and ``mlsuperb`` the folder.
        to: ``tsv``, ``nemo`` (JSON lines), ``lhotse`` (cuts as JSON lines), ``audiofolder`` (FLAC at 16 kHz with
            ``metadata.jsonl``) or ``mlsuperb`` (the folders of its version 1).

    Returns:
        ``out``.

    Raises:
        ConfigError: The format is not known.
        DataError: ML-SUPERB's folders cannot be made of this corpus, or are there already.
    """
    writers: dict[str, Callable[[Corpus, Path], None]] = {
        "tsv": _write_tsv,
        "nemo": _write_nemo,
        "lhotse": _write_lhotse,
        "audiofolder": _write_audio_folder,
        "mlsuperb": write_mlsuperb,
    }
    if to not in writers:
        raise ConfigError(f"Cannot export to {to!r}. {suggest(to, writers)}")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    writers[to](corpus, out)
    return out


def _write_tsv(corpus: Corpus, out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in corpus.utterances:
            values = [
                str(corpus.audio_path(row).resolve()) if name == "path" else getattr(row, name) for name in _COLUMNS
            ]
            writer.writerow(["" if value is None else " ".join(str(value).split()) for value in values])


def _write_nemo(corpus: Corpus, out: Path) -> None:
    _write_lines(
        out,
        [
            {
                "id": row.id,
                "audio_filepath": str(corpus.audio_path(row).resolve()),
                "offset": row.offset_seconds,
                "duration": row.duration_seconds,
                "text": row.text or "",
                "lang": row.language,
                "speaker": row.speaker or "",
            }
            for row in corpus.utterances
        ],
    )


def _write_lhotse(corpus: Corpus, out: Path) -> None:
    _write_lines(out, [_cut(corpus, row) for row in corpus.utterances])


def _cut(corpus: Corpus, row: Utterance) -> dict[str, Any]:
    """A lhotse cut; all channels, so that nothing has to be chosen."""
    path = corpus.audio_path(row).resolve()
    info = probe_audio(path)
    channels = list(range(info.channels))
    recording_id = path.with_suffix("").as_posix().lstrip("/")
    supervision = {
        "id": row.id,
        "recording_id": recording_id,
        "start": 0.0,
        "duration": row.duration_seconds,
        "channel": channels if len(channels) > 1 else 0,
        "text": row.text,
        "language": row.language,
        "speaker": row.speaker,
    }
    return {
        "id": row.id,
        "start": row.offset_seconds,
        "duration": row.duration_seconds,
        "channel": channels if len(channels) > 1 else 0,
        "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
        "recording": {
            "id": recording_id,
            "sources": [{"type": "file", "channels": channels, "source": str(path)}],
            "sampling_rate": info.sample_rate,
            "num_samples": info.num_frames,
            "duration": info.duration_seconds,
            "channel_ids": channels,
        },
        "type": "MultiCut" if len(channels) > 1 else "MonoCut",
    }


def _write_audio_folder(corpus: Corpus, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, row in enumerate(corpus.utterances):
        name = f"audio/{number:07d}.flac"
        (out / name).parent.mkdir(exist_ok=True)
        soundfile.write(out / name, corpus.audio(row).clamp(-1, 1).numpy(), SAMPLE_RATE)
        values = {
            column: getattr(row, column)
            for column in _COLUMNS
            if column not in ("path", "offset_seconds", "duration_seconds")
        }
        rows.append({"file_name": name, **values})
    _write_lines(out / "metadata.jsonl", rows)


def _write_lines(out: Path, rows: list[dict[str, Any]]) -> None:
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
