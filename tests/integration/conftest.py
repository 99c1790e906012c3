"""One loopback server for all tests of this folder; what it answers is each test's own."""

from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from service.demo.stage import serve
from tests.datadog import ScriptedDatadog


@pytest.fixture(scope="session")
def shared_server() -> Iterator[list[ScriptedDatadog]]:
    """The last one of the list is served."""
    apps = [ScriptedDatadog()]

    async def latest(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[-1](scope, receive, send)

    with serve(latest) as (apps[0].url,):
        yield apps


@pytest.fixture
def server(shared_server: list[ScriptedDatadog]) -> ScriptedDatadog:
    """It answers as Datadog does, if no script says otherwise."""
    made = ScriptedDatadog()
    made.url = shared_server[0].url
    shared_server.append(made)
    return made
