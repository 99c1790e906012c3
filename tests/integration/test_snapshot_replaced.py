"""Snapshots that are replaced while they are read: one of them whole, or an error; never a mixture, and none missed."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from service.adapters import snapshots
from service.domain.errors import Unavailable
from tests.integration.scripted_intake import Answer, scripted

# Puts ever new files of one number each in the place of the path.
WRITER = """
import itertools, pathlib, sys
path = pathlib.Path(sys.argv[1])
draft = path.with_suffix(".tmp")
for number in itertools.count(1):
    draft.write_text(f"{number}," * 40_000)
    draft.replace(path)
"""


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture
def replaced(tmp_path: Path) -> Iterator[Path]:
    """A file that another process replaces all the time."""
    path = tmp_path / "a.json"
    path.write_text("0," * 40_000)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    yield path
    writer.kill()
    writer.wait()


async def test_a_file_that_is_replaced_all_the_time_is_read_whole(replaced: Path, http: httpx.AsyncClient) -> None:
    seen: set[bytes] = set()
    while len(seen) < 10:
        content = await snapshots.read(str(replaced), http)
        assert content
        numbers = set(content.body.split(b","))
        assert (len(content.body.split(b",")), len(numbers)) == (40_001, 2)  # one number, and what is behind the last
        seen |= numbers


async def test_an_answer_that_breaks_off_is_no_snapshot_and_the_next_one_is_read(http: httpx.AsyncClient) -> None:
    async with scripted(
        Answer(200, b"[1]", {"ETag": '"a"'}),
        Answer(200, b"[2, 2, 2", {"ETag": '"b"', "Transfer-Encoding": "chunked"}),  # no chunk: the rest never comes
        Answer(200, b"[3]", {"ETag": '"c"'}),
    ) as server:
        reader = snapshots.Reader(server.url, http, longest=1000, token=None)
        assert (await reader.read()).body == b"[1]"
        with pytest.raises(Unavailable, match="no answer"):
            await reader.read()
        assert (await reader.read()).body == b"[3]"
        assert [request.headers.get("if-none-match") for request in server.requests] == [None, '"a"', '"a"']


async def test_a_replacement_within_the_second_of_its_date_is_seen(http: httpx.AsyncClient) -> None:
    """Dates have whole seconds, and simple servers have nothing else to tell two publications apart."""
    second = datetime(2025, 1, 14, 15, tzinfo=UTC)
    dates = {"Last-Modified": format_datetime(second, usegmt=True), "Date": format_datetime(second, usegmt=True)}
    later = dates | {"Date": format_datetime(second + timedelta(seconds=1), usegmt=True)}
    async with scripted(Answer(200, b"[1]", dates), Answer(200, b"[2]", later), Answer(304, b"")) as server:
        reader = snapshots.Reader(server.url, http, longest=1000, token=None)
        first, second_one, third = [await reader.read() for _ in range(3)]
    assert [request.headers.get("if-modified-since") for request in server.requests] == [
        None,
        None,
        dates["Last-Modified"],
    ]
    assert (first.body, second_one.body, third.body) == (b"[1]", b"[2]", b"[2]")
    assert first.version != second_one.version  # a count without a time is of another publication
