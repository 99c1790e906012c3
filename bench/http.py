"""200 requests a second for a minute, 25 of them pages, beside a working collector and forty browsers that never rest:
errors, and how long /livez takes."""

import http.client
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from statistics import quantiles

from bench import Measured
from bench.daemon import idle_stage, running

RATE = 200  # requests a second
SECONDS = 60.0
BROWSERS = 40
LANES = 16  # connections that share the rate
# What a page, a scraper and probes ask for; every second one is the liveness probe.
_ASKED = ("/livez", "/api/v1/collectors", "/livez", "/metrics", "/livez", "/api/v1/runs", "/livez", "/")
_BROWSED = ("/api/v1/state", "/", "/tv", "/collectors/ci")  # as static/page.js does, without its pauses
_BUSY = 503

# Path, status, and seconds from the instant at which it was due.
Answer = tuple[str, int, float]


def run() -> Iterable[Measured]:
    # Each kind of load in a process of its own, so that it does not wait for another one's turn.
    spawn = multiprocessing.get_context("spawn")
    with idle_stage() as it, running(it.config, it.environ) as daemon, ProcessPoolExecutor(3, spawn) as pool:
        steady, browsed, runs = _load(pool, int(daemon.base.rpartition(":")[2]))
    statuses = Counter(status for _, status, _ in (*steady, *browsed))
    yield Measured("requests answered", len(steady), "", RATE * SECONDS, counted=True)
    yield Measured("answers to the browsers", len(browsed), "", counted=True)
    yield Measured("turned away with 503", statuses.pop(_BUSY, 0), "", counted=True)
    yield Measured("errors", statuses.total() - statuses[200], "", counted=True)
    yield Measured("runs of the collectors meanwhile", runs, "", counted=True)
    lives = [1000 * seconds for path, _, seconds in steady if path == "/livez"]
    cuts = quantiles(lives, n=100)
    yield Measured("/livez, 50th percentile", cuts[49], "ms")
    yield Measured("/livez, 99th percentile", cuts[98], "ms")
    yield Measured("/livez, longest", max(lives), "ms")


def _load(pool: Executor, port: int) -> tuple[list[Answer], list[Answer], int]:
    steady = pool.submit(_in_threads, _ask_steadily, port, LANES)
    browsed = pool.submit(_in_threads, _browse, port, BROWSERS)
    runs = pool.submit(_collect, port)
    return steady.result(), browsed.result(), runs.result()


def _in_threads(ask: Callable[[int, int], list[Answer]], port: int, count: int) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return [answer for answers in pool.map(partial(ask, port), range(count)) for answer in answers]


def _ask_steadily(port: int, lane: int) -> list[Answer]:
    """One of LANES connections: each request is due at its instant, whether the one before came in time or not."""
    answers, connection, began = list[Answer](), _connect(port), time.monotonic()
    for number in range(lane, int(RATE * SECONDS), LANES):
        due, path = began + number / RATE, _ASKED[number % len(_ASKED)]
        time.sleep(max(0.0, due - time.monotonic()))
        answers.append((path, _ask(connection, "GET", path), time.monotonic() - due))
    return answers


def _browse(port: int, place: int) -> list[Answer]:
    answers, connection, end = list[Answer](), _connect(port), time.monotonic() + SECONDS
    while (asked := time.monotonic()) < end:
        path = _BROWSED[(len(answers) + place) % len(_BROWSED)]
        answers.append((path, status := _ask(connection, "GET", path), time.monotonic() - asked))
        if status == _BUSY:
            time.sleep(1)
    return answers


def _collect(port: int) -> int:
    """Runs without a pause; how many."""
    connection, end = _connect(port), time.monotonic() + SECONDS
    runs = 0
    while time.monotonic() < end:
        runs += _ask(connection, "POST", "/api/v1/collectors/ci/runs?wait=30") == 200
    return runs


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> int:
    """The answer's status; 0 where there was none."""
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0
    return answer.status
