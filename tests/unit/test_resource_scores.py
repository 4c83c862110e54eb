"""Scores by resource group: the published averages come out, and what has no group is refused."""

from __future__ import annotations

import pytest

from allophone.errors import DataError
from allophone.evaluate.translation import COVOST_GROUPS, resource_scores
from allophone.text.languages import parse_language


def test_the_groups_of_covost_reproduce_the_published_average() -> None:
    assert [len(group) for group in COVOST_GROUPS.values()] == [4, 5, 12]
    values = {"high": 36.1, "mid": 27.7, "low": 15.1}  # XLS-R 2B
    scores = {language: values[name] for name, group in COVOST_GROUPS.items() for language in group}
    found = resource_scores(scores)
    assert found.groups == pytest.approx(values) and round(found.every, 1) == 22.1 and found.gap == pytest.approx(21.0)


def test_codes_of_the_corpus_are_read() -> None:
    codes = "fr de es ca fa it ru pt zh-CN tr ar et mn nl sv-SE lv sl ta ja id cy".split()
    found = resource_scores(dict.fromkeys(codes, 1.0))
    assert found.groups == {"high": 1.0, "mid": 1.0, "low": 1.0} and found.gap == 0.0
    tags = {tag for group in COVOST_GROUPS.values() for tag in group}
    assert tags == {parse_language(code).tag for code in codes}


def test_what_has_no_group_is_refused() -> None:
    assert resource_scores({"fr": 1.0}).gap is None
    assert resource_scores({"swh": 3.0, "ita": 1.0}, {"high": ["it"], "low": ["sw"]}).gap == -2.0
    with pytest.raises(DataError, match=r"sw \(swh_Latn\) is in no resource group"):
        resource_scores({"sw": 1.0})
    with pytest.raises(DataError, match="comes twice"):
        resource_scores({"fr": 1.0, "fra_Latn": 2.0})
    with pytest.raises(DataError, match="No score"):
        resource_scores({})
