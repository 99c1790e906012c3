"""A simulated GitHub with an empty repository, and a client of it whose waits take no time."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from service.github.client import Github
from tests.world import InProcess, Simulated, World

RUNS = "/repos/Metta-AI/metta/actions/runs"
WORKFLOWS = "/repos/Metta-AI/metta/actions/workflows"


class Total(msgspec.Struct):
    total_count: int


@pytest.fixture
def server() -> Simulated:
    return Simulated(World.empty())


@pytest.fixture
async def http(server: Simulated) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=InProcess(server.app)) as client:
        yield client


@pytest.fixture
def github(server: Simulated, http: httpx.AsyncClient) -> Github:
    return server.client(http)
