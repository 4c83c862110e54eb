"""Audio to a codebook: three front ends, voices, nothing on disk, bounded memory."""

from dataclasses import replace

import pytest
import torch

from allophone.audio.features import kaldi_fbank, mfcc39
from allophone.data.corpus import Corpus
from allophone.errors import AudioError, ConfigError, DataError
from allophone.frames import FrameClock
from allophone.models.build import build_encoder
from allophone.models.conversion import model_hash
from allophone.models.hubert import HubertConfig
from allophone.nn import reservoir
from allophone.nn.clustering import Codebook, assign
from allophone.units.extract import FrameExtractor, VoiceNormalizer
from allophone.units.fit import fit, fit_codebook


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    return build_encoder(config).eval()


@pytest.fixture(scope="module")
def waveforms(speech):
    return {f"utt-{i}": speech(0.5 + 0.2 * i, seed=i) for i in range(6)}


def test_mfcc_codebook_describes_itself(waveforms):
    book = fit_codebook(lambda: waveforms.items(), "mfcc39", 12, seed=5)
    frames = torch.cat([mfcc39(waveform) for waveform in waveforms.values()])
    assert book.centroids.shape == (12, 39)
    info = book.info
    assert (info.front_end, info.clock.rate, info.num_units, info.seed) == ("mfcc39", 100.0, 12, 5)
    assert (info.model_hash, info.layer, info.normalization, info.parent) == (None, None, "none", None)
    assert info.frames_fitted == len(frames)
    assert 0.3 < info.usage_entropy <= 1.0
    assert torch.equal(assign(frames, book.centroids).bincount(minlength=12) > 0, torch.ones(12, dtype=torch.bool))


def test_same_audio_same_hash_whatever_the_order(waveforms):
    first = fit_codebook(lambda: waveforms.items(), "mfcc39", 5, seed=0, iterations=2)
    again = fit_codebook(lambda: list(waveforms.items()), "mfcc39", 5, seed=0, iterations=2)
    turned = fit_codebook(lambda: reversed(waveforms.items()), "mfcc39", 5, seed=0, iterations=2)
    fewer = fit_codebook(lambda: list(waveforms.items())[1:], "mfcc39", 5, seed=0, iterations=2)
    assert first.hash == again.hash
    assert first.info.corpus_hash == turned.info.corpus_hash != fewer.info.corpus_hash


def test_filter_bank_front_end(waveforms):
    book = fit_codebook(lambda: waveforms.items(), "fbank", 6, seed=0)
    assert book.centroids.shape == (6, 80) and book.info.clock.rate == 100.0
    frames = torch.cat([kaldi_fbank(waveform) for waveform in waveforms.values()])
    assert float((frames - book.centroids[assign(frames, book.centroids)]).square().mean()) < float(frames.var())


def test_model_front_end_clusters_the_layer_it_names(waveforms, encoder):
    book = fit_codebook(lambda: waveforms.items(), "model", 5, seed=0, encoder=encoder, layer=1)
    assert book.info.model_hash == model_hash(encoder)
    assert book.info.layer == 1 and book.info.clock.rate == 50.0
    frames = dict(FrameExtractor("model", encoder, 1).frames(waveforms.items()))
    assert book.info.frames_fitted == sum(map(len, frames.values()))
    for name, waveform in waveforms.items():
        with torch.inference_mode():
            alone = encoder(waveform[None], torch.tensor([len(waveform)])).hidden_states[1].values
        torch.testing.assert_close(frames[name], alone, atol=1e-4, rtol=0)


def test_encoder_is_left_in_its_mode_and_gets_no_gradient(waveforms, encoder):
    encoder.train()
    try:
        frames = list(FrameExtractor("model", encoder, 2).frames(waveforms.items()))
        again = list(FrameExtractor("model", encoder, 2).frames(waveforms.items()))
        assert encoder.training
    finally:
        encoder.eval()
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(frames, again, strict=True))
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_long_audio_goes_in_pieces_with_the_frames_of_the_whole(speech, encoder, monkeypatch):
    monkeypatch.setattr("allophone.units.extract.GROUP_SECONDS", 1.0)
    waveform = speech(3.7, seed=1)
    ((_, frames),) = FrameExtractor("model", encoder, 0).frames([("long", waveform)])
    assert len(frames) == FrameClock(hop=320, receptive_field=400).count(len(waveform)) == 184
    pieces = FrameExtractor("model", encoder, 0)._pieces("long", waveform)
    assert [encoder.clock.count(len(piece)) for _, piece in pieces] == [46, 46, 46, 46]
    assert torch.equal(pieces[-1][1][-100:], waveform[-100:])


def test_equal_ids_in_a_row_stay_two_utterances(speech, encoder):
    frames = list(FrameExtractor("model", encoder, 0).frames([("a", speech(0.5)), ("a", speech(0.7))]))
    assert [len(values) for _, values in frames] == [24, 34]


def test_nothing_is_written(waveforms, encoder, tmp_path, monkeypatch):
    """Only files opened for writing would be feature files; the codebook alone is, when it is saved."""
    written = []
    opened = open

    def watched(file, mode="r", *args, **kwargs):
        if any(letter in mode for letter in "wax+"):
            written.append(str(file))
        return opened(file, mode, *args, **kwargs)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.open", watched)
    monkeypatch.setattr("io.open", watched)
    book = fit_codebook(lambda: waveforms.items(), "model", 4, seed=0, encoder=encoder, layer=2, init_frames=50)
    fit_codebook(lambda: waveforms.items(), "mfcc39", 4, seed=0, normalization="voice", init_frames=50)
    assert written == [] and list(tmp_path.rglob("*")) == []
    book.save(tmp_path / "book")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["codebook.json", "codebook.safetensors"]
    assert Codebook.load(tmp_path / "book").hash == book.hash


