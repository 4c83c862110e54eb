"""Scores by resource group against sacrebleu; every language of CoVoST 2 is in one."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu

from allophone.evaluate.result import Signature
from allophone.evaluate.translation import COVOST_GROUPS, resource_results
from allophone.text.languages import parse_language


def test_every_code_of_covost_is_in_a_group() -> None:
    codes = "fr de es ca fa it ru pt zh-CN tr ar et mn nl sv-SE lv sl ta ja id cy".split()
    assert [len(group) for group in COVOST_GROUPS.values()] == [4, 5, 12]
    tags = {tag for group in COVOST_GROUPS.values() for tag in group}
    assert tags == {parse_language(code).tag for code in codes}


def test_groups_of_texts_are_means_of_sacrebleu() -> None:
    spoken = ["fra_Latn", "cat_Latn", "nld_Latn", "bul_Cyrl"] * 6
    references = [f"the {'red blue old'.split()[place % 3]} house number {place} is here" for place in range(24)]
    hypotheses = [
        text
        if place % 4 == 0
        else text.replace("house number", "town hall")
        if place % 4 == 1
        else f"the {place} is here"
        for place, text in enumerate(references)
    ]
    signature = Signature(data_hash="d", model_hash="m", normalizer="", seed=0)
    groups = [place // 4 for place in range(24)]
    found = resource_results(hypotheses, references, "eng_Latn", spoken, signature, groups=groups, resamples=50)
    by_name = {one.name: one for one in found}
    assert list(by_name) == ["BLEU, high", "BLEU, low", "BLEU, gap", "chrF2++, high", "chrF2++, low", "chrF2++, gap"]

    def score(metric: Any, language: str) -> float:
        places = [place for place, one in enumerate(spoken) if one == language]
        parts = [[texts[place] for place in places] for texts in (hypotheses, references)]
        return float(metric.corpus_score(parts[0], [parts[1]]).score)

    for name, metric in (("BLEU", sacrebleu.BLEU()), ("chrF2++", sacrebleu.CHRF(word_order=2))):
        high = (score(metric, "fra_Latn") + score(metric, "cat_Latn")) / 2
        low = score(metric, "nld_Latn")
        assert by_name[f"{name}, high"].value == pytest.approx(high)
        assert by_name[f"{name}, low"].value == pytest.approx(low)
        gap = by_name[f"{name}, gap"]
        assert gap.value == pytest.approx(high - low) and gap.low <= gap.value <= gap.high
        assert gap.n == 6 and not gap.higher_is_better
    assert "fra_Latn, cat_Latn" in by_name["BLEU, high"].signature.normalizer
    assert not resource_results(["a"], ["a"], "eng_Latn", ["bul_Cyrl"], signature, resamples=50)
