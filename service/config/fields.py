"""Single values of the settings, from the text that an operator writes.

The readers raise ValueError with what is wrong; none names a value that may be secret.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, SecretStr

from service.config.masking import mask_address
from service.domain.samples import REQUIRED_TAGS, normalize_tag_name

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
# A host name, but none of what is easily taken for a site: us5, datadog.com, app.datadoghq.eu.
# https://docs.datadoghq.com/getting_started/site/
_SITE = re.compile(r"(?!(app|api)\.|datadog\.(com|eu)$)[a-z0-9-]+(\.[a-z0-9-]+)+")
QUOTED = "stands in quotes that are a part of the value: leave them out"
_ADDRESS = "must be an absolute address such as https://proxy.example:8080 without a user name, query or fragment"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Half a sentence that suggests the nearest option (``concurrencyPolicy``: ``concurrency_policy``), or nothing."""
    folded = {_fold(option): option for option in options}
    matches = get_close_matches(_fold(word), folded, n=1)
    return f"; did you mean {folded[matches[0]]}?" if matches and folded[matches[0]] != word else ""


def read_time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f'"{text}" is no time such as 2025-03-09T01:30 or 2025-03-09T06:30:00Z') from None


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


def read_json(text: str) -> Any:
    """JSON with its numbers as the text that they are: a list of workflow ids is a list of words."""
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error


def read_time_zone(value: Any) -> ZoneInfo:
    """The IANA time zone of that name."""
    name = str(value).strip()
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # ill-formed; a directory of the database; unknown
        hint = did_you_mean(name, available_timezones()) or "; use one such as UTC or Europe/Berlin"
        raise ValueError(f'"{name}" is no IANA time zone{hint}') from None


def check_url(text: str) -> str:
    """An http(s) address without credentials, query and fragment; the slash at its end is left out."""
    if not _is_address(text):
        raise ValueError(f'{_ADDRESS}, not "{mask_address(text)}"')
    return text.rstrip("/")


def check_intake_url(text: str) -> str:
    """The base address of an intake: paths of its API are added to it."""
    if base := re.fullmatch(r"(.+)/api/v\d(/.*)?", text):
        raise ValueError(f"must be the base address, without the path of a call: {base[1]}")
    return text


def check_ping_url(address: SecretStr) -> SecretStr:
    """An http(s) address to be called; whoever knows it can call it, so it is a secret and no message shows it."""
    if not _is_address(address.get_secret_value()):
        raise ValueError(_ADDRESS)
    return SecretStr(address.get_secret_value().rstrip("/"))


def check_site(text: str) -> str:
    """Datadog's site, the domain of the organisation."""
    if not _SITE.fullmatch(text.lower()):
        sites = "datadoghq.com, datadoghq.eu or us5.datadoghq.com"
        raise ValueError(f'must be a site such as {sites}, not "{mask_address(text)}"')
    return text.lower()


def check_quotes(secret: SecretStr) -> SecretStr:
    if is_quoted(secret.get_secret_value()):
        raise ValueError(QUOTED)
    return secret


def check_secret(secret: SecretStr) -> SecretStr:
    """A secret that an HTTP header can carry."""
    check_quotes(secret)
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("holds a blank, a line break or a character that no HTTP header can carry")
    return secret


def is_quoted(secret: str) -> bool:
    """Whether the quotes of a shell or of YAML have become a part of the value."""
    return len(secret) > 1 and secret[0] in "\"'" and secret[-1] == secret[0]


def expand_path(path: Path) -> Path:
    """``path`` with ``~`` as the home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but this user has no home directory: give the whole path") from None


def check_tag_name(text: str) -> str:
    """The name of a tag that no collector sets (https://docs.datadoghq.com/getting_started/tagging/#define-tags)."""
    if normalize_tag_name(text) in REQUIRED_TAGS:
        raise ValueError("is a tag that every sample has already; choose another name")
    if not text[:1].isalpha() or ":" in text or len(text) > 200:
        raise ValueError("a tag's name begins with a letter, has no colon and at most 200 characters")
    return text


def matching(pattern: str, message: str) -> AfterValidator:
    """Text of that form; ``message`` says what it must be."""
    expression = re.compile(pattern)

    def check(text: str) -> str:
        if not expression.fullmatch(text):
            raise ValueError(message)
        return text

    return AfterValidator(check)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            re.fullmatch(r"https?://[!-~]+", text) is not None
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or "?" in text or "#" in text)
        )
    except ValueError:  # a port that can't be
        return False


def _fold(word: str) -> str:
    return re.sub(r"[-_\s]", "", word).lower()
