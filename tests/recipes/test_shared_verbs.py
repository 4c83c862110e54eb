"""The verbs that train on what is said, in two processes of one job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_corpus import corpus
from tiny_model import LASR
from torch import Tensor

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

from processes import losses, spawn

from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.models.text_teacher import cached_vectors
from allophone.recipes.align import align
from allophone.recipes.distill import DistillOptions, distill
from allophone.recipes.transcribe import TranscribeOptions, train_transcribers
from allophone.recipes.translate import TranslateOptions, train_translators
from allophone.recipes.vocoder import train_vocoder
from allophone.run.distillation import corpus_texts
from allophone.train import parallel

NOWHERE = Path("nowhere")


def vectors(texts: list[str]) -> Tensor:
    return torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(len(text))) for text in texts])


def trained(folder: Path, name: str, microbatches: int | None) -> None:
    """Two steps of each verb, in ``folder/name``; the transcriber alone is scored, which rank 0 does."""
    whole, encoder, out = Corpus.open(folder / "corpus"), folder / "encoder", folder / name
    spoken = whole.where(split="train")
    distilled = DistillOptions(objective="samu", steps=2, microbatches=microbatches)
    distill(encoder, spoken, out=out / "distill", teacher=folder / "teacher", options=distilled)
    align(encoder, spoken, out=out / "align", steps=2, microbatches=microbatches)
    spelled = TranscribeOptions(steps=2, microbatches=microbatches, width=1)
    train_transcribers(encoder, whole, out=out / "transcribe", options=spelled)
    written = TranslateOptions(steps=2, microbatches=microbatches)
    train_translators({"a": encoder}, spoken, out=out / "translate", languages=("spa",), options=written)


def test_two_processes_take_a_batch_each_and_compute_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    spoken = corpus(tmp_path / "corpus")
    cached_vectors([text for _, text in corpus_texts(spoken)], vectors, "made up", tmp_path / "teacher")
    save_encoder(Lasr(LASR), tmp_path / "encoder", "# tiny\n")
    spawn(2, trained, tmp_path, "two", None)
    trained(tmp_path, "one", 2)
    for run in ("distill/seed-0", "transcribe/seed-0", "translate/a/seed-0", "align"):
        two, one = tmp_path / "two" / run, tmp_path / "one" / run
        assert json.loads((two / "config.json").read_text())["train"]["microbatches"] == 2
        assert (two / "model" / "README.md").exists()
        if run != "align":  # its contrast is over what is heard at once: two batches in two processes, one in one
            assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert (tmp_path / "two" / "transcribe" / "scores.md").exists()


@pytest.mark.parametrize(
    "verb",
    [
        lambda some, out: distill(NOWHERE, some, out=out, teacher=NOWHERE, options=DistillOptions(microbatches=3)),
        lambda some, out: align(NOWHERE, some, out=out, microbatches=3),
        lambda some, out: train_transcribers(NOWHERE, some, out=out, options=TranscribeOptions(microbatches=3)),
        lambda some, out: train_translators({"a": NOWHERE}, some, out=out, options=TranslateOptions(microbatches=3)),
        lambda some, out: train_vocoder(some, out=out, model=NOWHERE, microbatches=3),
    ],
)
def test_batches_that_cannot_be_shared_are_refused_before_anything_is_prepared(
    verb: Callable[[Corpus, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ConfigError, match="2 processes cannot share the 3 batches of a step"):
        verb(corpus(tmp_path / "corpus"), tmp_path / "run")
