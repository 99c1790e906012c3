"""Datadog's intake: sends bodies and translates every answer into the errors that the delivery acts on.

    202, 200               taken
    400, 422               Rejected: something in the body is wrong
    413                    TooLarge, whoever says it (a proxy's limit counts as well)
    401, 403               Unauthorized when Datadog says it; Unavailable when a proxy does
    429                    Unavailable until X-RateLimit-Reset
    any other, no answer   Unavailable: kept and tried again, a wrong DD_URL (404, 3xx) included

Ambiguous is only a request that was sent and got no answer at all. An answer of 408 or 5xx says that the intake did not
take the body; a gateway that answers 502 or 504 may be wrong about that, but while one does so for minutes, each
distribution counted as uncertain would be a certain loss against a possible double (docs/decisions/0002).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import anyio
import httpx
import orjson
import structlog

from service import __version__
from service.adapters import datadog_payload
from service.adapters.retry_after import http_date
from service.adapters.secrets import Secret
from service.config import DatadogSettings
from service.domain.errors import Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.points import Payload, Point
from service.domain.samples import Kind

log = structlog.get_logger(__name__)

_PATH = {Kind.DISTRIBUTION: "/api/v1/distribution_points"}
_SERIES_PATH = "/api/v2/series"
_TIMEOUT = httpx.Timeout(20, connect=5, pool=5)
_WHOLE = 30.0  # seconds for the request and its answer, however slowly they trickle
_VALIDATE = 10.0
_LONGEST_ANSWER = 65_536  # bytes
_LONGEST_REASON = 300  # characters
_SKEW = 60.0  # seconds; Datadog drops what is ten minutes ahead or an hour behind

# The body did not leave this machine whole, so nobody can have taken it.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.WriteTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)


def intake_url(settings: DatadogSettings) -> str:
    """The base address of the intake: DD_URL, else that of the site."""
    return settings.url or f"https://api.{settings.site}"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DatadogIntake:
    """The intake at the base address ``url``, reached as HTTP(S)_PROXY and NO_PROXY say.

    ``clock_skew``: seconds by which our clock is ahead of the intake's Date header, None while unknown.
    ``requests``: answers so far by status; "error" where none came.
    """

    def __init__(self, url: str, key: Secret, now: Callable[[], datetime] = _utc_now) -> None:
        self.clock_skew: float | None = None
        self.requests: Counter[str] = Counter()
        self._url = url.rstrip("/")
        self._key = key
        self._http = httpx.AsyncClient(timeout=_TIMEOUT)
        self._now = now
        self._host = httpx.URL(url).host
        self._clock_is_wrong = False

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def encode(self, points: Sequence[Point]) -> Payload:
        """As in ``datadog_payload.encode``."""
        return datadog_payload.encode(points)

    async def send(self, payload: Payload) -> None:
        """Returns when the intake took ``payload``. Raises Unavailable, Rejected, Unauthorized or TooLarge."""
        key = await self._usable_key()
        try:
            await self._post(payload, key)
        except Unauthorized:
            if not await self._key.ask_again():
                raise
            await self._post(payload, await self._usable_key())

    async def validate(self) -> None:
        """Returns when the intake takes the key. Nothing is sent. Raises Unauthorized, Unavailable or Rejected.

        https://docs.datadoghq.com/api/latest/authentication/#validate-api-key
        """
        headers = {"DD-API-KEY": await self._usable_key(), "User-Agent": f"infra-health/{__version__}"}
        try:
            with anyio.fail_after(_VALIDATE):
                response = await self._http.get(f"{self._url}/api/v1/validate", headers=headers)
        except TimeoutError as error:
            raise Unavailable(f"{self._host}: no answer within {_VALIDATE:.0f} s") from error
        except httpx.HTTPError as error:
            text = _masked(f"{type(error).__name__} {error}", headers["DD-API-KEY"])
            raise Unavailable(f"{self._host}: {text}") from error
        self._compare_clocks(response.headers.get("date"))
        if response.status_code in (401, 403):
            raise Unauthorized(f"{self._host} answered {response.status_code}: the {self._key.title} is refused")
        if response.status_code != 200:
            raise Rejected(f"{self._host} answers, but not as Datadog does ({response.status_code})")

    async def _usable_key(self) -> str:
        key = (await self._key.get() or "").strip()
        if not key:
            # While AWS can't be reached the key may come any minute; without a source nobody brings one.
            raise Unavailable(self._key.missing) if self._key.may_pass else Unauthorized(self._key.missing)
        if not (key.isascii() and key.isprintable()):
            raise Unauthorized(f"the {self._key.title} holds characters that no key has: {self._key.remedy}")
        return key

    async def _post(self, payload: Payload, key: str) -> None:
        headers = {
            "DD-API-KEY": key,
            "Content-Type": "application/json",
            "Content-Encoding": "deflate" if payload.kind is Kind.DISTRIBUTION else "zstd1",
            "Accept-Encoding": "identity",
            "User-Agent": f"infra-health/{__version__}",
        }
        request = self._http.build_request(
            "POST",
            self._url + _PATH.get(payload.kind, _SERIES_PATH),
            content=payload.body,
            headers=headers,
        )
        try:
            with anyio.fail_after(_WHOLE):
                response = await self._http.send(request, stream=True)
                try:
                    text = await _read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            self.requests["error"] += 1
            raise Unavailable(f"{self._host}: no answer within {_WHOLE:.0f} s", ambiguous=True) from error
        except httpx.HTTPError as error:
            self.requests["error"] += 1
            reason = _masked(f"{type(error).__name__} {error}", key)
            raise Unavailable(f"{self._host}: {reason}", ambiguous=not isinstance(error, _NOT_SENT)) from error
        self.requests[str(response.status_code)] += 1
        self._judge(response, text, key)

    def _judge(self, response: httpx.Response, text: bytes, key: str) -> None:
        status = response.status_code
        errors = _errors(text)
        said = _masked("; ".join(errors), key) if errors else ""
        is_page = "html" in response.headers.get("content-type", "").lower()
        answer = f"{self._host} answered {status}" + (f": {said}" if said else "")
        if not is_page:
            self._compare_clocks(response.headers.get("date"))
        if status in (200, 202) and not is_page:
            if said:
                log.warning("the intake took a request with remarks", remarks=said)
            return
        if status in (400, 422) and not is_page:
            raise Rejected(answer if said else f"{answer}: {_masked(text.decode(errors='replace'), key)}")
        if status == 413:
            raise TooLarge(answer)
        if status in (401, 403):
            if errors is None:
                raise Unavailable(f"{answer}, but not as Datadog does: is a proxy in between?")
            raise Unauthorized(f"{answer}; the {self._key.title} is refused")
        if status < 400 or status in (404, 405):
            raise Unavailable(f"{answer}, which no intake does: is DD_URL right?")
        raise Unavailable(answer, retry_after=self._wait(response), answered=status >= 500)

    def _wait(self, response: httpx.Response) -> float | None:
        """Seconds that the answer asks to wait. Datadog puts them in X-RateLimit-Reset, others in Retry-After."""
        asked: str = response.headers.get("retry-after", "").strip()
        if response.status_code == 429:
            asked = response.headers.get("x-ratelimit-reset", asked).strip()
        if re.fullmatch(r"\d{1,9}(\.\d+)?", asked):
            return float(asked)
        until = http_date(asked)
        return max(0.0, (until - self._now()).total_seconds()) if until else None

    def _compare_clocks(self, date: str | None) -> None:
        theirs = http_date(date or "")
        if theirs is None:
            return
        self.clock_skew = (self._now() - theirs).total_seconds()
        is_wrong = abs(self.clock_skew) > _SKEW
        if is_wrong and not self._clock_is_wrong:
            # Points keep their time: a second clock would only hide which one is wrong.
            log.warning("this machine's clock differs from the intake's", ahead_seconds=round(self.clock_skew))
        elif self._clock_is_wrong and not is_wrong:
            log.info("this machine's clock agrees with the intake's again", ahead_seconds=round(self.clock_skew))
        self._clock_is_wrong = is_wrong


async def _read(response: httpx.Response) -> bytes:
    """The answer's text, bounded. The status alone decides, so a text that breaks off is as good as none."""
    text = bytearray()
    try:
        async for chunk in response.aiter_raw():
            text += chunk
            if len(text) > _LONGEST_ANSWER:
                break
    except httpx.HTTPError:
        log.debug("the intake's answer broke off", status=response.status_code)
    return bytes(text[:_LONGEST_ANSWER])


def _errors(text: bytes) -> list[str] | None:
    """What Datadog's ``{"errors": [...]}`` says, None when the answer is not of that form and so not Datadog's."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return None
    return [error if isinstance(error, str) else orjson.dumps(error).decode() for error in errors]


def _masked(text: str, key: str) -> str:
    """``text`` on one line, without the key, cut to a length that a log line bears."""
    plain = "".join(char if char.isprintable() else " " for char in text[: 10 * _LONGEST_REASON])
    line = " ".join(plain.replace(key, "***").split())
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…"
