from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from allophone.errors import ConfigError, DataError, ShapeError
from allophone.evaluate.zero_shot import class_probabilities, class_prompts, class_vectors, zero_shot
from allophone.seeding import torch_generator

LABELS = ["happy", "sad", "angry"]


def by_class(texts: Sequence[str]) -> Tensor:
    """A text encoder that knows what each prompt of the three classes means, up to noise of its own."""
    table = {text: place for place, one in enumerate(class_prompts("emotion", LABELS)) for _, text in one.prompts}
    noise = torch.stack([0.3 * torch.randn(8, generator=torch_generator(0, text)) for text in texts])
    return F.normalize(torch.eye(8)[[table[text] for text in texts]] + noise, dim=-1)


def test_prompts_are_in_languages_that_name_every_class() -> None:
    classes = class_prompts("emotion", LABELS, ["eng_Latn", "fra_Latn"])
    assert [one.label for one in classes] == LABELS
    assert {language for language, _ in classes[0].prompts} == {"eng_Latn", "fra_Latn"}
    assert len(classes[0].prompts) == len(classes[1].prompts) > 2
    words = class_prompts("keyword", ["oui", "non"], ["fra_Latn"])
    assert all("oui" in text for _, text in words[0].prompts)
    assert class_prompts("language", ["fra_Latn", "spa_Latn"], ["eng_Latn"])[0].prompts[0][1]


def test_a_class_is_the_mean_of_its_prompts() -> None:
    classes = class_prompts("emotion", LABELS)
    vectors = class_vectors(classes, by_class)
    assert vectors.shape == (3, 8) and vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    mean = by_class([text for _, text in classes[1].prompts]).mean(dim=0)
    torch.testing.assert_close(vectors[1], mean / mean.norm())
    found = class_probabilities(vectors, vectors, 0.1)
    assert found.argmax(dim=1).tolist() == [0, 1, 2]
    assert found.sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_scores_with_spread_over_prompts() -> None:
    truth = [LABELS[number % 3] for number in range(60)]
    right = torch.eye(8)[[LABELS.index(label) for label in truth]]
    speech = F.normalize(right + 0.2 * torch.randn(60, 8), dim=-1)
    found = zero_shot(speech, truth, class_prompts("emotion", LABELS), by_class, groups=[n // 3 for n in range(60)])
    assert found.accuracy.value > 90 and found.accuracy.n == 20
    assert found.chance == pytest.approx(100 / 3) and found.majority == pytest.approx(100 / 3)
    low, high = found.prompt_spread
    assert low <= found.accuracy.value <= 100 and low <= high and len(found.spread) > 5
    random = zero_shot(F.normalize(torch.randn(60, 8), dim=-1), truth, class_prompts("emotion", LABELS), by_class)
    assert random.accuracy.low <= random.chance <= random.accuracy.high


def test_classes_that_are_told_alike_score_chance() -> None:
    """The first class is no better than the others where all prompts have one vector."""
    one = torch.eye(8)[:1]
    classes = class_prompts("emotion", LABELS)
    found = zero_shot(torch.eye(8)[:4], ["happy"] * 4, classes, lambda texts: one.repeat(len(texts), 1))
    assert found.accuracy.value == pytest.approx(found.chance) and found.hits.tolist() == pytest.approx([1 / 3] * 4)


def test_bad_classes_are_named() -> None:
    with pytest.raises(ConfigError, match="at least two classes"):
        class_prompts("emotion", ["happy"])
    with pytest.raises(DataError, match="No caption for emotion 'hapy'"):
        class_prompts("emotion", ["hapy", "sad"])
    with pytest.raises(DataError, match=r"No language of \['xxx_Latn'\] has a name for all"):
        class_prompts("emotion", LABELS, ["xxx_Latn"])
    classes = class_prompts("emotion", LABELS)
    with pytest.raises(DataError, match=r"labels \['calm'\] are not among"):
        zero_shot(torch.eye(8)[:1], ["calm"], classes, by_class)
    with pytest.raises(ShapeError, match="1 recordings, 2 labels"):
        zero_shot(torch.eye(8)[:1], ["sad", "sad"], classes, by_class)
