"""Frozen dataclasses to JSON and back, strictly: an unknown or missing key is an error, never a default.

A field whose annotation is a union of dataclasses is written with a ``"type"`` key that holds the class name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

from allophone.errors import ConfigError, suggest

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON values of a dataclass, nested ones tagged with their class name."""
    values = {field.name: _encode(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"type": type(config).__name__, **values}


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    return value


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Rebuild a dataclass from :func:`to_dict`'s output.

    Raises:
        ConfigError: A key is unknown or missing, the type tag names another class, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object for {cls.__name__}, got {type(values).__name__}.")
    values = dict(values)
    tag = values.pop("type", cls.__name__)
    if tag != cls.__name__:
        raise ConfigError(f"{where}: expected a {cls.__name__}, got a {tag}.")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: unknown field '{key}'. {suggest(key, names)}")
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"{where}: missing fields {missing} of {cls.__name__}.")
    return cls(**{name: _decode(hints[name], values[name], f"{where}.{name}") for name in names})


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected {len(inner)} values, got {len(value)}.")
        return tuple(
            _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True))
        )
    if origin is dict:
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {value!r} is not one of {list(arguments)}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}.")
    return value


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    members = [argument for argument in arguments if argument is not type(None)]
    if len(members) == 1:
        return _decode(members[0], value, where)
    by_name = {member.__name__: member for member in members}
    if isinstance(value, dict):
        tag = str(value.get("type", ""))
        if tag not in by_name:
            raise ConfigError(f"{where}: unknown type '{tag}'. {suggest(tag, by_name)}")
        return from_dict(by_name[tag], value, where)
    for member in members:
        if isinstance(value, member):
            return value
    raise ConfigError(f"{where}: {value!r} is none of {sorted(by_name)}.")


def to_json(config: Any) -> str:
    """Readable JSON of a dataclass, keys in the order of its fields."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(cls: type[T], text: str, where: str = "config") -> T:
    """Rebuild a dataclass from :func:`to_json`'s output.

    Raises:
        ConfigError: The text is not JSON, or not a ``cls``.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON (line {error.lineno}: {error.msg}).") from error
    return from_dict(cls, values, where)


def config_hash(config: Any) -> str:
    """First 16 hex digits of the SHA-256 of a dataclass' canonical JSON."""
    canonical = json.dumps(to_dict(config), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
