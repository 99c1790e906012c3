"""200 requests a second for a minute, 25 of them pages, beside a working collector and forty browsers that never rest:
errors, and how long /livez takes."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpx

from bench import Measured
from bench.daemon import ready, start
from service.demo.stage import stage

RATE = 200  # requests a second
SECONDS = 60
BROWSERS = 40
# What a page, a scraper and probes ask for; every second one is the liveness probe.
_ASKED = ("/livez", "/api/v1/collectors", "/livez", "/metrics", "/livez", "/api/v1/runs", "/livez", "/")


def run() -> Iterable[Measured]:
    with stage() as it:
        daemon = start(it)
        try:
            http = ready(daemon, it)
            load = asyncio.run(_load(str(http.base_url)))
            http.close()
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)
    lives = sorted(seconds for path, seconds in load.times if path == "/livez")
    others = sorted(seconds for path, seconds in load.times if path != "/livez")
    yield Measured("requests answered", len(load.times), "", RATE * SECONDS, counted=True)
    yield Measured("turned away with 503", load.busy, "", counted=True)
    yield Measured("answers to the browsers", load.browsed, "", counted=True)
    yield Measured("errors", sum(load.errors.values()), "", counted=True)
    yield Measured("runs of the collectors meanwhile", load.runs, "", counted=True)
    yield Measured("/livez, 50th percentile", 1000 * _percentile(lives, 0.5), "ms")
    yield Measured("/livez, 99th percentile", 1000 * _percentile(lives, 0.99), "ms")
    yield Measured("/livez, longest", 1000 * lives[-1], "ms")
    yield Measured("the others, 99th percentile", 1000 * _percentile(others, 0.99), "ms")


class _Load:
    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []
        self.errors: Counter[str] = Counter()
        self.busy = 0
        self.browsed = 0
        self.runs = 0


async def _load(address: str) -> _Load:
    """Requests at their instants, whether earlier ones are answered or not (an open loop), and runs without a pause."""
    assert urlsplit(address).hostname == "127.0.0.1"
    load = _Load()
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False, limits=limits) as http:

        async def ask(path: str, due: float) -> None:
            try:
                answer = await http.get(path)
                if answer.status_code == 200:
                    load.times.append((path, time.monotonic() - due))
                elif answer.status_code == 503 and path != "/livez":
                    load.busy += 1
                else:
                    load.errors[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                load.errors[type(error).__name__] += 1

        async def work() -> None:
            while True:
                answer = await http.post("/api/v1/collectors/ci/runs?wait=30")
                load.runs += answer.status_code == 200

        async def browse() -> None:
            """As static/page.js does, without its pauses, on a connection of its own."""
            async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as browser:
                while True:
                    for path in ("/api/v1/state", "/", "/tv", "/collectors/ci"):
                        try:
                            answer = await browser.get(path)
                        except httpx.HTTPError as error:
                            load.errors[type(error).__name__] += 1
                            continue
                        load.browsed += answer.status_code == 200
                        if answer.status_code == 503:
                            load.busy += 1
                            await asyncio.sleep(int(answer.headers["retry-after"]))
                        elif answer.status_code != 200:
                            load.errors[str(answer.status_code)] += 1

        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(work()), *(tasks.create_task(browse()) for _ in range(BROWSERS))]
            began = time.monotonic()
            for number in range(RATE * SECONDS):
                due = began + number / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(ask(_ASKED[number % len(_ASKED)], due))
            await asyncio.sleep(1)
            for other in others:
                other.cancel()
    return load


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
