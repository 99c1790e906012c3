"""Single values of the settings: from the text that an operator writes, and back to text without secrets.

The converters raise ValueError with what is wrong; none names a value that may be secret.
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, SecretStr

from service.domain.naming import key
from service.domain.samples import REQUIRED_TAGS

MASK = "********"

_SECRET_NAME = re.compile("(token|key|secret|password)(?!_env$)", re.IGNORECASE)  # x_env: a variable's name
_PRIVATE_PART = re.compile(r"(?<=://)[^/?#\s@]*@|(?<=\?)[^#\s]+")

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)

_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([kmg])(i?))?b?", re.IGNORECASE | re.ASCII)

_COLLECTOR = re.compile(r"[a-z0-9]([-a-z0-9_]*[a-z0-9])?")
_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_SITE = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Files of the zone database that are no zones, or zones that count leap seconds.
_NO_ZONE = re.compile(r"(?:Local|localtime|posixrules|Factory)|(?:posix|right)/.*", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a value under this key must not be shown, whatever its type says."""
    return bool(_SECRET_NAME.search(name))


def shown(text: str) -> str:
    """``text`` without the credentials and the query that an address may carry (a presigned one is a secret)."""
    return _PRIVATE_PART.sub(lambda part: f"{MASK}@" if part[0].endswith("@") else MASK, text)


def private_parts(text: str) -> Iterator[str]:
    """What ``shown`` leaves out of ``text``: credentials, the query, and each of their parts that is long enough."""
    for part in _PRIVATE_PART.findall(text):
        whole = part.removesuffix("@")
        yield whole
        words = re.split(r"[:&]", whole)
        yield from (value for word in words if len(value := word.partition("=")[2] or word) >= 8)


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that was probably meant: ``concurrencyPolicy`` finds ``concurrency_policy``."""
    plain = {_folded(option): option for option in options}
    matches = get_close_matches(_folded(word), plain, n=1)
    return plain[matches[0]] if matches else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Half a sentence that suggests the nearest option, empty when none is near."""
    option = nearest(word, options)
    return f"; did you mean {option}?" if option and option != word else ""


def duration(value: Any) -> timedelta:
    """Seconds (a number or digits) or ``90s``, ``5m``, ``1h30m``, ``1d``."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    match = _DURATION.fullmatch(text)
    if isinstance(value, bool) or not text or not match:
        raise ValueError(f'must be a duration such as 90s, 5m, 2h or 1d, or seconds, not "{shown(text)}"')
    try:
        return timedelta(
            seconds=sum(float(number or 0) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True))
        )
    except OverflowError as error:
        raise ValueError(f"{text} is too long") from error


def duration_text(value: timedelta) -> str:
    """The shortest text that ``duration`` reads back as ``value``."""
    seconds = value.total_seconds()
    unit = next((unit for unit, size in _UNITS.items() if seconds and seconds % size == 0), "s")
    return f"{seconds / _UNITS[unit]:.15g}{unit}"


def byte_count(value: Any) -> int:
    """Bytes (a number or digits) or ``256MiB``, ``500MB``, ``1GiB``."""
    match = _BYTES.fullmatch(str(value).strip())
    if isinstance(value, bool) or not match:
        raise ValueError(f'must be a size such as 256MiB or 1GiB, or bytes, not "{shown(str(value))}"')
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmg".index((prefix or " ").lower()))


def from_json(text: str) -> Any:
    """JSON with its numbers as the text that they are: a list of workflow ids is a list of words."""
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error


def instant(value: Any) -> datetime | None:
    """An instant with its zone, such as 2026-01-31T12:00:00Z; without a zone it is UTC."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        found = datetime.fromisoformat(str(value).strip())
    except ValueError as error:
        raise ValueError(f'must be an instant such as 2026-01-31T12:00:00Z, not "{shown(str(value))}"') from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def metric_prefix(value: Any) -> str | None:
    """What stands before a metric's name; empty, null and "none" mean that nothing is sent at all."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "none"):
        return None
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]{0,49}", text):
        raise ValueError('must begin with a letter and have letters, digits, _ and . only; "" sends nothing')
    return text


def ping_address(address: SecretStr | None) -> SecretStr | None:
    """An http(s) address to be called; whoever knows it can call it, so it is a secret and no message shows it."""
    if address is None:
        return None
    try:
        parts = urlsplit(address.get_secret_value())
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an absolute http(s) address without a query or fragment")
    return SecretStr(address.get_secret_value().rstrip("/"))


def zone(value: Any) -> ZoneInfo:
    """The IANA time zone of that name."""
    if isinstance(value, ZoneInfo):
        return value
    name = str(value).strip()
    if not _NO_ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (ValueError, OSError, LookupError):  # ill-formed; a directory of the database; unknown
            pass
    hint = did_you_mean(name, available_timezones()) or "; use one such as UTC or Europe/Berlin"
    raise ValueError(f'"{name}" is no IANA time zone{hint}')


def absolute_url(text: str) -> str:
    """An http(s) address without credentials, query and fragment; the slash at its end is left out."""
    example = "must be an absolute address such as https://proxy.example:8080"
    try:
        parts = urlsplit(text)
        _ = parts.port  # read for its check of the range
    except ValueError as error:
        raise ValueError(f"{example} ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f'{example}, not "{shown(text)}"')
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{example}, without a user name or password in it")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError(f"{example}, without a query or fragment")
    return text.rstrip("/")


def site_name(text: str) -> str:
    """Datadog's site: the domain of the organisation (https://docs.datadoghq.com/getting_started/site/)."""
    if not _SITE.fullmatch(text) or len(text) > 253:
        raise ValueError(f'must be a host name such as datadoghq.com or datadoghq.eu, not "{shown(text)}"')
    if text.lower().startswith(("app.", "api.")):
        raise ValueError(f'must be the site, such as datadoghq.com, not the host "{text}"')
    return text.lower()


def host_name(text: str) -> str:
    """A host name or address; what listens on it or compares with it says more."""
    if not re.fullmatch(r"[-A-Za-z0-9_.:*\[\]%]+", text):
        raise ValueError(f'must be a host name or address, not "{shown(text)}"')
    return text


def sendable(secret: SecretStr) -> SecretStr:
    """A secret that an HTTP header can carry."""
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("holds a blank, a line break or a character that no HTTP header can carry")
    return secret


def expanded(path: Path) -> Path:
    """``path`` with ``~`` as the home directory."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("starts with ~, but there is no home directory: set INFRA_HEALTH_STATE_DIR") from error


def collector_name(text: str) -> str:
    if not _COLLECTOR.fullmatch(text) or len(text) > 52:
        raise ValueError(
            "a collector's name has at most 52 small letters, digits, - and _, with a letter or digit at both ends"
        )
    return text


def tag_name(text: str) -> str:
    if key(text) in REQUIRED_TAGS:
        raise ValueError("is a tag that every sample has already; choose another name")
    # https://docs.datadoghq.com/getting_started/tagging/#define-tags
    if not text[:1].isalpha() or ":" in text or len(text) > 200:
        raise ValueError("a tag's name begins with a letter, has no colon and at most 200 characters")
    return text


def tag_value(text: str) -> str:
    if not text or len(text) > 200:
        raise ValueError("a tag's value has 1 to 200 characters")
    return text


def alternatives(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows: ``Annotated[A, ...] | B | None`` gives A, B and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from alternatives(argument)
    else:
        yield annotation


def is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _folded(word: str) -> str:
    return re.sub(r"[-_\s]", "", word).lower()
