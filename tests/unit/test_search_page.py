"""The page of answers, also as a browser shows it."""

from __future__ import annotations

import html
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from torch import Tensor

from allophone.evaluate.report_media import opus_address
from allophone.search.index import Entry, Hit, IndexInfo
from allophone.search.page import Shown, search_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
INFO = IndexInfo(model="m", model_hash="abc123", dim=4)
PROBE = """<script>
addEventListener("load", async () => {
  let told = "";
  try {
    const box = document.getElementById("narrow");
    box.value = "SEPTIEME";
    box.dispatchEvent(new Event("input"));
    const shown = [...document.querySelectorAll("#hits li:not([hidden])")];
    const player = shown[0].querySelector("audio");
    player.muted = true;
    const moved = new Promise((done) => player.addEventListener("timeupdate", () => player.currentTime > 0 && done()));
    await player.play();
    await moved;
    told = [shown.length, document.getElementById("count").textContent, shown[0].className, player.duration].join("|");
  } catch (error) { told = String(error); }
  new Image().src = "http://127.0.0.1:PORT/?" + encodeURIComponent(told);
});
</script>"""


def page(speech: Callable[..., Tensor]) -> str:
    texts = ["au <b>revoir</b>", "le septième jour", "bonjour"]
    shown = [
        Shown(
            hit=Hit(
                entry=Entry(
                    key=str(number),
                    id=str(number),
                    corpus="c",
                    path=f"/audio/{number}.wav",
                    offset_seconds=125.26,
                    duration_seconds=1.0,
                    language="fra_Latn",
                    speaker=None if number else "anne",
                    text=text,
                ),
                score=0.9 - 0.5 * number,
            ),
            sound=opus_address(speech(1.0, number).numpy()) if number < 2 else "",
        )
        for number, text in enumerate(texts)
    ]
    return search_page('"jour" & <nuit>', shown, INFO)


def test_the_page_needs_nothing_else_and_quotes_what_it_shows(speech: Callable[..., Tensor]) -> None:
    text = page(speech)
    assert "<b>revoir" not in text and html.escape("au <b>revoir</b>") in text and "<nuit>" not in text
    assert "2:05.3 to 2:06.3" in text and "French" in text and "abc123" in text and "can no longer be read" in text
    assert text.count("data:audio/ogg;base64,") == 2
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_word_is_typed_and_an_answer_is_played(tmp_path: Path, speech: Callable[..., Tensor]) -> None:
    told: queue.Queue[str] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.put(unquote(self.path.removeprefix("/?")))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = tmp_path / "page.html"
    probe = PROBE.replace("PORT", str(server.server_port))
    file.write_text(page(speech).replace("</body>", probe + "</body>"), encoding="utf-8")
    browser = subprocess.Popen(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--autoplay-policy=no-user-gesture-required",
            "--remote-debugging-port=0",  # without it, a headless browser ends at once
            f"--user-data-dir={tmp_path / 'profile'}",
            file.as_uri(),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        shown, count, state, seconds = told.get(timeout=150).split("|")
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        server.shutdown()
        server.server_close()
    assert (shown, count, state) == ("1", "1 of 3 shown", "playing")
    assert float(seconds) == pytest.approx(1.0, abs=0.1)
