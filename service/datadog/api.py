"""Datadog's API for dashboards, monitors and metadata, through the official client.

datadog_api_client is imported where it is used: the daemon does without it. Its calls block, so no event loop calls
them. Bodies and answers are plain JSON: its models drop what they do not know, and would hide a difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from service.config.clients import certificate_file, proxy_for, refuse_status, suggest_variable
from service.datadog.intake import find_errors, mask
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable

Json = dict[str, Any]

_CONNECT, _READ = 5.0, 30.0  # seconds; the client has no bound of its own
_TRIES = 4
_MAX_WAIT = 30.0  # seconds; the client would sleep however long the server says
_RETRIED = frozenset({429, 500, 502, 503, 504})
_PAGE = 100


class NotFound(Rejected):
    """Datadog does not have it."""


class DatadogApi:
    """The API at the base address ``url``. Use it in ``with``. Every method raises HealthError."""

    def __init__(self, url: str, api_key: str, app_key: str) -> None:
        from datadog_api_client.v1.api.dashboards_api import DashboardsApi
        from datadog_api_client.v1.api.metrics_api import MetricsApi
        from datadog_api_client.v1.api.monitors_api import MonitorsApi
        from datadog_api_client.v2.api.metrics_api import MetricsApi as TagsApi

        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._url, self._keys = url, (api_key, app_key)
        if not all(key.isascii() and key.isprintable() for key in self._keys):
            raise Unauthorized("the API key or the application key holds characters that no key has")
        self._client = _client(url, api_key, app_key)
        self._dashboards = boards = DashboardsApi(self._client)
        self._monitors = monitors = MonitorsApi(self._client)
        self._calls: Mapping[str, Sequence[Callable[..., Any]]] = {
            "dashboards": (boards.create_dashboard, boards.update_dashboard, boards.delete_dashboard),
            "monitors": (monitors.create_monitor, monitors.update_monitor, monitors.delete_monitor),
        }
        self._metrics = MetricsApi(self._client)
        self._tags = TagsApi(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._client.close()

    def dashboards(self) -> Iterator[Json]:
        """The summary of every dashboard: id, title, description, created_at."""

        def page(number: int) -> Any:
            answer = self._call(self._dashboards.list_dashboards, count=_PAGE, start=number * _PAGE)
            return answer.get("dashboards") if isinstance(answer, dict) else None

        return self._pages(page)

    def dashboard(self, dashboard_id: str) -> Json:
        """The whole dashboard."""
        return self._object(self._dashboards.get_dashboard, dashboard_id)

    def share_dashboard(self, dashboard_id: str) -> Json:
        """Makes a dashboard of free layout public to whoever knows the address: ``token`` and ``public_url``."""
        wish = {
            "dashboard_id": dashboard_id,
            "dashboard_type": "custom_screenboard",
            "share_type": "open",
            "global_time": {"live_span": "1h"},
        }
        return self._object(self._dashboards.create_public_dashboard, wish)

    def shared_dashboard(self, token: str) -> Json:
        """The share with ``token``. Raises NotFound."""
        return self._object(self._dashboards.get_public_dashboard, token)

    def monitors(self, tag: str) -> Iterator[Json]:
        """The monitors with ``tag``."""
        return self._pages(
            lambda number: self._call(self._monitors.list_monitors, monitor_tags=tag, page=number, page_size=_PAGE)
        )

    def create(self, kind: str, content: Json) -> Json:
        """What Datadog made of it. ``kind``, here and below: dashboards or monitors."""
        return self._object(self._calls[kind][0], content)

    def update(self, kind: str, id: str, content: Json) -> None:
        """Replaces a dashboard; changes the keys of a monitor that ``content`` has."""
        self._call(self._calls[kind][1], id if kind == "dashboards" else int(id), content)

    def delete(self, kind: str, id: str) -> None:
        """Raises NotFound where it is gone already, Rejected while somebody's SLO or composite is built on it."""
        self._call(self._calls[kind][2], id if kind == "dashboards" else int(id))

    def metadata(self, metric: str) -> Json:
        """Type, unit and description. Raises NotFound while Datadog has seen no point of the metric."""
        return self._object(self._metrics.get_metric_metadata, metric)

    def update_metadata(self, metric: str, facts: Json) -> None:
        """Raises NotFound while Datadog has seen no point of the metric."""
        self._call(self._metrics.update_metric_metadata, metric, facts)

    def tag_configuration(self, metric: str) -> Json:
        """Which tags of the metric can be queried, and whether it has percentiles. Raises NotFound."""
        data = self._object(self._tags.list_tag_configuration_by_name, metric).get("data") or {}
        attributes: Json = data.get("attributes") or {}
        return attributes

    def configure_tags(self, metric: str, attributes: Json, *, is_new: bool) -> None:
        """Sets the tag configuration."""
        data: Json = {"type": "manage_tags", "id": metric, "attributes": attributes}
        if is_new:
            self._call(self._tags.create_tag_configuration, metric, {"data": data})
            return
        data["attributes"] = {key: value for key, value in attributes.items() if key != "metric_type"}
        self._call(self._tags.update_tag_configuration, metric, {"data": data})

    def delete_tag_configuration(self, metric: str) -> None:
        """All tags can be queried again, without percentiles. Raises NotFound."""
        self._call(self._tags.delete_tag_configuration, metric)

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

    def _object(self, call: Callable[..., Any], *args: Any) -> Json:
        answer = self._call(call, *args)
        if not isinstance(answer, dict):
            raise Rejected(f"{self._host} does not answer with an object; is it Datadog's API?")
        return answer

    def _call(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """The answer's JSON, None where it has no text."""
        from datadog_api_client.exceptions import ApiException, OpenApiException
        from urllib3.exceptions import HTTPError

        try:
            text = call(*args, **named).data
        except ApiException as error:
            raise self._translate(error) from None
        except HTTPError as error:
            reason = f"{type(error).__name__} {error}{suggest_variable(error, self._url)}"
            raise Unavailable(self._mask(reason), ambiguous=True) from None
        except OpenApiException as error:
            raise Rejected(self._mask(str(error))) from None
        try:
            return msgspec.json.decode(text) if text else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Rejected(f"{self._host} does not answer with JSON; is it Datadog's API?") from error

    def _translate(self, error: Any) -> HealthError:
        errors = find_errors(error.body)
        reason = self._mask(f"{error.status} {'; '.join(errors or ()) or error.reason or ''}".rstrip())
        match error.status:
            case 401 | 403:
                # A proxy's page is no verdict on the keys.
                return Unavailable(f"{reason} (a proxy's answer?)") if errors is None else Unauthorized(reason)
            case 404:
                return NotFound(reason)
            case status if status < 400:
                return Unavailable(reason)
            case status:
                return refuse_status(status, reason, _rate_limit_reset(error.headers))

    def _mask(self, text: str) -> str:
        return mask(f"{self._host}: {text}", *self._keys)


def _client(url: str, api_key: str, app_key: str) -> Any:
    """The official client, reached as the environment's proxies say. Raises ConfigError for one that it can't use."""
    from datadog_api_client import ApiClient, Configuration
    from urllib3.exceptions import ProxySchemeUnknown

    keys = {"apiKeyAuth": api_key, "appKeyAuth": app_key}
    configuration = Configuration(
        host=url.rstrip("/"),
        api_key=keys,
        request_timeout=(_CONNECT, _READ),
        retry_policy=_retry_policy(),
        preload_content=False,
        check_input_type=False,
        ssl_ca_cert=certificate_file(),
        is_iac=True,
    )
    # Configuration takes keys and site from the environment, too; the settings have had their say on those.
    configuration.api_key = keys
    configuration.proxy = proxy_for(url)
    try:
        client = ApiClient(configuration)
    except ProxySchemeUnknown as error:
        raise ConfigError(f"Datadog's API client takes no proxy but http:// and https:// ones: {error}") from error
    client.user_agent = f"infra-health {client.user_agent}"
    return client


def _retry_policy() -> Any:
    from urllib3.util import Retry

    class Bounded(Retry):
        """Waits as X-RateLimit-Reset says, but not for ever; a POST is sent again only when it was not taken."""

        def get_retry_after(self, response: Any) -> float | None:
            wait = _rate_limit_reset(response.headers)
            return None if wait is None else min(wait, _MAX_WAIT)

        def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
            return status_code == 429 or (method != "POST" and status_code in _RETRIED)

    # ``redirect``: never follow to another address with the keys in hand.
    return Bounded(
        total=_TRIES - 1,
        redirect=0,
        backoff_factor=0.5,
        raise_on_status=False,
        raise_on_redirect=False,
        allowed_methods={"GET", "PUT", "PATCH", "DELETE"},
    )


def _rate_limit_reset(headers: Mapping[str, str] | None) -> float | None:
    seconds = str((headers or {}).get("X-RateLimit-Reset", ""))
    return float(seconds) if seconds.isdigit() else None
