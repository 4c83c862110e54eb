"""The table of units against phones says whose phones they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_corpus
import tiny_model

from allophone.recipes.phones import PHONES, phone_table
from allophone.run.base import Base
from allophone.run.targets import waveforms
from allophone.units.fit import fit_codebook


@pytest.mark.parametrize(("unheard", "names", "said"), [(False, "English, French", "some"), (True, "English", "none")])
def test_languages_and_voices_of_the_labelled_are_told(tmp_path: Path, unheard: bool, names: str, said: str) -> None:
    corpus = tiny_corpus.corpus(tmp_path)
    if unheard:
        one = (replace(row, split="test") if row.language == "eng_Latn" else row for row in corpus)
        corpus = corpus.with_utterances(tuple(one))
    wanted = [row for row in corpus if row.split == "test" and (row.language == "eng_Latn" or not unheard)]
    labelled = [row.id for row in wanted[:12]]
    phones = [
        {"phone": "a", "start_seconds": 0.0, "end_seconds": 0.3},
        {"phone": "o", "start_seconds": 0.3, "end_seconds": 0.6},
    ]
    pq.write_table(pa.table({"id": labelled, "phones": [phones] * len(labelled)}), corpus.folder / PHONES)
    encoder = tiny_model.lasr()
    rows = waveforms(corpus, corpus.utterances[:10])
    codebook = fit_codebook(rows, "model", 4, seed=0, encoder=encoder, layer=1)
    table = phone_table(corpus, Base(encoder=encoder, codebook=codebook, heads=None), encoder, codebook, seed=0)
    assert table is not None and table.title == f"Sound units against phones ({names})"
    assert f"{len(labelled)} sentences, {said} of them of voices in the corpus' training split" in table.note
