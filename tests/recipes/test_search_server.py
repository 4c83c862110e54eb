"""The served page of search: asked by HTTP, and typed into and listened to in a browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from browser import CHROMIUM, chromium
from tiny_model import LASR
from tiny_text import text_encoder

from allophone.cli.main import main
from allophone.errors import ConfigError
from allophone.models.aligned import Aligned, AlignedInfo, aligned_hash
from allophone.models.lasr import Lasr
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig, build_text_embedder
from allophone.recipes.search import Searcher, Towers
from allophone.recipes.search_server import search_server
from allophone.search.index import Entry, IndexInfo, VectorIndex

pytest.importorskip("lancedb", reason="needs the extra 'search'")
WORDS = ("bonjour", "good <b>morning</b>", "au revoir")


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Three recordings, each under the vector of its own text, so that a text finds its own."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    text = build_text_embedder(text_encoder(folder / "text"), TextEmbedderConfig(dim=16)).eval()
    speech = SpeechEmbedder(Lasr(LASR), SpeechEmbedderConfig(dim=text.dim)).eval()
    info = AlignedInfo(hash=aligned_hash(speech, text), temperature=0.07, seed=0, heard=())
    towers = Towers(speech=speech, aligned=Aligned(speech=speech, text=text, info=info), name="tiny", hash=info.hash)
    index = VectorIndex.create(folder / "index", IndexInfo(model="tiny", model_hash=info.hash, dim=text.dim))
    entries = []
    for number, words in enumerate(WORDS):
        path = folder / f"{number}.wav"
        soundfile.write(path, (0.3 * torch.sin(torch.arange(16_000) * (0.05 + 0.03 * number))).numpy(), 16_000)
        entries.append(
            Entry(
                key=str(number),
                id=str(number),
                corpus="c",
                path=str(path),
                offset_seconds=0.0,
                duration_seconds=1.0,
                language="eng_Latn" if number == 1 else "fra_Latn",
                text=words,
            )
        )
    index.add(entries, torch.stack([torch.from_numpy(towers.text_vector(words)) for words in WORDS]).numpy())
    return Searcher(index=index, towers=towers)


@pytest.fixture
def port(searcher: Searcher) -> Iterator[int]:
    with search_server(searcher, top=2) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, path: str, **headers: str) -> tuple[int, str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers
    connection.close()
    return found


def test_a_question_is_answered_with_players(port: int) -> None:
    status, text, headers = ask(port, "/")
    assert status == 200 and 'name="q"' in text and "<audio" not in text and "answers" not in text
    status, text, headers = ask(port, "/?q=good+%3Cb%3Emorning%3C%2Fb%3E")
    assert status == 200 and text.count("data:audio/ogg;base64,") == 2
    assert text.index("good &lt;b&gt;morning") < text.index("2 answers") and "<b>morning" not in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, text, _ = ask(port, "/?q=good&language=fra")
    assert status == 200 and "bonjour" in text and "morning" not in text
    status, text, _ = ask(port, "/?q=good&language=nonsense")
    assert status == 400 and 'role="alert"' in text and "nonsense" in text


def test_no_file_is_read_and_strangers_are_refused(port: int, searcher: Searcher, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, torch.zeros(16_000).numpy(), 16_000)
    status, text, _ = ask(port, f"/?q={secret}")  # a text like any other
    assert status == 200 and text.count("<audio") == 2 and "the clip that was asked with" not in text
    assert ask(port, "/secret.wav")[0] == 404
    assert ask(port, "/?q=good", Host="evil.example:80")[0] == 403
    status, text, _ = ask(port, f"/?q={'a' * 1_001}")
    assert status == 400 and "1001 characters; at most 1000" in text
    with pytest.raises(ConfigError, match=f"Port {port} cannot be used"):
        search_server(searcher, port=port)
    with pytest.raises(ConfigError, match="--top is 0"):
        search_server(searcher, top=0)


def test_either_a_query_or_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "nowhere"]) == 1
    assert main(["search", "nowhere", "words", "--serve"]) == 1
    assert capsys.readouterr().err.count("Give either a query or --serve.") == 2


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; `make browser` says how to get one")
def test_a_query_is_typed_and_a_result_is_played(port: int, tmp_path: Path) -> None:
    def until(page: Any, script: str) -> None:
        end = time.monotonic() + 120
        while not page.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.1)

    with chromium(tmp_path / "profile") as page:
        page.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        until(page, "document.readyState === 'complete' && document.activeElement.id === 'query'")
        page.type("au revoir")
        until(page, "document.readyState === 'complete' && document.querySelectorAll('#hits li').length === 2")
        assert page.run("document.querySelector('#hits strong').textContent") == "au revoir"
        played = """(async () => {
          const player = document.querySelector("#hits audio");
          const moved = new Promise((done) =>
            player.addEventListener("timeupdate", () => player.currentTime > 0 && done()));
          await player.play();
          await moved;
          return [player.duration, player.closest("li").className];
        })()"""
        seconds, state = page.run(played)
    assert seconds == pytest.approx(1.0, abs=0.1) and state == "playing"
