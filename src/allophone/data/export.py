"""A corpus as manifests that other programs read: TSV, NeMo, lhotse cuts, AudioFolder (Hugging Face), ML-SUPERB.

Sound files stay where they are and are named by absolute path. TSV and NeMo are read back by the importers with all
that an utterance has but its further columns; in TSV, any space inside of a text is one blank. AudioFolder has no
offsets, so that parts of files are written out as FLAC, and ML-SUPERB's folders hold WAV.
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
from allophone.errors import ConfigError, DataError, suggest
from allophone.frames import SAMPLE_RATE

ExportFormat: TypeAlias = Literal["tsv", "nemo", "lhotse", "audiofolder", "mlsuperb"]

_MORE = ("label", "group", "translations", "split", "source", "licence", "synthetic")
"""Columns that NeMo has no names for; its manifests may hold any others."""
_PLACE = ("path", "offset_seconds", "duration_seconds")
"""Columns that say where the sound is; AudioFolder says it by a file of its own."""
_COLUMNS = (
    "id",
    "path",
    "offset_seconds",
    "duration_seconds",
    "language",
    "speaker",
    "text",
    *_MORE,
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
        DataError: ML-SUPERB's folders cannot be made of this corpus, or are there already, or TSV cannot hold a name.
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
            values = _values(row) | {"path": str(corpus.audio_path(row).resolve())}
            writer.writerow([_cell(name, values.get(name), out) for name in _COLUMNS])


def _values(row: Utterance) -> dict[str, Any]:
    """What is known of an utterance, by column."""
    values = {name: getattr(row, name) for name in _COLUMNS} | {"translations": dict(row.translations) or None}
    return {name: value for name, value in values.items() if value is not None}


def _cell(name: str, value: Any, out: Path) -> str:
    """One value of a line; names of files and utterances have to stay as they are."""
    if value is None:
        return ""
    if name not in ("id", "path"):
        text = json.dumps(value, ensure_ascii=False) if name == "translations" else str(value)
        return " ".join(text.split())
    if set(value) & set("\t\n\r"):
        raise DataError(f"{out}: {name} {value!r} has a tab or an end of line in it, which TSV cannot hold. Rename it.")
    return str(value)


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
                **{name: value for name, value in _values(row).items() if name in _MORE},
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
        values = _values(row)
        rows.append({"file_name": name, **{column: values.get(column) for column in _COLUMNS if column not in _PLACE}})
    _write_lines(out / "metadata.jsonl", rows)


def _write_lines(out: Path, rows: list[dict[str, Any]]) -> None:
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
