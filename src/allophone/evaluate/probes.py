"""How much text a *linear* map can read off frozen frames: a CTC probe, its settings chosen without the test.

A recurrent probe would learn the language itself and hide the encoder. All rows of a table get the same learning rate,
dropout and steps (or the same search over them), the same number of outputs a second and the same decoder.

Shape legend: L layers, T frames, B utterances of a batch, D dim, V symbols with the blank, P outputs per frame.
Source: Yang et al. 2021, arXiv:2105.01051 (SUPERB: frozen upstream, learned softmax weights over layers); Graves et
al. 2006 (CTC, prefix search without a language model). Deviations: one linear layer instead of the recurrent ASR head;
features are standardized with training statistics; P outputs a frame, so that rows of different frame rates emit
equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.sources import frame_statistics
from allophone.metrics.error_rate import ErrorCounts, character_error_counts
from allophone.nn.ctc import BLANK, prefix_search
from allophone.seeding import derive, torch_generator
from allophone.text.normalize import normalize

ENOUGH_CLIPS = 300
"""From so many clips on a probe drops 0.2 of its input, with fewer 0.4 (chosen on Russian, docs/LOG.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CTCProbeConfig:
    """How a probe is trained; equal for all rows of a table except ``outputs_per_frame``."""

    outputs_per_frame: int = 1
    """CTC steps that each frame emits; frame rate times this should agree between rows."""
    few: int | None = None
    """Train on this many clips, drawn by seed; None = all."""
    learning_rates: tuple[float, ...] = (1e-2,)
    """Where there are several, or several dropouts, each pair is tried on a slice of the training texts, and the best
    is trained again on all of them."""
    input_dropouts: tuple[float, ...] | None = None
    """Shares of standardized input values that are dropped in training; None = one, by :data:`ENOUGH_CLIPS`."""
    steps: int = 1600
    """Updates of each training; the learning rate falls linearly to zero."""
    batch_size: int = 16
    """Utterances, of similar length."""
    dev_fraction: float = 0.15
    """Share of the training *texts* (with all their clips) on which learning rate and dropout are chosen."""
    seed: int = 0
    """Of the subset, the slice, the initialization, the order and the dropout."""

    def __post_init__(self) -> None:
        dropouts = (0.0,) if self.input_dropouts is None else self.input_dropouts
        counts = self.outputs_per_frame, self.steps, self.batch_size, len(self.learning_rates), len(dropouts)
        if min(counts) < 1:
            raise ConfigError(
                "CTCProbeConfig: outputs, steps, batch size and the numbers of learning rates and dropouts must be at "
                f"least 1; got {self}."
            )
        if (
            not (min(dropouts) >= 0 and max(dropouts) < 1 and 0 < self.dev_fraction < 1)
            or min(self.learning_rates) <= 0
        ):
            raise ConfigError(
                f"CTCProbeConfig: dropouts in [0, 1), dev_fraction in (0, 1), positive rates; got {self}."
            )
        if self.few is not None and self.few < 2:
            raise ConfigError(f"CTCProbeConfig: few is {self.few}; expected at least 2 clips or None.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeResult:
    """Errors on the test utterances and how the probe came to them."""

    counts: ErrorCounts
    """Character errors and reference lengths, one entry an utterance of ``utterances``."""
    utterances: tuple[int, ...]
    """Positions in the given test list; those with digits or no letters are not scored."""
    references: tuple[str, ...]
    """Normalized texts of ``utterances``."""
    hypotheses: tuple[str, ...]
    """What the probe read."""
    learning_rate: float
    """The one chosen."""
    input_dropout: float
    """The one chosen."""
    dev_error: dict[tuple[float, float], float]
    """Character error in percent on the slice, for each learning rate and dropout."""
    layer_weights: tuple[float, ...]
    """Learned share of each layer; they add up to 1."""
    train_clips: int
    """Clips that the probe was trained on."""
    left_out: dict[str, int]
    """Training clips not used: ``digits`` (or no letters), ``in_test`` (same text as a test clip), ``too_short``."""

    @property
    def character_error(self) -> float:
        """Errors over reference characters of all test utterances, percent."""
        return 100.0 * self.counts.rate


def linear_ctc_probe(
    train_frames: Sequence[Tensor],
    train_texts: Sequence[str],
    test_frames: Sequence[Tensor],
    test_texts: Sequence[str],
    *,
    language: str,
    config: CTCProbeConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Train layer weights and one linear layer to read text, and count character errors on unseen texts.

    Args:
        train_frames: One tensor of shape ``(L, T, D)`` per clip.
        train_texts: What is said in each, as written.
        test_frames: Like ``train_frames``.
        test_texts: Texts of the test clips.
        language: Decides how texts are normalized.
        config: Defaults where None.
        progress: Called with (trainings done, all trainings).

    Raises:
        DataError: Frames and texts do not match in number, or too few usable clips remain.
        NumericsError: The loss is not finite.
    """
    config = config or CTCProbeConfig()
    if len(train_frames) != len(train_texts) or len(test_frames) != len(test_texts):
        raise DataError(
            f"linear_ctc_probe: {len(train_frames)} training clips with {len(train_texts)} texts, {len(test_frames)} "
            f"test clips with {len(test_texts)} texts; one text a clip is needed."
        )
    train, test = _readable(train_texts, language), _readable(test_texts, language)
    left_out = {"digits": len(train_texts) - len(train)}
    train, left_out["in_test"] = _unseen(train, set(test.values()))
    # Drawn before short clips go, whose number depends on the frames, so that all rows of a table learn from the same.
    train, left_out["too_short"] = _fitting(_subset(train, config), train_frames, config.outputs_per_frame)
    if len(set(train.values())) < 2 or not test:
        raise DataError(
            f"linear_ctc_probe: {len(train)} usable training clips and {len(test)} test clips; left out of training: "
            f"{left_out}. At least two different training texts and one test clip are needed."
        )
    trainer = _Trainer(train_frames, config, sorted({character for text in train.values() for character in text}))
    choices = list(product(config.learning_rates, config.input_dropouts or (_dropout(len(train)),)))
    dev_error: dict[tuple[float, float], float] = {}
    fit, dev = _split(train, config)
    for done, choice in enumerate(choices if len(choices) > 1 else ()):
        head = trainer.train(fit, *choice)
        hypotheses = trainer.read(head, train_frames, list(dev))
        dev_error[choice] = 100.0 * character_error_counts(list(dev.values()), hypotheses).rate
        if progress is not None:
            progress(done + 1, len(choices) + 1)
    best = min(dev_error, key=lambda choice: dev_error[choice]) if dev_error else choices[0]
    head = trainer.train(train, *best)
    hypotheses = trainer.read(head, test_frames, list(test))
    if progress is not None:
        progress(len(dev_error) + 1, len(dev_error) + 1)
    return ProbeResult(
        counts=character_error_counts(list(test.values()), hypotheses),
        utterances=tuple(test),
        references=tuple(test.values()),
        hypotheses=tuple(hypotheses),
        learning_rate=best[0],
        input_dropout=best[1],
        dev_error=dev_error,
        layer_weights=tuple(head.layer_weights.softmax(dim=0).tolist()),
        train_clips=len(train),
        left_out=left_out,
    )


def chance_text_errors(
    train_texts: Sequence[str], test_texts: Sequence[str], *, language: str, seed: int = 0
) -> ErrorCounts:
    """The chance row of a text probe: each test clip is read as some training text, drawn by ``seed``.

    Counts stand in the order of :attr:`ProbeResult.utterances`.
    """
    train, test = _readable(train_texts, language), list(_readable(test_texts, language).values())
    texts = list(train.values())
    drawn = torch.randint(len(texts), (len(test),), generator=torch_generator(seed, "chance-text"))
    return character_error_counts(test, [texts[int(index)] for index in drawn])


def _dropout(clips: int) -> float:
    return 0.2 if clips >= ENOUGH_CLIPS else 0.4


def _readable(texts: Sequence[str], language: str) -> dict[int, str]:
    """Position -> normalized text, without texts that hold a digit (read aloud in ways no text shows) or no letter."""
    normalized = {index: normalize(text, language) for index, text in enumerate(texts)}
    return {index: text for index, text in normalized.items() if text and not any(c.isnumeric() for c in text)}


def _unseen(train: dict[int, str], test_texts: set[str]) -> tuple[dict[int, str], int]:
    """Training clips whose text is not a test text, and how many were left out."""
    unseen = {index: text for index, text in train.items() if text not in test_texts}
    return unseen, len(train) - len(unseen)


def _fitting(train: dict[int, str], frames: Sequence[Tensor], outputs_per_frame: int) -> tuple[dict[int, str], int]:
    """Training clips whose text fits the outputs of their frames, and how many were left out."""

    def fits(index: int, text: str) -> bool:
        repeats = sum(a == b for a, b in pairwise(text))
        return len(text) + repeats <= frames[index].shape[1] * outputs_per_frame

    fitting = {index: text for index, text in train.items() if fits(index, text)}
    return fitting, len(train) - len(fitting)


def _subset(train: dict[int, str], config: CTCProbeConfig) -> dict[int, str]:
    if config.few is None or config.few >= len(train):
        return train
    order = torch.randperm(len(train), generator=torch_generator(config.seed, "probe-subset"))[: config.few]
    indices = list(train)
    return {indices[position]: train[indices[position]] for position in sorted(order.tolist())}


def _split(train: dict[int, str], config: CTCProbeConfig) -> tuple[dict[int, str], dict[int, str]]:
    """Clips to fit on and clips to choose the learning rate on; no text is in both."""
    texts = sorted(set(train.values()), key=lambda text: derive(config.seed, "probe-dev", text))
    chosen = set(texts[: max(1, round(len(texts) * config.dev_fraction))])
    fit = {index: text for index, text in train.items() if text not in chosen}
    return fit, {index: text for index, text in train.items() if text in chosen}


@dataclass(frozen=True, slots=True)
class _Batch:
    features: Tensor
    """Standardized, zero-padded. Shape ``(L, T, B, D)``."""
    output_lengths: Tensor
    """CTC steps of each utterance, shape ``(B,)``."""
    targets: Tensor
    """All texts end to end, symbol ids."""
    target_lengths: Tensor
    """Shape ``(B,)``."""


class _Head(nn.Module):
    def __init__(self, layers: int, dim: int, symbols: int, outputs_per_frame: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        bound = dim**-0.5
        weight = torch.empty(outputs_per_frame * symbols, dim).uniform_(-bound, bound, generator=generator)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(outputs_per_frame * symbols))
        self.symbols = symbols

    def forward(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """Log-probabilities of symbols, shape ``(T * P, B, V)``, of features ``(L, T, B, D)``."""
        layers, frames, batch, dim = features.shape
        mixed = (self.layer_weights.softmax(dim=0) @ features.view(layers, -1)).view(frames, batch, dim)
        if keep is not None:
            mixed = mixed * keep
        logits = nn.functional.linear(mixed, self.weight, self.bias).view(frames, batch, -1, self.symbols)
        return logits.transpose(1, 2).reshape(-1, batch, self.symbols).log_softmax(dim=-1)


class _Trainer:
    """What all trainings of one probe share: statistics of the training frames and the symbols."""

    def __init__(self, frames: Sequence[Tensor], config: CTCProbeConfig, characters: list[str]) -> None:
        self.frames, self.config, self.characters = frames, config, characters
        self.ids = {character: number for number, character in enumerate(characters, start=1)}
        self.mean, self.deviation = frame_statistics(frames)

    def train(self, texts: dict[int, str], rate: float, dropout: float) -> _Head:
        """Fit a fresh head to the clips at these positions."""
        config = self.config
        generator = torch_generator(config.seed, "probe")
        layers, _, dim = self.frames[0].shape
        head = _Head(layers, dim, len(self.characters) + 1, config.outputs_per_frame, generator)
        batches = [self.batch(self.frames, indices, texts) for indices in self.by_length(self.frames, list(texts))]
        optimizer = torch.optim.Adam(head.parameters(), lr=rate)
        order: list[int] = []
        for step in range(config.steps):
            order = order or torch.randperm(len(batches), generator=generator).tolist()
            batch = batches[order.pop()]
            optimizer.param_groups[0]["lr"] = rate * (1 - step / config.steps)
            keep = None
            if dropout > 0:
                kept = torch.rand(batch.features.shape[1:], generator=generator) >= dropout
                keep = kept / (1 - dropout)
            loss = nn.functional.ctc_loss(
                head(batch.features, keep), batch.targets, batch.output_lengths, batch.target_lengths, BLANK
            )
            if not bool(loss.isfinite()):
                raise NumericsError(
                    f"linear_ctc_probe: loss {loss.item()} at step {step} with learning rate {rate}; "
                    "look for NaN in the frames or leave out that learning rate."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return head

    def read(self, head: _Head, frames: Sequence[Tensor], indices: list[int]) -> list[str]:
        """Most probable text of the clips at these positions, in their order."""
        result: dict[int, str] = {}
        for members in self.by_length(frames, indices):
            batch = self.batch(frames, members, {})
            with torch.inference_mode():
                scores = head(batch.features)
            for column, index in enumerate(members):
                symbols = prefix_search(scores[: int(batch.output_lengths[column]), column])
                result[index] = "".join(self.characters[symbol - 1] for symbol in symbols)
        return [result[index] for index in indices]

    def by_length(self, frames: Sequence[Tensor], indices: list[int]) -> list[list[int]]:
        """Positions in batches of similar length."""
        ordered = sorted(indices, key=lambda index: frames[index].shape[1])
        return [
            ordered[start : start + self.config.batch_size] for start in range(0, len(ordered), self.config.batch_size)
        ]

    def batch(self, frames: Sequence[Tensor], indices: list[int], texts: dict[int, str]) -> _Batch:
        """Pad and standardize some clips; without texts the targets are empty."""
        lengths = torch.tensor([frames[index].shape[1] for index in indices])
        layers, _, dim = frames[indices[0]].shape
        features = torch.zeros(layers, int(lengths.max()), len(indices), dim)
        for column, index in enumerate(indices):
            features[:, : frames[index].shape[1], column] = (frames[index] - self.mean) / self.deviation
        spelled = [[self.ids[character] for character in texts.get(index, "")] for index in indices]
        return _Batch(
            features,
            lengths * self.config.outputs_per_frame,
            torch.tensor([symbol for word in spelled for symbol in word], dtype=torch.int64),
            torch.tensor([len(word) for word in spelled]),
        )
