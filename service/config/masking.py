"""What must not be shown: secrets in texts, credentials in addresses, control characters on a terminal."""

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "********"
_SHORTEST_SECRET = 4  # masking less would blank out words everywhere
_SHORTEST_PART = 8  # of an address, and of a variable whose name alone says that it is secret

_SECRET_NAME = re.compile("(token|key|secret|password)(?!_env$)", re.IGNORECASE)  # x_env: a variable's name
_CREDENTIALS_OR_QUERY = re.compile(r"(?<=://)[^/?#\s@]*@|(?<=\?)[^#\s]+")
_PASSWORD = re.compile(r"://[^/@]*:([^/@]+)@")
# Control characters but tab and line feed, what turns the writing direction, and halves of surrogate pairs, which no
# stream can write.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_lock = threading.Lock()
_forms: set[str] = set()
_pattern: re.Pattern[str] | None = None


def mask(values: Iterable[str]) -> None:
    """From now on ``redact`` writes each of these as ``********``, URL-encoded and in Base64 (HTTP Basic) too.

    A value may be two with a comma between (while it is rotated), or an address, of which parts may stand alone.
    """
    global _pattern
    with _lock:
        for part in (part.strip() for value in values for part in _parts_of(value)):
            if len(part) >= _SHORTEST_SECRET:
                _forms.update(_forms_of(part))
        # The longest first: a secret may be a part of another.
        _pattern = re.compile("|".join(map(re.escape, sorted(_forms, key=len, reverse=True)))) if _forms else None


def redact(text: str) -> str:
    """``text`` as it may be written and sent: no secret, nothing that is no text in UTF-8."""
    if _pattern:
        text = _pattern.sub(MASK, text)
    # Halves of surrogate pairs come with foreign JSON; neither pages nor files could hold them.
    return text if text.isascii() else text.encode(errors="replace").decode()


def escape_control_characters(text: str) -> str:
    """``text`` with its control characters spelt out: what a server sent must not steer the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_secret_name(name: str) -> bool:
    """Whether a value under this key must not be shown, whatever its type says."""
    return bool(_SECRET_NAME.search(name))


def mask_address(text: str) -> str:
    """``text`` without the credentials and the query that an address may carry (a presigned one is a secret)."""
    return _CREDENTIALS_OR_QUERY.sub(lambda part: f"{MASK}@" if part[0].endswith("@") else MASK, text)


def secrets_in_address(text: str) -> Iterator[str]:
    """What ``mask_address`` leaves out of ``text``: credentials, the query, and each of their longer parts."""
    for part in _CREDENTIALS_OR_QUERY.findall(text):
        whole = part.removesuffix("@")
        yield whole
        words = (word.partition("=")[2] or word for word in re.split("[:&]", whole))
        yield from (word for word in words if len(word) >= _SHORTEST_PART)


def secrets_in_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """The process's secrets by the names of their variables, and the credentials of proxies."""
    for name, value in environ.items():
        if name.lower().endswith("_proxy"):
            yield from secrets_in_address(value)
        # A path to a secret is none.
        elif is_secret_name(name) and not name.endswith(("_FILE", "_PATH", "_DIR")) and len(value) >= _SHORTEST_PART:
            yield value


def _parts_of(secret: str) -> Iterator[str]:
    yield from (secret, *secret.split(","), *secrets_in_address(secret), *_PASSWORD.findall(secret))
    # What follows the host, in messages of clients: whoever knows it can call the address.
    yield from re.findall(rf"^https?://[^/]*/(.{{{_SHORTEST_PART},}})", secret)


def _forms_of(value: str) -> Iterator[str]:
    """How ``value`` may stand in a text: as it is, in an address, in JSON, in Base64 at any offset."""
    yield from (value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1])
    data = value.encode(errors="replace")
    for before, first in ((0, 0), (1, 2), (2, 3)):
        # Only the characters that no byte before or after the value has a part in.
        text = base64.b64encode(bytes(before) + data).decode()[first : (before + len(data)) * 8 // 6]
        if len(text) >= _SHORTEST_SECRET * 2:
            yield text
