"""Build the starter corpus: Opus files, ``corpus.parquet``, ``corpus.json``, ``phones.parquet`` and the licences.

    python build_starter.py --packages DIR [--out DIR] [--keep-audio]

A pair in ``suspect.csv`` loses its text; where the content is in doubt too (tuxpaint) the recording goes. A recording
that a voice repeats sample for sample is kept once. Broken recordings are reported.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import logging
import shutil
from collections import Counter
from pathlib import Path

import corpus_folder
import pyarrow as pa
import pyarrow.parquet as pq
from audio import SAMPLE_RATE, BrokenAudio, load_trimmed
from catalog import group_splits, read_grouped
from opus import write_opus
from records import Clip
from selection import select
from sources import tuxpaint

HERE = Path(__file__).parent
MIN_SECONDS = 0.15
LICENCE_PACKAGES = (
    "tuxpaint-stamps-default",
    "ktuberling-data",
    "festvox-ru",
    "asterisk-core-sounds-en-g722",
    "asterisk-prompt-it-menardi-wav",
    "asterisk-prompt-fr-armelle",
    "asterisk-prompt-es-co",
)
PHONES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field(
            "phones",
            pa.list_(
                pa.struct([("phone", pa.string()), ("start_seconds", pa.float64()), ("end_seconds", pa.float64())])
            ),
            nullable=False,
        ),
    ]
)
log = logging.getLogger("build_starter")


def read_suspects(path: Path) -> set[str]:
    """Ids of the pairs whose text is not what is said."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"] for row in csv.DictReader(file)}


def shifted_phones(clip: Clip, cut_seconds: float, duration_seconds: float) -> list[dict[str, object]]:
    """Phones of the trimmed recording, in seconds from its first sample."""
    phones = []
    for phone, start, end in clip.phones:
        start, end = max(0.0, start - cut_seconds), min(duration_seconds, end - cut_seconds)
        if end > start:
            phones.append({"phone": phone, "start_seconds": round(start, 4), "end_seconds": round(end, 4)})
    return phones


def write_licences(packages: Path, folder: Path) -> None:
    """Copy credits, licence texts and the packages' own copyright files beside the audio."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((HERE / "texts").iterdir()):
        shutil.copyfile(path, folder / path.name)
    for package in LICENCE_PACKAGES:
        document = packages / package / "usr/share/doc" / package / "copyright"
        shutil.copyfile(document, folder / f"{package}.copyright.txt")
    terms = packages / "asterisk-prompt-es-co/usr/share/doc/asterisk-prompt-es-co/LICENCIA.gz"
    (folder / "GPL-2.0.txt").write_bytes(gzip.decompress(terms.read_bytes()))


def remove_strangers(folder: Path, rows: list[corpus_folder.Row], out: Path) -> None:
    """Delete audio that no row names, left by an earlier build."""
    named = {out / row.path for row in rows}
    for path in folder.rglob("*.opus"):
        if path not in named:
            path.unlink()


def build(packages: Path, out: Path, keep_audio: bool) -> None:
    """Write the corpus folder."""
    grouped = read_grouped(packages)
    splits = group_splits(grouped)
    suspects = read_suspects(HERE / "suspect.csv")
    if not keep_audio:
        shutil.rmtree(out / "audio", ignore_errors=True)
    rows: list[corpus_folder.Row] = []
    phones: list[dict[str, object]] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[str, bytes]] = set()
    chosen = select(grouped, splits)
    for number, clip in enumerate(chosen):
        if clip.id in suspects and clip.source == tuxpaint.SOURCE:
            left_out["suspect"] += 1
            continue
        try:
            waveform, rate, cut_seconds = load_trimmed(clip.audio)
        except BrokenAudio as error:
            log.warning("left out %s: %s", clip.id, error)
            left_out["broken"] += 1
            continue
        digest = (clip.language + clip.speaker, hashlib.sha256(waveform.tobytes()).digest())
        duration = len(waveform) / SAMPLE_RATE
        if digest in seen or duration < MIN_SECONDS:
            left_out["repeated" if digest in seen else f"under {MIN_SECONDS} s"] += 1
            continue
        seen.add(digest)
        path = out / "audio" / f"{clip.id}.opus"
        if not path.exists():
            write_opus(path, waveform)
        trusted = clip.id not in suspects
        translations = {tag: text for tag, text in clip.translations.items() if trusted or tag != clip.language}
        rows.append(
            corpus_folder.Row(
                id=clip.id,
                path=path.relative_to(out).as_posix(),
                duration_seconds=duration,
                language=clip.language,
                speaker=clip.speaker,
                split="test" if clip.second_voice else splits[str(clip.group)],
                source=clip.source,
                licence=clip.licence,
                sha256=corpus_folder.file_sha256(path),
                original_sample_rate=rate,
                text=clip.text if trusted else None,
                label=clip.label,
                group=clip.group,
                translations=translations,
            )
        )
        if clip.phones:
            phones.append({"id": clip.id, "phones": shifted_phones(clip, cut_seconds, duration)})
        if number % 1000 == 0:
            log.info("%d of %d", number, len(chosen))
    remove_strangers(out / "audio", rows, out)
    corpus_folder.write(out, "allophone-starter", rows)
    pq.write_table(pa.Table.from_pylist(phones, schema=PHONES), out / "phones.parquet", compression="zstd")
    write_licences(packages, out / "licences")
    (out / "contents.txt").write_text(corpus_folder.summary_table(rows), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    log.info("%sleft out: %s\n%.1f MB", corpus_folder.summary_table(rows), dict(left_out), size / 1e6)


def main() -> None:
    """Build the corpus and print what it holds and what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of extracted packages, see fetch.py")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src/allophone_starter/corpus")
    parser.add_argument("--keep-audio", action="store_true", help="reuse audio that an earlier build wrote to OUT")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(arguments.packages, arguments.out, arguments.keep_audio)


if __name__ == "__main__":
    main()
