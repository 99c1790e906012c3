"""Events to Datadog, through the official client, in a thread that nothing else waits for."""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio

from service.adapters.datadog_client import asked, client, model
from service.adapters.secrets import Secret
from service.domain.changes import Event
from service.domain.errors import Rejected, Unauthorized


class DatadogEvents:
    """Datadog's event stream at the base address ``url``; the API key is all it needs."""

    def __init__(self, url: str, key: Secret) -> None:
        self._url = url
        self._key = key

    async def send(self, event: Event) -> None:
        """Returns when Datadog took the event. Raises Unavailable, Rejected or Unauthorized."""
        try:
            await self._post(event)
        except Unauthorized:
            if not await self._key.ask_again():
                raise
            await self._post(event)

    async def _post(self, event: Event) -> None:
        key = (await self._key.get() or "").strip()
        if not key:
            raise Unauthorized(self._key.missing)
        # The import and the call take their time; neither may hold up a drain.
        await anyio.to_thread.run_sync(partial(_create, self._url, key, event), abandon_on_cancel=True)


def _create(url: str, key: str, event: Event) -> None:
    from datadog_api_client.v1.api.events_api import EventsApi
    from datadog_api_client.v1.model.event_create_request import EventCreateRequest

    body: dict[str, Any] = {
        "title": event.title,
        "text": event.text,
        "tags": list(event.tags),
        "alert_type": event.level,
        "date_happened": int(event.at.timestamp()),
        "aggregation_key": event.about,
    }
    try:
        request = model(EventCreateRequest, body)
    except ValueError as error:
        raise Rejected(str(error)) from error
    # One try: the announcer waits between tries without holding a thread.
    with client(url, key, tries=1) as made:
        asked(EventsApi(made).create_event, request, host=urlsplit(url).netloc, secrets=(key,))
