"""Datadog's API for dashboards, monitors and metadata, as plain JSON. It blocks, so no event loop calls it.

https://docs.datadoghq.com/api/latest/
"""

import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Self

import httpx
import msgspec

from service.config.clients import describe_error, suggest_variable, sync_http_client
from service.datadog.intake import NOT_SENT, mask_line, read_errors
from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable

Json = dict[str, Any]

_TIMEOUT = httpx.Timeout(30, connect=5)
_BACK_OFF = (0.5, 1.0, 2.0)  # seconds between the tries
_MAX_WAIT = 30.0  # seconds, however long the server says
_HEADERS = {"Content-Type": "application/json"}
_RETRIED = frozenset({500, 502, 503, 504})
_PAGE = 100
_PATHS = {"dashboards": "/api/v1/dashboard", "monitors": "/api/v1/monitor"}


class NotFound(Rejected):
    """Datadog does not have it."""


class DatadogApi:
    """The API at the base address ``url``. Use it in ``with``. Every method raises HealthError.

    ``kind``: dashboards or monitors.
    """

    def __init__(self, url: str, api_key: str, app_key: str) -> None:
        self._keys = (api_key, app_key)
        if not all(key.isascii() and key.isprintable() for key in self._keys):
            raise Unauthorized("the API key or the application key holds characters that no key has")
        keys = {"DD-API-KEY": api_key, "DD-APPLICATION-KEY": app_key, "User-Agent": "infra-health"}
        self._client = sync_http_client(os.environ, base_url=url, timeout=_TIMEOUT, headers=keys)
        self._host = self._client.base_url.host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._client.close()

    def dashboards(self) -> Iterator[Json]:
        """The summary of every dashboard: id, title, description, created_at."""

        def page(number: int) -> Any:
            answer = self._object("GET", _PATHS["dashboards"], count=_PAGE, start=number * _PAGE)
            return answer.get("dashboards")

        return self._pages(page)

    def dashboard(self, dashboard_id: str) -> Json:
        """The whole dashboard."""
        return self._object("GET", f"/api/v1/dashboard/{dashboard_id}")

    def share_dashboard(self, dashboard_id: str) -> Json:
        """Makes a dashboard of free layout public to whoever knows the address: ``token`` and ``public_url``."""
        wish = {
            "dashboard_id": dashboard_id,
            "dashboard_type": "custom_screenboard",
            "share_type": "open",
            "global_time": {"live_span": "1h"},
        }
        return self._object("POST", "/api/v1/dashboard/public", wish)

    def shared_dashboard(self, token: str) -> Json:
        """The share with ``token``. Raises NotFound."""
        return self._object("GET", f"/api/v1/dashboard/public/{token}")

    def monitors(self, tag: str) -> Iterator[Json]:
        """The monitors with ``tag``."""
        path = _PATHS["monitors"]
        return self._pages(lambda number: self._ask("GET", path, monitor_tags=tag, page=number, page_size=_PAGE))

    def create(self, kind: str, content: Json) -> Json:
        """What Datadog made of it."""
        return self._object("POST", _PATHS[kind], content)

    def update(self, kind: str, id: str, content: Json) -> None:
        """Replaces a dashboard; changes the keys of a monitor that ``content`` has."""
        self._ask("PUT", f"{_PATHS[kind]}/{id}", content)

    def delete(self, kind: str, id: str) -> None:
        """Raises NotFound where it is gone already, Rejected while somebody's SLO or composite is built on it."""
        self._ask("DELETE", f"{_PATHS[kind]}/{id}")

    def metadata(self, metric: str) -> Json:
        """Type, unit and description. Raises NotFound while Datadog has seen no point of the metric."""
        return self._object("GET", f"/api/v1/metrics/{metric}")

    def update_metadata(self, metric: str, facts: Json) -> None:
        """Raises NotFound while Datadog has seen no point of the metric."""
        self._ask("PUT", f"/api/v1/metrics/{metric}", facts)

    def tag_configuration(self, metric: str) -> Json:
        """Which tags of the metric can be queried, and whether it has percentiles. Raises NotFound."""
        data = self._object("GET", f"/api/v2/metrics/{metric}/tags").get("data") or {}
        attributes: Json = data.get("attributes") or {}
        return attributes

    def configure_tags(self, metric: str, attributes: Json, *, is_new: bool) -> None:
        """Sets the tag configuration."""
        if not is_new:
            attributes = {key: value for key, value in attributes.items() if key != "metric_type"}
        body = {"data": {"type": "manage_tags", "id": metric, "attributes": attributes}}
        self._ask("POST" if is_new else "PATCH", f"/api/v2/metrics/{metric}/tags", body)

    def delete_tag_configuration(self, metric: str) -> None:
        """All tags can be queried again, without percentiles. Raises NotFound."""
        self._ask("DELETE", f"/api/v2/metrics/{metric}/tags")

    def _pages(self, page: Callable[[int], Any]) -> Iterator[Json]:
        known: set[Any] = set()
        for number in count():
            found = page(number)
            # Another answer is no empty list: a push would make everything a second time.
            if not isinstance(found, list) or not all(isinstance(each, dict) and "id" in each for each in found):
                raise Rejected(f"{self._host} does not answer with a list of objects; is it Datadog's API?")
            new = [each for each in found if each["id"] not in known]
            yield from new
            known.update(each["id"] for each in new)
            if len(new) < _PAGE:
                return

    def _object(self, method: str, path: str, body: Json | None = None, **query: int) -> Json:
        answer = self._ask(method, path, body, **query)
        if not isinstance(answer, dict):
            raise Rejected(f"{self._host} does not answer with an object; is it Datadog's API?")
        return answer

    def _ask(self, method: str, path: str, body: Json | None = None, **query: str | int) -> Any:
        """The answer's JSON, None where it has no text."""
        answer = self._send(method, path, body, query)
        if not answer.is_success:
            raise self._translate(answer)
        try:
            return msgspec.json.decode(answer.content) if answer.content else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Rejected(f"{self._host} does not answer with JSON; is it Datadog's API?") from error

    def _send(self, method: str, path: str, body: Json | None, query: Json) -> httpx.Response:
        """The answer, asked for again where that may help; a POST only where it was not taken. No redirect is followed
        with the keys in hand."""
        content = None if body is None else msgspec.json.encode(body)
        for pause in (*_BACK_OFF, None):
            try:
                answer = self._client.request(method, path, params=query, content=content, headers=_HEADERS)
            except httpx.HTTPError as error:
                if pause is None or (method == "POST" and not isinstance(error, NOT_SENT)):
                    hint = suggest_variable(error, str(self._client.base_url))
                    raise Unavailable(self._mask(describe_error(error) + hint), ambiguous=True) from None
                time.sleep(pause)
                continue
            is_retried = answer.status_code == 429 or (method != "POST" and answer.status_code in _RETRIED)
            if pause is None or not is_retried:
                break
            asked = _rate_limit_reset(answer)
            time.sleep(pause if asked is None else min(asked, _MAX_WAIT))
        return answer

    def _translate(self, answer: httpx.Response) -> HealthError:
        errors = read_errors(answer.content)
        reason = self._mask(f"{answer.status_code} {'; '.join(errors or ()) or answer.reason_phrase}")
        match answer.status_code:
            case 401 | 403:
                # A proxy's page is no verdict on the keys.
                return Unavailable(f"{reason} (a proxy's answer?)") if errors is None else Unauthorized(reason)
            case 404:
                return NotFound(reason)
            case 413:
                return TooLarge(reason)
            case 408 | 429:
                return Unavailable(reason, retry_after=_rate_limit_reset(answer))
            case status if status >= 500 or status < 400:
                return Unavailable(reason)
        return Rejected(reason)

    def _mask(self, text: str) -> str:
        return mask_line(f"{self._host}: {text}", *self._keys)


def _rate_limit_reset(answer: httpx.Response) -> float | None:
    asked = answer.headers.get("x-ratelimit-reset", "")
    return float(asked) if asked.isdigit() else None
