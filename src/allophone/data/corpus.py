"""A corpus: utterances, where their sound files lie, and a hash that says which data a number was made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from torch import Tensor

from allophone.audio.io import load_audio
from allophone.data.gather import Gathered, gather, source_name
from allophone.data.quarantine import Quarantined, require_small_loss
from allophone.data.utterance import Utterance, content, from_table, require_unique_ids, to_table
from allophone.errors import DataError
from allophone.text.languages import parse_language

CORPUS_TABLE = "corpus.parquet"
CORPUS_CARD = "corpus.json"

Choice = str | Collection[str] | None


@dataclass(frozen=True)
class Corpus:
    """Utterances and the folder that their paths are relative to. Immutable; ``where`` gives smaller ones."""

    folder: Path
    utterances: tuple[Utterance, ...]
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    """Further keys of ``corpus.json``, kept as they came."""
    quarantined: tuple[Quarantined, ...] = ()
    """What was left out when the corpus was imported (empty for a corpus that was opened)."""

    def __post_init__(self) -> None:
        require_unique_ids(self.utterances, self.name or str(self.folder))

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def __repr__(self) -> str:
        hours = ", ".join(f"{language} {value:.2f} h" for language, value in self.hours().items())
        return f"Corpus({self.name!r}, {len(self)} utterances: {hours})"

    @classmethod
    def open(
        cls,
        source: Any,
        *,
        language: str | None = None,
        max_loss: float = 0.05,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Corpus:
        """Open a corpus folder, or import anything else that an importer knows, without writing a corpus.

        Args:
            source: A folder that :meth:`save` wrote; a folder of recordings; AudioFolder; a CSV, TSV, JSONL or Parquet
                manifest; fairseq, Kaldi, NeMo or lhotse data; or Hugging Face ``datasets`` (a folder or an object).
            language: Language of every recording, when the source does not say it.
            max_loss: Largest share of a language's recordings that may be unusable.
            workers: Threads that decode; one a core when None.
            progress: Called with (files done, files in all) while decoding.

        Raises:
            DataError: The source cannot be read, a language is not known, two utterances have one id, or too many
                recordings are unusable.
        """
        if isinstance(source, str | Path) and (Path(source) / CORPUS_TABLE).is_file():
            if language is not None:
                raise DataError(
                    f"{source}: a corpus knows its languages; use .where(language={language!r}) to choose one."
                )
            return open_corpus_folder(Path(source))
        found = gather(source, media=embedded_media_folder(), language=language, workers=workers, progress=progress)
        require_small_loss(found.utterances, found.quarantined, max_loss)
        return cls.gathered(found, source_name(source))

    @classmethod
    def gathered(cls, found: Gathered, name: str) -> Corpus:
        """A corpus of what an import found; its paths are absolute until it is saved."""
        return cls(folder=Path("/"), utterances=found.utterances, name=name, quarantined=found.quarantined)

    def where(
        self, language: Choice = None, split: Choice = None, source: Choice = None, speaker: Choice = None
    ) -> Corpus:
        """The utterances that have one of the given values in every given column; possibly none.

        ``language`` is any tag that ``parse_language`` reads; one that names no script (``fra``) stands for all.

        Raises:
            DataError: A language is unknown.
        """
        languages = _options(language)
        tags = None if languages is None else frozenset().union(*map(_matching_tags, languages))
        choices = {"split": _options(split), "source": _options(source), "speaker": _options(speaker)}
        given = {name: options for name, options in choices.items() if options is not None}
        return self.with_utterances(
            tuple(
                row
                for row in self.utterances
                if (tags is None or row.language in tags or row.language.split("_")[0] in tags)
                and all(getattr(row, name) in options for name, options in given.items())
            )
        )

    def with_utterances(self, utterances: tuple[Utterance, ...]) -> Corpus:
        """The same corpus with other rows."""
        return replace(self, utterances=utterances)

    def audio_path(self, utterance: Utterance) -> Path:
        """Where an utterance's sound file lies."""
        return self.folder / utterance.path

    def audio(self, utterance: Utterance) -> Tensor:
        """Waveform of an utterance.

        Returns:
            Float32, shape ``(S,)``, 16 kHz.

        Raises:
            AudioError: The file is gone or can no longer be decoded.
        """
        return load_audio(
            self.audio_path(utterance),
            offset_seconds=utterance.offset_seconds,
            duration_seconds=utterance.duration_seconds,
        )

    def hours(self) -> dict[str, float]:
        """Hours of audio per language, sorted by language."""
        seconds: dict[str, float] = {}
        for row in self.utterances:
            seconds[row.language] = seconds.get(row.language, 0.0) + row.duration_seconds
        return {language: seconds[language] / 3600 for language in sorted(seconds)}

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that have utterances, sorted."""
        return tuple(self.hours())

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all rows in order of id; the same wherever the files lie."""
        digest = hashlib.sha256()
        for row in sorted(self.utterances, key=lambda row: row.id):
            line = json.dumps(content(row), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Corpus:
        """Write ``corpus.parquet`` and ``corpus.json``; sound files stay where they are.

        Returns:
            The corpus as it now lies in ``folder``: paths relative where the files are inside it, absolute otherwise.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        moved = tuple(replace(row, path=_path_from(folder, self.audio_path(row))) for row in self.utterances)
        saved = replace(self, folder=folder, utterances=moved, name=self.name or folder.resolve().name)
        _write_whole(folder / CORPUS_TABLE, lambda path: pq.write_table(to_table(moved), path))
        card = json.dumps(saved._card(), indent=2, ensure_ascii=False) + "\n"
        _write_whole(folder / CORPUS_CARD, lambda path: Path(path).write_text(card, encoding="utf-8"))
        return saved

    def _card(self) -> dict[str, Any]:
        """Content of ``corpus.json``."""
        return self.info | {
            "name": self.name,
            "hash": self.hash,
            "utterances": len(self),
            "licences": sorted({row.licence for row in self.utterances if row.licence}),
            "hours": {language: round(hours, 4) for language, hours in self.hours().items()},
        }


def open_corpus_folder(folder: Path) -> Corpus:
    """Open a folder that :meth:`Corpus.save` wrote.

    Raises:
        DataError: ``corpus.parquet`` or ``corpus.json`` is missing or cannot be read, or a row is incomplete.
    """
    table_path, card_path = folder / CORPUS_TABLE, folder / CORPUS_CARD
    if not table_path.is_file():
        raise DataError(
            f"{folder}: no {CORPUS_TABLE} there; expected a corpus folder. Make one: allophone corpus import."
        )
    try:
        table = pq.read_table(table_path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{table_path}: not a Parquet file that can be read ({error}). Import the corpus again."
        ) from error
    info: dict[str, Any] = {}
    if card_path.is_file():
        try:
            info = json.loads(card_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{card_path}: not JSON ({error}). Import the corpus again.") from error
    name = str(info.pop("name", "") or folder.resolve().name)
    return Corpus(folder=folder, utterances=from_table(table, str(table_path)), name=name, info=info)


def merge(first: Corpus, second: Corpus) -> Corpus:
    """Both corpora as one, with absolute paths; an utterance that is in both counts once.

    Raises:
        DataError: Two different utterances have the same id.
    """
    rows: dict[str, Utterance] = {}
    for corpus in (first, second):
        for row in corpus:
            row = replace(row, path=str(corpus.audio_path(row).absolute()))
            if rows.setdefault(row.id, row) != row:
                raise DataError(
                    f"Utterance id {row.id!r} means {rows[row.id].path} and {row.path}. Rename one of them."
                )
    return first.with_utterances(tuple(rows.values()))


def embedded_media_folder() -> Path:
    """Where sound that a source holds as bytes is written when no corpus folder is: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allophone" / "embedded"


def _matching_tags(language: str) -> frozenset[str]:
    """Tags and bare codes in the corpus that a user's tag stands for."""
    parsed = parse_language(language)
    names_script = any(len(part) == 4 for part in language.replace("_", "-").split("-")[1:])
    own = language.replace("-", "_")
    return frozenset((parsed.tag, own) if names_script else (parsed.code, own))


def _options(choice: Choice) -> frozenset[str] | None:
    if choice is None:
        return None
    return frozenset((choice,)) if isinstance(choice, str) else frozenset(choice)


def _path_from(folder: Path, file: Path) -> str:
    """``file`` relative to ``folder`` if it lies inside, absolute otherwise; with forward slashes."""
    absolute, root = Path(os.path.abspath(file)), Path(os.path.abspath(folder))  # noqa: PTH100 (keep links as they are)
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else absolute.as_posix()


def _write_whole(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside the target and rename, so that a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write(str(partial))
    partial.replace(path)
