"""text/languages: many spellings, one tag."""

from __future__ import annotations

import re

import pytest

from allophone.data.importers.entry import tag_of
from allophone.data.importers.mlsuperb import FEW_SHOT
from allophone.errors import DataError
from allophone.text.languages import language_named, languages, parse_language, scripts

SPELLINGS = {
    "fra_Latn": ["fr", "fra", "fre", "FR", "fr-FR", "fr_CA", "fra_Latn", "FRA-latn", " fr ", "fr-x-quebec"],
    "cmn_Hans": ["zh", "zho", "chi", "cmn", "zh-CN", "zho_Hans"],
    "cmn_Hant": ["zh-TW", "zh_HK", "zh-Hant", "cmn_Hant", "zho_Hant"],
    "yue_Hant": ["yue", "zh-yue"],
    "srp_Cyrl": ["sr", "srp"],
    "srp_Latn": ["sr-Latn", "sr-ME", "srp_Latn"],
    "arb_Arab": ["ar", "ara", "arb", "ar-EG"],
    "swh_Latn": ["sw", "swa", "swh", "sw_KE"],
    "ell_Grek": ["el", "ell", "gre"],
    "nob_Latn": ["no", "nb", "nob"],
    "kor_Hang": ["ko", "kor_Hang"],
    "jpn_Jpan": ["ja", "ja-JP"],
    "qab_Zyyy": ["qab"],
    "und_Zyyy": ["und"],
    "zxx_Zxxx": ["zxx"],
}


@pytest.mark.parametrize(("tag", "spellings"), SPELLINGS.items())
def test_all_spellings_give_one_tag(tag: str, spellings: list[str]) -> None:
    assert {parse_language(spelling).tag for spelling in spellings} == {tag}


def test_every_language_of_the_table_reads_back_as_itself() -> None:
    table = languages()
    assert len(table) > 7_800 and len({language.code for language in table}) == len(table)
    changed = {language.code for language in table if parse_language(language.tag).code != language.code}
    assert {"ara", "zho", "swa", "msa"} <= changed and len(changed) < 30  # macrolanguages that stand for a member
    for language in table:
        assert re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", language.tag) and language.script in scripts() and language.name
    assert sum(language.script == "Zyyy" for language in table) < 1_000


def test_languages_of_the_published_benchmarks_are_known() -> None:
    common_voice = "ab as ba be br ckb cnh cv dv eo fy-NL ga-IE ha hsb ia ka kab kmr lg mhr mrj mt myv nan-tw nn-NO ps rm-vallader rw sah sat sc skr sv-SE ta tt ug uk vi vot yo zgh zh-HK"  # noqa: E501
    fleurs = "af_za am_et ar_eg ast_es az_az ceb_ph ckb_iq cmn_hans_cn fil_ph ff_sn he_il yue_hant_hk kea_cv luo_ke nso_za ny_mw oci_fr om_et pa_in sd_in umb_ao wo_sn xh_za"  # noqa: E501
    ml_superb = "abk ast bas bel ckb frr grn hsb kaz kea lga mhr mkd mrj myv nbl npi nso ori orm sat skr snd srp ssw tok tos tsn tso umb ven xty"  # noqa: E501
    for tag in (common_voice + " " + fleurs + " " + ml_superb + " " + " ".join(FEW_SHOT)).split():
        assert parse_language(tag).script != "Zyyy", tag


def test_exact_english_names_are_read_in_tables() -> None:
    assert tag_of("French", "line 2") == tag_of(" FRENCH ", "line 2") == "fra_Latn"
    assert tag_of("Chinese", "line 2") == "cmn_Hans"  # the member, as of the code
    names = {language.name.lower() for language in languages()}
    assert len(names) == len(languages())  # or a name would say one of several
    assert language_named("Frensh") is None
    with pytest.raises(DataError, match=r"line 2: Unknown language 'Frensh'.*Did you mean 'fra' \(French\)"):
        tag_of("Frensh", "line 2")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("frensh", "Unknown language 'frensh'.*Did you mean 'fra' \\(French\\)"),
        ("engg", "Did you mean 'eng' \\(English\\)"),
        ("french", "Did you mean 'fra' \\(French\\)"),
        ("xx", "Unknown language 'xx'.*Did you mean"),
        ("", "Unknown language ''"),
        ("wxyz123456", "iso639-3.sil.org"),
        ("fra_Latm", "Unknown script 'Latm'.*Did you mean 'Latn'"),
    ],
)
def test_unknown_tags_get_a_suggestion(tag: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_language(tag)
