"""Synthetic speech by espeak-ng: instant, in a hundred languages, and it sounds like it.

The library comes with PyPI's ``espeakng-loader`` (extra ``synthesis``); nothing has to be installed in the system.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allophone.audio.io import to_16k
from allophone.errors import ConfigError, DataError

VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
"""Voices of each language."""
SHORTEST_SECONDS = 0.05
"""Less than this is no speech."""
SYNCHRONOUS, UTF8, BY_CHARACTER, RATE, PITCH = 2, 1, 1, 1, 3
"""Of ``speak_lib.h``."""


class Espeak:
    """The synthesizer; one a process.

    Raises:
        ConfigError: The extra is not installed, or the library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ConfigError("Synthetic speech needs espeak-ng: `pip install 'allophone[synthesis]'`.") from error
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self._rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, data, 0))
        if self._rate <= 0:
            raise ConfigError(f"espeak-ng did not start with its data in {data.decode()}. Install the extra again.")
        self._library.espeak_Info.restype = ctypes.c_char_p
        nowhere = ctypes.c_char_p()
        self.version = str(self._library.espeak_Info(ctypes.byref(nowhere)).decode())
        self._parts: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)  # kept, or it would be collected while the library holds it
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, *, rate: int = 165, pitch: int = 50) -> NDArray[np.float32]:
        """What a text sounds like. Shape ``(S,)``, float32 in [-1, 1], 16 kHz.

        No two calls give the same samples: espeak-ng varies pitch and timing a little.

        Args:
            text: In the language of the voice.
            voice: ``fr``, or with a variant ``fr+f2``.
            rate: Words a minute, 80 to 450.
            pitch: 0 to 99.

        Raises:
            ConfigError: There is no such voice.
            DataError: Nothing was said.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"espeak-ng has no voice {voice!r}; `fr` and `fr+f2` are some.")
        self._library.espeak_SetParameter(RATE, rate, 0)
        self._library.espeak_SetParameter(PITCH, pitch, 0)
        self._parts.clear()
        written = text.encode()
        self._library.espeak_Synth(written, len(written) + 1, 0, BY_CHARACTER, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        if sum(map(len, self._parts)) < SHORTEST_SECONDS * self._rate:
            raise DataError(f"espeak-ng says nothing for {text!r} with voice {voice!r}.")
        return to_16k((np.concatenate(self._parts) / 32768).astype(np.float32), self._rate)
