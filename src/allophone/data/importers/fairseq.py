"""fairseq's manifests: a root line, then ``path<TAB>samples``; words in ``.wrd`` or letters in ``.ltr`` beside."""

from __future__ import annotations

from pathlib import Path

from allophone.data.importers.entry import SPLITS, Entry, default_id, tag_of
from allophone.data.lines import text_lines
from allophone.errors import DataError


def is_fairseq(path: Path) -> bool:
    """Whether a ``.tsv`` is fairseq's: one value in the first line, a path and a number in the second."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first, second = file.readline().rstrip("\r\n"), file.readline().rstrip("\r\n").split("\t")
    return bool(first) and "\t" not in first and len(second) == 2 and second[1].isdigit()


def read_fairseq(path: Path, *, language: str | None = None) -> list[Entry]:
    """Read a manifest; its language comes from the argument, its split from its name (``train.tsv``).

    Raises:
        DataError: A line is not ``path<TAB>samples``, or the texts are not as many as the files.
    """
    lines = text_lines(path)
    root, rows = Path(lines[0]), [line.split("\t") for line in lines[1:] if line]
    if not root.is_absolute():
        root = path.parent / root
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or not row[1].isdigit():
            raise DataError(f"{path}, line {number}: {row}; expected a path, a tab and the number of samples.")
    texts = _texts(path, len(rows))
    tag = tag_of(language, str(path)) if language else None
    return [
        Entry(
            path=root / name,
            id=default_id(root / name, root),
            where=f"{path}, line {number}",
            num_samples=int(samples),
            language=tag,
            text=text,
            split=SPLITS.get(path.stem.lower()),
        )
        for number, ((name, samples), text) in enumerate(zip(rows, texts, strict=True), 2)
    ]


def _texts(path: Path, count: int) -> list[str | None]:
    for suffix in (".wrd", ".ltr"):
        file = path.with_suffix(suffix)
        if file.is_file():
            lines = text_lines(file)
            if len(lines) != count:
                raise DataError(
                    f"{file}: {len(lines)} lines, but {path.name} lists {count} files; expected one text each."
                )
            if suffix == ".ltr":
                lines = ["".join(line.split()).replace("|", " ").strip() for line in lines]
            return [line.strip() or None for line in lines]
    return [None] * count
