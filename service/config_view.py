"""The settings as people may see them: printed, compared with those before, and which of their words to hide."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Literal, get_origin

from pydantic import SecretStr

from service.config import Section
from service.config_values import MASK, duration_text, is_secret_name, private_parts, shown

_LONG_PATH = 8  # characters; hiding a shorter word would blank out words everywhere


def describe(section: Section) -> dict[str, Any]:
    """The settings as plain data to print: secrets as ``********``, null where there is none; durations as ``5m``."""
    return {
        name: _plain("" if get_origin(field.annotation) is Literal else name, getattr(section, name))
        for name, field in type(section).model_fields.items()
    }


def secret_values(section: Section) -> Iterator[str]:
    """Every secret in the settings, those in addresses included, for ``logs.mask``."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for part in value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, SecretStr):
                yield part.get_secret_value()
                # Of an address what follows the host is the secret: it may stand alone in a client's message.
                if len(path := part.get_secret_value().partition("://")[2].partition("/")[2]) >= _LONG_PATH:
                    yield path
            elif isinstance(part, Section):
                yield from secret_values(part)
            elif isinstance(part, str):
                yield from private_parts(part)


def differences(before: Section, after: Section) -> dict[str, str]:
    """The keys whose values differ, dotted, with both values as ``describe`` shows them: ``15m -> 30m``.

    Of what came, went or changed its type, the whole.
    """
    return {
        path: " -> ".join(str(_plain(path.rpartition(".")[2], value)) for value in pair)
        for path, *pair in _differing(before, after)
    }


def _differing(before: Section, after: Section, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        pairs = {f"{above}{name}": (old, new)}
        if isinstance(old, dict) and isinstance(new, dict):
            pairs = {f"{above}{name}.{key}": (old.get(key), new.get(key)) for key in {**old, **new}}
        for path, (one, other) in pairs.items():
            if isinstance(one, Section) and type(one) is type(other):
                yield from _differing(one, other, f"{path}.")
            elif one != other:
                yield path, one, other


def _plain(name: str, value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case SecretStr():
            return MASK
        case Section():
            return describe(value)
        case dict():
            return {key: _plain(key, part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(name, part) for part in value]
        case datetime():
            return value.isoformat()
        case timedelta():
            return duration_text(value)
        case Enum():
            return value.value
        case _:
            return MASK if is_secret_name(name) else shown(str(value))
