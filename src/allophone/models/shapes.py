"""Models without weights: names, shapes and counts of what is read from a file or only counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Whatever is built meanwhile lies on the meta device and is not initialized.

    Initializing there computes nothing, but the first normal distribution makes PyTorch import its compiler: a second
    or more of every command that loads an encoder.
    """
    with torch.device("meta"), _Uninitialized():
        yield


class _Uninitialized(TorchFunctionMode):
    """``torch.nn.init`` does nothing."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return function(*args, **given)
