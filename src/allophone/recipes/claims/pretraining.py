"""Claims about pretraining: denoising, a balanced second stage, frame rates, and a small encoder against HuBERT Base.

Sources: WavLabLM and CV-HuBERT, arXiv:2309.15317; WavLM, arXiv:2110.13900; HuBERT-MR, arXiv:2306.01084. Both papers
train for weeks on tens of thousands of hours; here each arm takes minutes on the starter corpus without its four
kept-out languages, so an effect that needs scale cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from allophone.data.balance import BalancedSubset
from allophone.evaluate.claim import UNTRAINED, Contrast, Observation
from allophone.models.build import Encoder
from allophone.models.multi_resolution import fuse
from allophone.recipes.claims.reading import CHARACTER_ERROR, noises, reading_errors, source_of
from allophone.recipes.claims.trial import Claim, Trial, trained
from allophone.recipes.denoise import DenoiseConfig, with_denoising
from allophone.recipes.pretrain import RECIPES, recipe_configs
from allophone.recipes.stages import Balance, TwoStage, named_balance
from allophone.run.config import RunConfig

KEPT_OUT = ("bul", "ell", "ita", "dan")
"""Never heard in pretraining, as by the starter encoder."""
HEARD = ("eng", "fra", "rus", "spa", "ron", "bel", "cat")
"""Languages of pretraining that have texts, the four with hours first."""
FEW_HOURS = ("ron", "bel", "cat")


def without_kept_out(trial: Trial) -> Trial:
    """The same trial on the recordings that pretraining may hear."""
    kept_out = {row.id for language in KEPT_OUT for row in trial.corpus.where(language=language)}
    return replace(
        trial, corpus=trial.corpus.with_utterances(tuple(row for row in trial.corpus if row.id not in kept_out))
    )


def small(seed: int, steps: int) -> tuple[RunConfig, ...]:
    """First iteration of the starter recipe, whose encoder reads nearly as well as the finished one (docs/LOG.md)."""
    return recipe_configs("starter", seed, (steps,), iterations=1)


def _reading(
    languages: Sequence[str], like: Callable[[int, int], tuple[RunConfig, ...]] = small
) -> Callable[[Trial, Encoder | None], list[Observation]]:
    """Character errors of a probe in each language; ``like``: of the encoder whose random weights are a row."""

    def score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
        source = source_of(trial, encoder, like(trial.seed, trial.steps)[0], stack=4)
        return [one for language in languages for one in reading_errors(trial, source, language, {language: None})]

    return score


# Denoising -----------------------------------------------------------------------------------------------------------

NOISY = tuple(f"{kind} {snr} dB" for kind in ("babble", "speech-shaped") for snr in (20, 10, 5, 0))
NOISE_LANGUAGE = "bul"


def _denoised(law: str, *, perturbed: bool = False) -> Callable[[Trial], Encoder | None]:
    def train(trial: Trial) -> Encoder | None:
        configs = small(trial.seed, trial.steps)
        if not perturbed:
            configs = tuple(
                replace(one, data=replace(one.data, collate=replace(one.data.collate, augment=None))) for one in configs
            )
        configs = with_denoising(configs, DenoiseConfig(denoise=law))  # type: ignore[arg-type]
        return trained(configs, without_kept_out(trial))

    return train


def _score_noise(trial: Trial, encoder: Encoder | None) -> list[Observation]:
    source = source_of(trial, encoder, small(trial.seed, trial.steps)[0], stack=4)
    conditions = {"clean": None, **noises(trial.corpus, NOISE_LANGUAGE, ("spa", "fra", "rus"))}
    return reading_errors(trial, source, NOISE_LANGUAGE, conditions)


def _noise_contrasts() -> tuple[Contrast, ...]:
    def contrast(name: str, arm: str, conditions: Sequence[str]) -> Contrast:
        return Contrast(
            name=name,
            arm=arm,
            baseline="clean pretraining",
            measure=CHARACTER_ERROR.measure,
            conditions=tuple(conditions),
        )

    found = [contrast("WavLM's law against clean, all noises", "wavlm", NOISY)]
    for arm, law in (("wavlm", "WavLM's law"), ("espnet", "ESPnet's law"), ("perturbed", "Perturbed input, no mixing")):
        found.append(contrast(f"{law}, clean speech", arm, ["clean"]))
        for snr in (20, 10, 5, 0):
            found.append(contrast(f"{law}, {snr} dB", arm, [one for one in NOISY if one.endswith(f" {snr} dB")]))
    return tuple(found)


DENOISING: Claim[Encoder] = Claim(
    name="denoising",
    paper="WavLabLM, arXiv:2309.15317, after WavLM, arXiv:2110.13900",
    says="Predicting the units of clean speech from speech with other voices mixed in makes representations that hold "
    "under noise. No ablation of it on many languages was published.",
    design="The first iteration of the starter recipe on the starter corpus without Bulgarian, Greek, Italian and "
    "Danish: on clean audio, with other utterances mixed in by WavLM's law (a fifth of the clips) or ESPnet's (all), "
    "and with the recipe's own perturbation (vocal tract, bandwidth, colored noise). A linear probe learns from "
    "clean Bulgarian clips and reads held-out ones, clean and with babble or speech-shaped noise.",
    steps=700,
    like=small,
    arms={
        "clean pretraining": _denoised("none"),
        "wavlm": _denoised("wavlm"),
        "espnet": _denoised("espnet"),
        "perturbed": _denoised("none", perturbed=True),
    },
    score=_score_noise,
    untrained=UNTRAINED,
    scales=(CHARACTER_ERROR,),
    contrasts=_noise_contrasts(),
)

# Balance -------------------------------------------------------------------------------------------------------------

SUBSETS = (1, 2, 4)
"""Hours of each language in the second stage, as multiples of the smallest of :data:`HEARD`."""


def balanced(balance: Callable[[Trial], Balance]) -> Callable[[Trial], Encoder | None]:
    """Train under a law of sampling; a second stage's updates are taken from the first's, so that all have as many."""

    def train(trial: Trial) -> Encoder | None:
        law = balance(trial)
        steps: tuple[int, ...] = (trial.steps,)
        if isinstance(law, TwoStage):
            second = max(1, round(trial.steps * law.steps_share))
            steps = (trial.steps - second, second)
        inner = without_kept_out(trial)
        heard = {row.id for language in HEARD for row in inner.corpus.where(language=language)}
        rows = tuple(row for row in inner.corpus if row.id in heard)
        configs = recipe_configs("starter", trial.seed, steps, iterations=1, balance=law)
        return trained(configs, replace(inner, corpus=inner.corpus.with_utterances(rows)))

    return train


def two_stage(times: int) -> Callable[[Trial], Balance]:
    """A quarter of the updates on so many times what the smallest language has, of each."""

    def law(trial: Trial) -> Balance:
        hours = [
            sum(row.duration_seconds for row in trial.corpus.where(language=language, split="train")) / 3600
            for language in HEARD
        ]
        return TwoStage(subset=BalancedSubset(hours=times * min(hours), seed=trial.seed), steps_share=0.25)

    return law


def _balance_contrasts() -> tuple[Contrast, ...]:
    found = []
    for arm, baseline in (
        ("two-stage 1x", "natural"),
        ("two-stage 1x", "temperature"),
        ("two-stage 2x", "natural"),
        ("two-stage 4x", "natural"),
        ("temperature", "natural"),
        ("upsampling", "natural"),
    ):
        for name, conditions, combine in (
            ("languages with minutes", FEW_HOURS, "mean"),
            ("worst language", HEARD, "worst"),
            ("average", HEARD, "mean"),
        ):
            found.append(
                Contrast(
                    name=f"{arm} against {baseline}, {name}",
                    arm=arm,
                    baseline=baseline,
                    measure=CHARACTER_ERROR.measure,
                    conditions=conditions,
                    combine=combine,  # type: ignore[arg-type]
                )
            )
    return tuple(found)


BALANCE: Claim[Encoder] = Claim(
    name="balance",
    paper="WavLabLM, arXiv:2309.15317, section 3.3",
    says="After pretraining on everything, a second stage on a subset with the same hours of each language helps the "
    "languages with few hours (published: on ML-SUPERB's 10-minute tasks, not on those of one hour).",
    design="The first iteration of the starter recipe on seven languages of the starter corpus, four with half an hour "
    "or more and three with minutes: as they are, by temperature (exponent 0.5), by two-level upsampling (0.7, 0.9), "
    "and with a quarter of the updates on a balanced subset of one, two or four times what the smallest language has. "
    "All arms have the same number of updates. A linear probe reads held-out clips of each language.",
    steps=700,
    like=small,
    arms={
        "natural": balanced(lambda trial: named_balance("none")),
        "temperature": balanced(lambda trial: named_balance("temperature")),
        "upsampling": balanced(lambda trial: named_balance("upsampling")),
        **{f"two-stage {times}x": balanced(two_stage(times)) for times in SUBSETS},
    },
    score=_reading(HEARD),
    untrained=UNTRAINED,
    scales=(CHARACTER_ERROR,),
    contrasts=_balance_contrasts(),
)

# Frame rates ---------------------------------------------------------------------------------------------------------

READ = ("bul", "ita")
COST = {20: 1.0, 40: 0.735, 80: 0.588}
"""Time of an hour of audio over that at 20 ms, measured once (docs/LOG.md, 2026-11-20): equal compute means more
updates."""
RATE_RECIPES = {20: "hubert-small", 40: "hubert-small-40ms", 80: "hubert-small-80ms"}


def _rate(milliseconds: int, seed: int, steps: int) -> tuple[RunConfig, ...]:
    return recipe_configs(RATE_RECIPES[milliseconds], seed, (steps,), iterations=1)


RATE_20 = partial(_rate, 20)


def _at_rate(milliseconds: int, *, equal_compute: bool = False) -> Callable[[Trial], Encoder | None]:
    def train(trial: Trial) -> Encoder | None:
        steps = round(trial.steps / COST[milliseconds]) if equal_compute else trial.steps
        return trained(_rate(milliseconds, trial.seed, steps), without_kept_out(trial))

    return train


def _fused(join: str) -> Callable[[Trial], Encoder | None]:
    """The three encoders of equal updates joined; nothing is trained on top: hierarchical sums weigh all alike."""

    def train(trial: Trial) -> Encoder | None:
        inner, branches = without_kept_out(trial), []
        for milliseconds in RATE_RECIPES:
            encoder = trained(_rate(milliseconds, trial.seed, trial.steps), inner, arm=f"{milliseconds} ms")
            if encoder is None:
                return None
            branches.append(encoder)
        return fuse(branches, join=join).eval()  # type: ignore[arg-type]

    return train


def _two_rates(trial: Trial) -> Encoder | None:
    """MR-HuBERT's network and loss in the first iteration, on MFCC units."""
    configs = RECIPES["hubert-small"](trial.seed)[:1]
    from_mr = RECIPES["mr-hubert-small"](trial.seed)[-1]
    first = replace(configs[0], encoder=from_mr.encoder)
    train = replace(first.train, steps=trial.steps, warmup_steps=min(first.train.warmup_steps, trial.steps // 10))
    return trained((replace(first, train=train),), without_kept_out(trial))


def _rate_contrasts() -> tuple[Contrast, ...]:
    pairs = (
        ("parallel fusion", "20 ms"),
        ("hierarchical fusion", "20 ms"),
        ("40 ms", "20 ms"),
        ("80 ms", "20 ms"),
        ("40 ms, equal compute", "20 ms"),
        ("80 ms, equal compute", "20 ms"),
        ("two rates", "20 ms"),
    )
    return tuple(
        Contrast(
            name=f"{arm} against {baseline}",
            arm=arm,
            baseline=baseline,
            measure=CHARACTER_ERROR.measure,
            conditions=READ,
        )
        for arm, baseline in pairs
    )


RESOLUTION: Claim[Encoder] = Claim(
    name="resolution",
    paper="CV-HuBERT, arXiv:2309.15317; HuBERT-MR, arXiv:2306.01084; MR-HuBERT, arXiv:2310.02720",
    says="HuBERT-MR reports that encoders of several frame rates together beat one; CV-HuBERT found that joining them "
    "made its scores worse.",
    design="HuBERT of 1 M parameters, first iteration, at 20, 40 and 80 ms, at equal updates and at equal compute; "
    "the three joined (parallel: all layers, weighted by the probe; hierarchical: from slow to fast, equal weights), "
    "and MR-HuBERT's network and loss at 20 and 40 ms. A linear probe reads held-out Bulgarian and Italian, which no "
    "encoder has heard, with 25 outputs a second (50 at 20 ms, where a frame cannot give less than one).",
    steps=1000,
    like=RATE_20,
    arms={
        "20 ms": _at_rate(20),
        "40 ms": _at_rate(40),
        "80 ms": _at_rate(80),
        "40 ms, equal compute": _at_rate(40, equal_compute=True),
        "80 ms, equal compute": _at_rate(80, equal_compute=True),
        "parallel fusion": _fused("sum"),
        "hierarchical fusion": _fused("hierarchical"),
        "two rates": _two_rates,
    },
    score=_reading(READ, RATE_20),
    untrained=UNTRAINED,
    scales=(CHARACTER_ERROR,),
    contrasts=_rate_contrasts(),
)

# Presets -------------------------------------------------------------------------------------------------------------


def _preset(trial: Trial) -> Encoder | None:
    return trained(small(trial.seed, trial.steps), without_kept_out(trial))


def _hubert_base(trial: Trial) -> Encoder | None:
    """HuBERT Base in the place of the starter recipe's encoder: same crops, labels, loss and length of masks."""
    (first,) = small(trial.seed, trial.steps)
    (published,) = recipe_configs("hubert-base", trial.seed, (trial.steps,), iterations=1)
    collate = replace(first.data.collate, mask_length=published.data.collate.mask_length)
    config = replace(
        first,
        encoder=published.encoder,
        targets=replace(first.targets, labels_per_frame=published.targets.labels_per_frame),
        data=replace(first.data, collate=collate),
        train=replace(first.train, learning_rate=published.train.learning_rate),
    )
    return trained((config,), without_kept_out(trial))


PRESET: Claim[Encoder] = Claim(
    name="preset",
    paper="HuBERT, arXiv:2106.07447, against the starter recipe (ours)",
    says="What an encoder on log-mels at 40 ms, with a fifteenth of the parameters, loses against HuBERT Base where "
    "both hear the same hours was not published.",
    design="The first iteration of the starter recipe, and the same recipe with HuBERT Base as its encoder (raw audio, "
    "20 ms): the same audio, crops of 6 s, batches of 24 s, updates, units and loss, masks of 200 ms, HuBERT's own "
    "learning rate. A linear probe reads held-out Bulgarian and Italian, which no encoder has heard.",
    steps=700,
    like=small,
    arms={"HuBERT Base": _hubert_base, "preset": _preset},
    score=_reading(READ),
    untrained=UNTRAINED,
    scales=(CHARACTER_ERROR,),
    contrasts=(
        Contrast(
            name="preset against HuBERT Base",
            arm="preset",
            baseline="HuBERT Base",
            measure=CHARACTER_ERROR.measure,
            conditions=READ,
        ),
    ),
)

CLAIMS = (DENOISING, BALANCE, RESOLUTION, PRESET)