def test_memory_does_not_grow_with_the_corpus(speech, monkeypatch):
    held = []
    lowest = reservoir._lowest

    def watched(kept, keys, size):
        held.append(sum(map(len, kept)))
        return lowest(kept, keys, size)

    monkeypatch.setattr(reservoir, "_lowest", watched)
    monkeypatch.setattr(reservoir, "TILE_FRAMES", 64)
    waveform = speech(0.5)
    most = []
    for length in (10, 40):
        held.clear()
        stream = [(str(i), (1 - i / 100) * waveform) for i in range(length)]
        fit_codebook(lambda stream=stream: stream, "mfcc39", 4, seed=0, iterations=1, init_frames=100)
        most.append(max(held))
    assert max(most) <= 100 + 64 + 48
    assert most[1] - most[0] <= 48


def test_voice_normalization_takes_the_voice_out(speech):
    """Two speakers who differ in level and coloring: without it units tell the speaker, with it they do not."""
    audio, speakers = {}, {}
    for i in range(6):
        waveform = speech(1.0, seed=i)
        duller = 0.2 * torch.nn.functional.avg_pool1d(waveform[None], 4, 1)[0]
        audio |= {f"a{i}": waveform, f"b{i}": duller}
        speakers |= {f"a{i}": "a", f"b{i}": "b"}

    def shared_use(normalization):
        book = fit_codebook(lambda: audio.items(), "fbank", 8, seed=0, normalization=normalization, speakers=speakers)
        normalizer = VoiceNormalizer(speakers)
        normalizer.gather((name, kaldi_fbank(waveform)) for name, waveform in audio.items())
        use = {"a": torch.zeros(8), "b": torch.zeros(8)}
        for name, waveform in audio.items():
            frames = kaldi_fbank(waveform)
            frames = normalizer(name, frames) if normalization == "voice" else frames
            use[speakers[name]] += assign(frames, book.centroids).bincount(minlength=8)
        return float(torch.minimum(use["a"] / use["a"].sum(), use["b"] / use["b"].sum()).sum())

    assert shared_use("voice") > 0.8 > shared_use("none")


def test_normalizer_standardizes_per_speaker_or_utterance():
    generator = torch.Generator().manual_seed(0)
    frames = {name: 3 * torch.randn(50, 4, generator=generator) + shift for shift, name in enumerate("abc")}
    normalizer = VoiceNormalizer({"a": "x", "b": "x", "c": None})
    normalizer.gather(frames.items())
    both = torch.cat([normalizer(name, frames[name]) for name in "ab"])
    for values in (both, normalizer("c", frames["c"])):
        torch.testing.assert_close(values.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert torch.equal(VoiceNormalizer(None)("c", frames["c"]), normalizer("c", frames["c"]))
    assert torch.equal(VoiceNormalizer(None)("k", torch.full((5, 2), 7.0)), torch.zeros(5, 2))


def test_progress_is_passed_on(waveforms):
    calls = []
    fit_codebook(
        lambda: waveforms.items(), "mfcc39", 3, seed=0, iterations=3, progress=lambda *counts: calls.append(counts)
    )
    assert calls[-1] == (5, 5)


def test_corpus_to_codebook_leaves_out_test(speech, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", speech(0.6, seed=i).numpy(), 16_000)
    corpus = Corpus.open(tmp_path, language="fra")
    rows = tuple(replace(row, split=split) for row, split in zip(corpus, ("train", "test", None), strict=True))
    book = fit(corpus.with_utterances(rows), num_units=4)
    assert book.info.frames_fitted == 2 * 58


def test_too_short_utterance_is_named(speech, encoder):
    for extractor in (FrameExtractor("mfcc39"), FrameExtractor("model", encoder, 1)):
        with pytest.raises(AudioError, match=r"'brief'.*at least 400 samples"):
            list(extractor.frames([("fine", speech(0.5)), ("brief", torch.zeros(399))]))


@pytest.mark.parametrize(
    ("front_end", "with_encoder", "layer", "message"),
    [
        ("model", False, None, "needs both"),
        ("model", True, None, "needs both"),
        ("mfcc39", True, 1, "take neither"),
        ("mfcc39", False, 1, "take neither"),
        ("mfcc", False, None, "Known: fbank, mfcc39, model"),
        ("model", True, 3, "expected 0 to 2"),
    ],
)
def test_front_ends_that_do_not_fit(encoder, front_end, with_encoder, layer, message):
    with pytest.raises(ConfigError, match=message):
        FrameExtractor(front_end, encoder if with_encoder else None, layer)


def test_unknown_speakers_are_refused(waveforms):
    with pytest.raises(DataError, match="'utt-0' is not in the table of speakers"):
        fit_codebook(lambda: waveforms.items(), "mfcc39", 3, seed=0, normalization="voice", speakers={"other": "x"})
    normalizer = VoiceNormalizer({"a": "x"})
    with pytest.raises(DataError, match="did not occur in the first pass"):
        normalizer("a", torch.zeros(3, 2))
