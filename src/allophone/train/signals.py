"""SIGTERM and Ctrl-C: asked once, a run saves and ends; asked twice, it ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; outside the main thread it notes nothing.

    ``requested`` turns True at the first signal. A Ctrl-C after that raises ``KeyboardInterrupt``.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
