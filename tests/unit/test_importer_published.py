"""Public corpora in the folders that their authors hand out, written here with a few tiny recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.folds import official_folds, with_fold
from allophone.data.importers.detect import detect_format
from allophone.data.labelled import label_parts
from allophone.errors import ConfigError, DataError
from allophone.text.captions import class_fact

Layout = Callable[..., Path]


@pytest.fixture
def layout(tmp_path: Path, speech: Callable[..., Tensor]) -> Layout:
    """Write sound files (by their place) and texts (by name and content) into a folder."""

    def write(sounds: list[str], **texts: str) -> Path:
        for number, name in enumerate(sounds):
            path = tmp_path / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
            soundfile.write(path, speech(0.3, seed=number).numpy(), 16_000, **kind)
        for name, content in texts.items():
            path = tmp_path / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return tmp_path / "corpus"

    return write


def opened(folder: Path, name: str) -> dict[str, object]:
    assert detect_format(folder) == name
    return {row.id: row for row in Corpus.open(folder)}


def test_crema_d(layout: Layout) -> None:
    folder = layout(
        ["AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1091_WSI_NEU_HI.wav"],
        **{"VideoDemographics.csv": "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n"},
    )
    rows = opened(folder, "CREMA-D")
    one = rows["1001_DFA_ANG_XX"]
    assert (one.label, one.speaker, one.language) == ("angry", "crema-d-1001", "eng_Latn")
    assert one.text == "Don't forget a jacket." and one.split is None
    assert one.extra == {"sentence": "DFA", "level": "XX", "gender": "male", "years": "51"}
    assert rows["1091_WSI_NEU_HI"].label == "neutral" and "gender" not in rows["1091_WSI_NEU_HI"].extra
    layout(["AudioWAV/1091_WSI_NEW_HI.wav"])
    with pytest.raises(DataError, match=r"1091_WSI_NEW_HI\.wav: 'NEW' in its name is none of"):
        Corpus.open(folder)
    (folder / "AudioWAV" / "1091_WSI_NEW_HI.wav").rename(folder / "AudioWAV" / "notes.wav")
    with pytest.raises(DataError, match=r"expected a name such as 1001_DFA_ANG_XX\.wav"):
        Corpus.open(folder)


def test_ravdess(layout: Layout) -> None:
    folder = layout(["Actor_01/03-01-06-01-02-01-01.wav", "Actor_12/03-02-07-02-01-02-12.wav"])
    rows = opened(folder, "RAVDESS")
    one, other = rows["03-01-06-01-02-01-01"], rows["03-02-07-02-01-02-12"]
    assert (one.label, one.text, one.extra["gender"]) == ("fearful", "Dogs are sitting by the door.", "male")
    assert (other.label, other.speaker, other.extra["channel"]) == ("disgusted", "ravdess-12", "song")
    assert (one.extra["level"], other.extra["level"]) == ("normal", "strong")


def test_emodb_has_a_fold_for_each_speaker(layout: Layout) -> None:
    folder = layout(["wav/03a01Fa.wav", "wav/16b10Wb.wav", "wav/08a02Lc.wav"])
    rows = opened(folder, "EmoDB")
    assert [(row.label, row.extra["fold"], row.extra["gender"]) for row in rows.values()] == [
        ("happy", 1, "male"),
        ("bored", 2, "female"),
        ("angry", 10, "female"),
    ]
    assert {row.language for row in rows.values()} == {"deu_Latn"}
    layout(["wav/99a01Fa.wav"])
    with pytest.raises(DataError, match=r"99a01Fa\.wav: '99' in its name is none of"):
        Corpus.open(folder)


def test_every_emotion_can_be_told(layout: Layout) -> None:
    letters, codes = "WLEAFTN", ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    emodb = [f"wav/03a01{letter}a.wav" for letter in letters]
    assert {class_fact("emotion", str(row.label)).kind for row in Corpus.open(layout(emodb))} == {"emotion"}
    from allophone.data.importers.emotions import CREMA_EMOTIONS, RAVDESS_EMOTIONS

    assert set(CREMA_EMOTIONS) == set(codes)
    for name in (*CREMA_EMOTIONS.values(), *RAVDESS_EMOTIONS):
        assert class_fact("emotion", name).value == name


def esc50(layout: Layout, clips: int = 3) -> Path:
    names = [f"{fold}-{100 * fold + take}-A-0.wav" for fold in range(1, 6) for take in range(clips)]
    table = "filename,fold,target,category,esc10,src_file,take\n" + "".join(
        f"{name},{name[0]},0,{'dog' if place % 2 else 'door_wood_knock'},{place % 2 == 1},{name.split('-')[1]},A\n"
        for place, name in enumerate(names)
    )
    return layout([f"audio/{name}" for name in names], **{"meta/esc50.csv": table})


def test_esc50(layout: Layout) -> None:
    folder = esc50(layout)
    rows = opened(folder, "ESC-50")
    one = rows["2-201-A-0"]
    assert (one.label, one.group, one.language, one.extra["fold"]) == ("door wood knock", "esc-50/201", "zxx_Zxxx", 2)
    assert one.extra["esc10"] is False and official_folds(Corpus.open(folder)) == (1, 2, 3, 4, 5)
    layout([], **{"meta/esc50.csv": "file,fold\n"})
    with pytest.raises(DataError, match=r"no column \['filename', 'category', 'src_file', 'esc10'\]"):
        Corpus.open(folder)


def test_official_folds_are_the_parts_and_nothing_else(layout: Layout) -> None:
    corpus = Corpus.open(esc50(layout))
    parts = label_parts(corpus, "label", min_train=1, fold=5)
    folds = [{row.extra["fold"] for row in part} for part in (parts.train, parts.dev, parts.test)]
    assert folds == [{2, 3, 4}, {1}, {5}] and "Official fold 5 of 5 is tested" in parts.notes[0]
    with pytest.raises(ConfigError, match=r"no fold 6 of at least three; it has \[1, 2, 3, 4, 5\]"):
        with_fold(corpus, 6)
    first, *others = corpus.utterances
    partly = corpus.with_utterances((type(first)(**{**_fields(first), "extra": {}}), *others))
    with pytest.raises(DataError, match="1 utterances are in no fold"):
        official_folds(partly)


def _fields(row: object) -> dict[str, object]:
    return {name: getattr(row, name) for name in type(row).__dataclass_fields__}  # type: ignore[attr-defined]


def test_urbansound8k(layout: Layout) -> None:
    table = (
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n100032-3-0-0.wav,100032,0.0,0.3,1,5,3,dog_bark\n"
        "1-8-0-1.wav,1,0.5,0.8,2,10,8,siren\n"
    )
    sounds = ["audio/fold5/100032-3-0-0.wav", "audio/fold10/1-8-0-1.wav"]
    rows = opened(layout(sounds, **{"metadata/UrbanSound8K.csv": table}), "UrbanSound8K")
    one = rows["100032-3-0-0"]
    assert (one.label, one.group, one.extra) == ("dog bark", "urbansound8k/100032", {"fold": 5, "foreground": True})
    assert rows["1-8-0-1"].extra == {"fold": 10, "foreground": False}


def test_fsd50k(layout: Layout) -> None:
    tables = {
        "FSD50K.ground_truth/dev.csv": 'fname,labels,mids,split\n64,"Bark,Dog",/m/1,train\n65,Rain,/m/2,val\n',
        "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n66,Rain,/m/2\n",
    }
    sounds = ["FSD50K.dev_audio/64.wav", "FSD50K.dev_audio/65.wav", "FSD50K.eval_audio/66.wav"]
    folder = layout(sounds, **tables)
    rows = opened(folder, "FSD50K")
    assert [(row.label, row.split) for row in rows.values()] == [
        ("Bark,Dog", "train"),
        ("Rain", "dev"),
        ("Rain", "test"),
    ]
    layout([], **{"FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n64,Dog,/m/1,valid\n"})
    with pytest.raises(DataError, match=r"dev\.csv, line 2: split is 'valid'"):
        Corpus.open(folder)


def test_speech_commands(layout: Layout) -> None:
    sounds = ["yes/0a7c2a8d_nohash_0.wav", "no/0a7c2a8d_nohash_1.wav", "no/1b_nohash_0.wav"]
    lists = {"validation_list.txt": "no/0a7c2a8d_nohash_1.wav\n", "testing_list.txt": "no/1b_nohash_0.wav\n"}
    rows = opened(layout([*sounds, "_background_noise_/pink_noise.wav"], **lists), "Speech Commands")
    assert {row.id: row.split for row in rows.values()} == {
        "yes/0a7c2a8d_nohash_0": "train",
        "no/0a7c2a8d_nohash_1": "dev",
        "no/1b_nohash_0": "test",
    }
    one = rows["yes/0a7c2a8d_nohash_0"]
    assert (one.label, one.text, one.speaker) == ("yes", "yes", "speech-commands-0a7c2a8d")


@pytest.mark.parametrize("several", [False, True])
def test_mswc(layout: Layout, several: bool) -> None:
    at = "fr/" if several else ""
    table = (
        "SET,LINK,WORD,VALID,SPEAKER,GENDER\nTRAIN,oui/common_voice_fr_1.opus,oui,True,a1,FEMALE\n"
        "TEST,non/common_voice_fr_2.opus,non,True,b2,NAN\nTEST,non/common_voice_fr_3.opus,non,False,b2,NAN\n"
    )
    sounds = [f"{at}clips/oui/common_voice_fr_1.opus", f"{at}clips/non/common_voice_fr_2.opus"]
    folder = layout(sounds, **{f"{at}fr_splits.csv": table})
    rows = opened(folder, "MSWC")
    assert list(rows) == ["fr/oui/common_voice_fr_1", "fr/non/common_voice_fr_2"]
    one = rows["fr/oui/common_voice_fr_1"]
    assert (one.language, one.label, one.split, one.speaker) == ("fra_Latn", "oui", "train", "a1")
    assert one.extra == {"gender": "female"} and rows["fr/non/common_voice_fr_2"].extra == {}
    layout([], **{f"{at}fr_splits.csv": table.replace("TRAIN", "ALL")})
    with pytest.raises(DataError, match="line 2: SET is 'ALL'"):
        Corpus.open(folder)
    layout([], **{f"{at}fr_splits.csv": "LINK,WORD\n"})
    with pytest.raises(DataError, match=r"columns are \['LINK', 'WORD'\]; expected \['SET'"):
        Corpus.open(folder)


def test_fleurs(layout: Layout) -> None:
    def line(number: int, name: str, text: str) -> str:
        return "\t".join([str(number), name, text, text.lower(), " | ".join(text.lower()), "4800", "FEMALE"]) + "\n"

    folder = layout(
        ["fr_fr/audio/train/11.wav", "fr_fr/audio/dev/12.wav", "cmn_hans_cn/audio/test/13.wav"],
        **{
            "fr_fr/train.tsv": line(7, "11.wav", "Bonjour."),
            "fr_fr/dev.tsv": line(8, "12.wav", 'Un "mot".'),
            "cmn_hans_cn/test.tsv": line(7, "13.wav", "你好。"),
        },
    )
    rows = opened(folder, "FLEURS")
    one, other = rows["fr_fr/train/11"], rows["cmn_hans_cn/test/13"]
    assert (one.language, one.text, one.split, one.group) == ("fra_Latn", "Bonjour.", "train", "fleurs/7")
    assert (other.language, other.group, other.split) == ("cmn_Hans", "fleurs/7", "test")
    assert one.extra == {"normalized": "bonjour.", "gender": "female"} and rows["fr_fr/dev/12"].text == 'Un "mot".'
    layout([], **{"fr_fr/dev.tsv": "8\t12.wav\tx\n"})
    with pytest.raises(DataError, match=r"dev\.tsv, line 1: 3 columns; expected 7"):
        Corpus.open(folder)
