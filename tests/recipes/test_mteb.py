"""One of mteb's own audio tasks, run by its own ``evaluate`` on recordings that lie here, with an encoder of ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import LASR

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.models.lasr import Lasr
from allophone.models.speech_encoder import SpeechEncoder

pytestmark = pytest.mark.peer
mteb = pytest.importorskip("mteb", reason="mteb is not installed; pip install 'allophone[mteb]'")

from allophone.evaluate.mteb_bridge import MtebEncoder, local_task  # noqa: E402

TASK = "CommonLanguageLanguageDetection"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Three "languages" that are tones of three pitches; ten clips to train on and six to test of each."""
    import soundfile

    root = tmp_path_factory.mktemp("mteb")
    rows = []
    for place, tag in enumerate(("deu_Latn", "fra_Latn", "rus_Cyrl")):
        for number in range(16):
            generator = np.random.default_rng(100 * place + number)
            time = np.arange(8000) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * 200 * 3**place * time) + 0.01 * generator.standard_normal(len(time))
            name = f"{tag}-{number}"
            soundfile.write(root / f"{name}.wav", wave, 16_000)
            split = "train" if number < 10 else "test"
            rows.append(
                Utterance(
                    id=name, path=f"{name}.wav", duration_seconds=0.5, sample_rate=16_000, language=tag, split=split
                )
            )
    return Corpus(name="tones", folder=root, utterances=tuple(rows))


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(Lasr(replace(LASR, num_mel_bins=80)))


def test_mteb_scores_our_encoder_on_our_recordings(corpus, encoder) -> None:
    model = MtebEncoder(encoder, "tiny", layer=1)
    result = mteb.evaluate(model, local_task(TASK, corpus), cache=None, show_progress_bar=False)
    (scored,) = result.task_results
    assert scored.task_name == TASK and scored.dataset_revision == corpus.hash
    assert result.model_name == "local/tiny" and result.model_revision.startswith(encoder.model_hash)
    found = scored.scores["test"][0]
    assert found["accuracy"] > 0.9  # three tones; chance is a third
    assert len(found["scores_per_experiment"]) == 10


def test_vectors_are_the_encoders_own_in_any_batch(corpus, encoder) -> None:
    model = MtebEncoder(encoder, "owner/tiny")
    task = local_task(TASK, corpus)
    items = [task.dataset["test"][index]["audio"] for index in range(5)]
    asked = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    found = model.encode([{"audio": items[:3]}, {"audio": items[3:]}], **asked)
    paths = [corpus.audio_path(row) for row in corpus if row.split == "test"][:5]
    np.testing.assert_allclose(found, encoder.encode(paths), atol=1e-4)
    assert isinstance(model, mteb.models.EncoderProtocol) and model.mteb_model_meta.name == "owner/tiny"
    cosines = model.similarity(found, found)
    assert torch.allclose(cosines.diagonal(), torch.ones(5), atol=1e-5)
    assert torch.allclose(model.similarity_pairwise(found, found[::-1].copy()), cosines.flip(1).diagonal(), atol=1e-5)
    with pytest.raises(DataError, match=r"CommonLanguageLanguageDetection: a batch has \['text'\]; expected 'audio'"):
        model.encode([{"text": []}], **asked)


def test_what_cannot_be_a_task_is_refused(corpus) -> None:
    with pytest.raises(ConfigError, match="Banking77Classification: expected one that reads audio"):
        local_task("Banking77Classification", corpus)
    with pytest.raises(DataError, match=r"tones: no utterance in split 'test', which .* asks for; it has train"):
        local_task(TASK, corpus.where(split="train"))
    with pytest.raises(DataError, match=r"no column 'label', which FSDD asks for.*columns={'label': "):
        local_task("FSDD", corpus)
    named = local_task("FSDD", corpus, columns={"label": "language"})
    assert set(named.dataset["test"]["label"]) == set(corpus.languages)
