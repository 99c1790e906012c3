"""A simulated GitHub with an empty repository, and a client of it whose waits take no time."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from service.github.client import Github
from tests.world import Simulated, World, simulated

RUNS = "/repos/Metta-AI/metta/actions/runs"
WORKFLOWS = "/repos/Metta-AI/metta/actions/workflows"


class Total(msgspec.Struct):
    total_count: int


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:  # loading certificates would take longest
        yield client


@pytest.fixture
async def server() -> AsyncIterator[Simulated]:
    async with simulated(World.empty()) as simulation:
        yield simulation


@pytest.fixture
def github(server: Simulated, http: httpx.AsyncClient) -> Github:
    return server.client(http)
