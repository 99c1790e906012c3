"""Single values of the settings, from the text that an operator writes.

The readers raise ValueError with what is wrong; none names a value that may be secret.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import SecretStr

from service.config.masking import mask_address
from service.domain.samples import REQUIRED_TAGS, normalize_tag_name

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([kmg])(i?))?b?", re.IGNORECASE | re.ASCII)
_COLLECTOR = re.compile(r"[a-z0-9]([-a-z0-9_]*[a-z0-9])?")
# https://docs.datadoghq.com/getting_started/site/
_SITES = ("datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com",
          "ap2.datadoghq.com", "ddog-gov.com")  # fmt: skip
_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Files of the zone database that are no zones, or zones that count leap seconds.
_NO_ZONE = re.compile(r"(?:Local|localtime|posixrules|Factory)|(?:posix|right)/.*", re.IGNORECASE)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Half a sentence that suggests the nearest option (``concurrencyPolicy``: ``concurrency_policy``), or nothing."""
    folded = {_fold(option): option for option in options}
    matches = get_close_matches(_fold(word), folded, n=1)
    return f"; did you mean {folded[matches[0]]}?" if matches and folded[matches[0]] != word else ""


def read_duration(value: Any) -> timedelta:
    """Seconds (a number or digits) or ``90s``, ``5m``, ``1h30m``, ``1d``."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    match = _DURATION.fullmatch(text)
    if isinstance(value, bool) or not text or not match:
        raise ValueError(f'must be a duration such as 90s, 5m, 2h or 1d, or seconds, not "{mask_address(text)}"')
    numbers = zip(match.groups(), _UNITS.values(), strict=True)
    try:
        return timedelta(seconds=sum(float(number or 0) * unit for number, unit in numbers))
    except OverflowError:
        raise ValueError(f"{text} is too long") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that ``read_duration`` reads back as ``value``."""
    seconds = value.total_seconds()
    unit = next((unit for unit, size in _UNITS.items() if seconds and seconds % size == 0), "s")
    return f"{seconds / _UNITS[unit]:.15g}{unit}"


def read_bytes(value: Any) -> int:
    """Bytes (a number or digits) or ``256MiB``, ``500MB``, ``1GiB``."""
    match = _BYTES.fullmatch(str(value).strip())
    if isinstance(value, bool) or not match:
        raise ValueError(f'must be a size such as 256MiB or 1GiB, or bytes, not "{mask_address(str(value))}"')
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmg".index((prefix or " ").lower()))


def read_json(text: str) -> Any:
    """JSON with its numbers as the text that they are: a list of workflow ids is a list of words."""
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error


def read_instant(value: Any) -> datetime | None:
    """An instant with its zone, such as 2026-01-31T12:00:00Z; without a zone it is UTC."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        instant = datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(f'must be an instant such as 2026-01-31T12:00:00Z, not "{mask_address(str(value))}"') from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def read_metric_prefix(value: Any) -> str | None:
    """What stands before a metric's name; empty, null and "none" mean that nothing is sent at all."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "none"):
        return None
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]{0,49}", text):
        raise ValueError('must begin with a letter and have letters, digits, _ and . only; "" sends nothing')
    return text


def read_time_zone(value: Any) -> ZoneInfo:
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


def check_url(text: str) -> str:
    """An http(s) address without credentials, query and fragment; the slash at its end is left out."""
    example = "must be an absolute address such as https://proxy.example:8080"
    parts = _split(text, example)
    if parts is None or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f'{example}, not "{mask_address(text)}"')
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{example}, without a user name or password in it")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError(f"{example}, without a query or fragment")
    return text.rstrip("/")


def check_intake_url(text: str) -> str:
    """The base address of an intake: paths of its API are added to it."""
    if base := re.fullmatch(r"(.+)/api/v\d(/.*)?", text):
        raise ValueError(f"must be the base address, without the path of a call: {base[1]}")
    return text


def check_ping_url(address: SecretStr | None) -> SecretStr | None:
    """An http(s) address to be called; whoever knows it can call it, so it is a secret and no message shows it."""
    if address is None:
        return None
    message = "must be an absolute http(s) address without a query or fragment"
    text = address.get_secret_value()
    try:
        parts = _split(text, message)
    except ValueError:
        parts = None
    if parts is None or parts.query or parts.fragment:
        raise ValueError(message)
    return SecretStr(text.rstrip("/"))


def check_site(text: str) -> str:
    """Datadog's site, the domain of the organisation."""
    site = text.lower()
    if not _DOMAIN.fullmatch(text) or len(text) > 253:
        raise ValueError(f'must be a host name such as datadoghq.com or datadoghq.eu, not "{mask_address(text)}"')
    if site.startswith(("app.", "api.")):
        raise ValueError(f'must be the site, such as datadoghq.com, not the host "{text}"')
    if site in ("datadog.com", "datadog.eu", "us", "us1", "eu", "eu1", "us3", "us5", "ap1", "ap2"):
        short = {"us": "us1", "datadog.com": "us1", "datadog.eu": "eu1", "eu": "eu1"}.get(site, site)
        meant = {"us1": "datadoghq.com", "eu1": "datadoghq.eu"}.get(short, f"{short}.datadoghq.com")
        raise ValueError(f'"{text}" is no site; did you mean {meant}? (there are {", ".join(_SITES)})')
    return site


def check_host(text: str) -> str:
    """A host name or address, or ``*`` for every address of both families."""
    if not re.fullmatch(r"[-A-Za-z0-9_.:*\[\]%]+", text):
        raise ValueError(f'must be a host name or address, not "{mask_address(text)}"')
    return text


def check_secret(secret: SecretStr) -> SecretStr:
    """A secret that an HTTP header can carry."""
    text = secret.get_secret_value()
    if text[0] in "\"'" and text[-1] == text[0]:
        raise ValueError("stands in quotes that are a part of the value: leave them out")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("holds a blank, a line break or a character that no HTTP header can carry")
    return secret


def expand_path(path: Path) -> Path:
    """``path`` with ``~`` as the home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but this user has no home directory: give the whole path") from None


def check_collector_name(text: str) -> str:
    if not _COLLECTOR.fullmatch(text) or len(text) > 52:
        raise ValueError(
            "a collector's name has at most 52 small letters, digits, - and _, with a letter or digit at both ends"
        )
    return text


def check_tag_name(text: str) -> str:
    if normalize_tag_name(text) in REQUIRED_TAGS:
        raise ValueError("is a tag that every sample has already; choose another name")
    # https://docs.datadoghq.com/getting_started/tagging/#define-tags
    if not text[:1].isalpha() or ":" in text or len(text) > 200:
        raise ValueError("a tag's name begins with a letter, has no colon and at most 200 characters")
    return text


def check_tag_value(text: str) -> str:
    if not text or len(text) > 200:
        raise ValueError("a tag's value has 1 to 200 characters")
    return text


def _split(text: str, message: str) -> SplitResult | None:
    """The parts of an http(s) address, None where it is none. Raises ValueError for a port that can't be."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # read for its check of the range
    except ValueError as error:
        raise ValueError(f"{message} ({error})") from error
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _fold(word: str) -> str:
    return re.sub(r"[-_\s]", "", word).lower()
