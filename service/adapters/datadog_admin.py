"""Dashboards, monitors and metric metadata in Datadog, through the official client. Blocking: no event loop here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from service.adapters.datadog_client import NotThere, asked, client, model
from service.domain.errors import Rejected

_PAGE = 100
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Keys:
    """Of Datadog: the API key says for whom, the application key who it is that asks."""

    api: str
    app: str


class DatadogAdmin:
    """Datadog's API at the base address ``url``. Every method raises HealthError; those that read raise it, too."""

    def __init__(self, url: str, keys: Keys) -> None:
        from datadog_api_client.v1.api.dashboards_api import DashboardsApi
        from datadog_api_client.v1.api.metrics_api import MetricsApi
        from datadog_api_client.v1.api.monitors_api import MonitorsApi
        from datadog_api_client.v2.api.metrics_api import MetricsApi as TagsApi

        self._client = client(url, keys.api, keys.app)
        self._dashboards = DashboardsApi(self._client)
        self._monitors = MonitorsApi(self._client)
        self._metrics = MetricsApi(self._client)
        self._tags = TagsApi(self._client)
        self._host = urlsplit(url).netloc
        self._ask = partial(asked, host=self._host, secrets=(keys.api, keys.app))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    # Dashboards

    def dashboards(self) -> Iterator[Json]:
        """The summary of every dashboard: id, title, description, created_at."""
        start, known = 0, set[Any]()
        while True:
            page = _json(self._ask(self._dashboards.list_dashboards, count=_PAGE, start=start)).get("dashboards") or []
            new = [each for each in self._rows(page) if each.get("id") not in known]
            yield from new
            known |= {each.get("id") for each in new}
            if len(page) < _PAGE or not new:
                return
            start += len(page)

    def dashboard(self, dashboard_id: str) -> Json:
        return _json(self._ask(self._dashboards.get_dashboard, dashboard_id))

    def create_dashboard(self, content: Mapping[str, Any]) -> Json:
        return _json(self._ask(self._dashboards.create_dashboard, _dashboard(content)))

    def update_dashboard(self, dashboard_id: str, content: Mapping[str, Any]) -> Json:
        return _json(self._ask(self._dashboards.update_dashboard, dashboard_id, _dashboard(content)))

    def delete_dashboard(self, dashboard_id: str) -> None:
        self._ask(self._dashboards.delete_dashboard, dashboard_id)

    def public_address(self, token: str) -> str | None:
        """The address of the open share with ``token``, None where there is none (any more)."""
        try:
            share = _json(self._ask(self._dashboards.get_public_dashboard, token))
        except NotThere:
            return None
        is_open = share.get("share_type") == "open" and share.get("status") in (None, "active")
        return str(share.get("public_url") or "") or None if is_open else None

    def share(self, dashboard_id: str, dashboard_type: str) -> tuple[str, str]:
        """Makes the dashboard public to whoever knows the address; token and address."""
        from datadog_api_client.v1.model.shared_dashboard import SharedDashboard

        wish = {
            "dashboard_id": dashboard_id,
            "dashboard_type": dashboard_type,
            "share_type": "open",
            "global_time": {"live_span": "1h"},
        }
        answer = _json(self._ask(self._dashboards.create_public_dashboard, _body(SharedDashboard, wish)))
        return str(answer.get("token") or ""), str(answer.get("public_url") or "")

    # Monitors

    def monitors(self, tag: str) -> Iterator[Json]:
        """The monitors with ``tag``."""
        page, known = 0, set[Any]()
        while True:
            found = self._ask(self._monitors.list_monitors, monitor_tags=tag, page=page, page_size=_PAGE) or []
            new = [each for each in self._rows(found) if each.get("id") not in known]
            yield from new
            known |= {each.get("id") for each in new}
            if len(found) < _PAGE or not new:
                return
            page += 1

    def create_monitor(self, content: Mapping[str, Any]) -> Json:
        from datadog_api_client.v1.model.monitor import Monitor

        return _json(self._ask(self._monitors.create_monitor, _body(Monitor, content)))

    def update_monitor(self, monitor_id: int, content: Mapping[str, Any]) -> Json:
        from datadog_api_client.v1.model.monitor_update_request import MonitorUpdateRequest

        return _json(self._ask(self._monitors.update_monitor, monitor_id, _body(MonitorUpdateRequest, content)))

    def delete_monitor(self, monitor_id: int) -> None:
        """Raises Rejected while somebody's SLO or composite monitor is built on it."""
        self._ask(self._monitors.delete_monitor, monitor_id)

    def _rows(self, answer: Any) -> list[Json]:
        """The objects of a list. Another answer is no empty list: a push would make everything a second time."""
        if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
            raise Rejected(f"{self._host} answers a list of objects with something else; is it Datadog's API?")
        return answer

    # Metadata

    def metric(self, name: str, *, with_tags: bool) -> Json | None:
        """``metadata`` and, where asked for and there, ``tags`` (its tag configuration). None: no such metric yet."""
        try:
            found: Json = {"metadata": _json(self._ask(self._metrics.get_metric_metadata, name))}
        except NotThere:
            return None
        if with_tags and (configured := self._tag_configuration(name)):
            found["tags"] = configured
        return found

    def update_metric(self, name: str, facts: Mapping[str, Any]) -> Json:
        """Raises NotThere while Datadog has not seen a point of it."""
        from datadog_api_client.v1.model.metric_metadata import MetricMetadata

        return _json(self._ask(self._metrics.update_metric_metadata, name, _body(MetricMetadata, facts)))

    def configure_tags(self, name: str, wish: Mapping[str, Any]) -> Json:
        """Sets which tags of a distribution can be queried and that it has percentiles."""
        from datadog_api_client.v2.model.metric_tag_configuration_create_request import (
            MetricTagConfigurationCreateRequest,
        )
        from datadog_api_client.v2.model.metric_tag_configuration_update_request import (
            MetricTagConfigurationUpdateRequest,
        )

        data = {"type": "manage_tags", "id": name}
        if self._tag_configuration(name) is None:
            body = _body(MetricTagConfigurationCreateRequest, {"data": {**data, "attributes": dict(wish)}})
            answer = self._ask(self._tags.create_tag_configuration, name, body)
        else:
            changed = {key: value for key, value in wish.items() if key != "metric_type"}
            body = _body(MetricTagConfigurationUpdateRequest, {"data": {**data, "attributes": changed}})
            answer = self._ask(self._tags.update_tag_configuration, name, body)
        return _attributes(answer)

    def forget_tags(self, name: str) -> None:
        """All tags can be queried again, without percentiles."""
        try:
            self._ask(self._tags.delete_tag_configuration, name)
        except NotThere:
            return

    def _tag_configuration(self, name: str) -> Json | None:
        try:
            return _attributes(self._ask(self._tags.list_tag_configuration_by_name, name))
        except NotThere:
            return None


def _body(kind: type, content: Mapping[str, Any]) -> Any:
    try:
        return model(kind, content)
    except ValueError as error:
        raise Rejected(str(error)) from error


def _dashboard(content: Mapping[str, Any]) -> Any:
    from datadog_api_client.v1.model.dashboard import Dashboard

    return _body(Dashboard, content)


def _json(answer: Any) -> Json:
    return answer if isinstance(answer, dict) else {}


def _attributes(answer: Any) -> Json:
    return _json(_json(_json(answer).get("data")).get("attributes"))
