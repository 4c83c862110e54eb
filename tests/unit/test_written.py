"""Texts that a model writes of recordings are kept while it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from allophone.recipes import written
from allophone.recipes.written import Asked, kept_texts, write_all

SECONDS = (3, 1, 2, 5, 4)
ROWS: list[Any] = [SimpleNamespace(id=f"clip {s}", duration_seconds=float(s)) for s in SECONDS]
ASKED = [Asked(row=row, language="eng_Latn", reference="") for row in ROWS]
CACHE: Any = SimpleNamespace(get=lambda row: torch.full((int(row.duration_seconds),), 0.5))


def test_what_was_written_before_an_interruption_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, "BATCH", 2)
    heard: list[list[str]] = []

    def write(waveform: Tensor, lengths: Tensor, asked: Sequence[Asked]) -> list[str]:
        heard.append([one.row.id for one in asked])
        if len(heard) == 2:
            raise KeyboardInterrupt
        return [f"{length}\n  \u2028 said" for length in lengths.tolist()]

    kept = kept_texts(tmp_path, "model", "data", 5)
    with pytest.raises(KeyboardInterrupt):
        write_all(ASKED, CACHE, write, kept, lambda *_: None)
    with kept.open("a") as file:
        file.write('{"id": "clip 3", "lang')  # what a kill leaves
    texts = write_all(ASKED, CACHE, write, kept, lambda *_: None)
    assert heard == [["clip 1", "clip 2"], ["clip 3", "clip 4"], ["clip 3", "clip 4"], ["clip 5"]]
    assert texts == [f"{second}\n  \u2028 said" for second in SECONDS]
    assert write_all(ASKED, CACHE, lambda *_: pytest.fail("written again"), kept, lambda *_: None) == texts
    assert kept_texts(tmp_path, "other", "data", 5) != kept
