"""Classes by their names alone: a recording belongs to the class whose prompts it is most alike.

Shape legend: N recordings, C classes, K prompts of a class, E dim.
Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4: a class is the mean of its prompts' unit vectors, scaled
to length 1. How far single prompts differ is reported, because the wording alone can move accuracy by tens of points.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.errors import ConfigError, DataError, ShapeError
from allophone.metrics.intervals import Interval, bootstrap
from allophone.metrics.retrieval import recall_at
from allophone.text.captions import Kind, caption_languages, caption_texts, class_fact, language_fact

EmbedTexts = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPrompts:
    """What a class is called."""

    label: str
    """As the corpus or the user names it."""
    prompts: tuple[tuple[str, str], ...]
    """Language and wording, at least one."""


def class_prompts(
    kind: Kind, labels: Sequence[str], languages: Sequence[str] | None = None
) -> tuple[ClassPrompts, ...]:
    """Every prompt of every class from the table of captions.

    Args:
        kind: What the labels are: emotion, sound, keyword, language or speaker.
        labels: Classes, no two the same.
        languages: Of prompts, ``fra_Latn``; None = all that can name every class, so that no class has more voices.

    Raises:
        ConfigError: There are fewer than two classes, or two are the same.
        DataError: A class is not in the table, or no language can name all of them.
    """
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise ConfigError(f"Classification needs at least two classes, no two the same; got {list(labels)}.")
    facts = [language_fact(label) if kind == "language" else class_fact(kind, label) for label in labels]
    shared = set.intersection(*(set(caption_languages(fact)) for fact in facts))
    chosen = sorted(shared if languages is None else shared & set(languages))
    if not chosen:
        raise DataError(
            f"No language of {sorted(languages or ['any'])} has a name for all of {list(labels)} as {kind}; "
            f"those that have: {sorted(shared) or 'none'}."
        )
    return tuple(
        ClassPrompts(
            label=label,
            prompts=tuple((language, text) for language in chosen for text in caption_texts(fact, language)),
        )
        for label, fact in zip(labels, facts, strict=True)
    )


def class_vectors(classes: Sequence[ClassPrompts], embed: EmbedTexts) -> Tensor:
    """One vector of length 1 a class. Shape ``(C, E)``."""
    return F.normalize(torch.stack([_embedded(one, embed).mean(dim=0) for one in classes]), dim=-1)


def class_probabilities(speech: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Softmax over classes of cosines divided by the temperature.

    Args:
        speech: Vectors of length 1. Shape ``(N, E)``.
        classes: Vectors of length 1. Shape ``(C, E)``.
        temperature: That the model was trained with.

    Returns:
        Shape ``(N, C)``.
    """
    return torch.softmax(speech @ classes.T / temperature, dim=1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZeroShot:
    """How well the names alone sort recordings."""

    accuracy: Interval
    """Percent, all prompts together."""
    chance: float
    """Percent of a guess among the classes, each as likely."""
    majority: float
    """Percent of always naming the most frequent class."""
    spread: dict[str, float]
    """Percent of each language's prompts by themselves."""
    prompt_spread: tuple[float, float]
    """Lowest and highest percent of one prompt a class by itself."""
    hits: NDArray[np.float64]
    """In [0, 1], between only where classes are exactly as near. Shape ``(N,)``."""


def zero_shot(
    speech: Tensor,
    truth: Sequence[str],
    classes: Sequence[ClassPrompts],
    embed: EmbedTexts,
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> ZeroShot:
    """Score classification by prompts, over all recordings at once.

    Args:
        speech: Vectors of length 1. Shape ``(N, E)``.
        truth: Label of each.
        classes: Of :func:`class_prompts`; every label is among them.
        embed: From texts to vectors of length 1.
        groups: Recordings of one group (speaker) are resampled together.
        seed: Of the bootstrap.

    Raises:
        ShapeError: Not one label a recording.
        DataError: A label is not among the classes.
    """
    if len(truth) != len(speech):
        raise ShapeError(f"zero_shot: {len(speech)} recordings, {len(truth)} labels; one each is needed.")
    labels = [one.label for one in classes]
    unknown = sorted(set(truth) - set(labels))
    if unknown:
        raise DataError(f"zero_shot: labels {unknown} are not among the classes {labels}.")
    right = torch.tensor([labels.index(label) for label in truth])
    vectors = [_embedded(one, embed) for one in classes]

    def percent(chosen: Sequence[Tensor]) -> NDArray[np.float64]:
        table = F.normalize(torch.stack([part.mean(dim=0) for part in chosen]), dim=-1)
        return recall_at(speech @ table.T, right, (1,))[1].numpy()

    hits = percent(vectors)
    languages = sorted({language for one in classes for language, _ in one.prompts})
    by_language = {}
    for name in languages:
        masks = [torch.tensor([language == name for language, _ in one.prompts]) for one in classes]
        by_language[name] = 100 * float(percent([part[mask] for part, mask in zip(vectors, masks, strict=True)]).mean())
    shared = min(len(part) for part in vectors)
    single = [100 * float(percent([part[place : place + 1] for part in vectors]).mean()) for place in range(shared)]
    return ZeroShot(
        accuracy=bootstrap(hits, groups=groups, seed=seed).scaled(100.0),
        chance=100.0 / len(labels),
        majority=100.0 * float(right.bincount(minlength=len(labels)).max()) / len(right),
        spread=by_language,
        prompt_spread=(min(single), max(single)),
        hits=hits,
    )


def _embedded(one: ClassPrompts, embed: EmbedTexts) -> Tensor:
    return embed([text for _, text in one.prompts])
