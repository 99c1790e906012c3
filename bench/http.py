"""200 requests a second, 25 of them pages, beside a working collector and forty browsers that never rest."""

import http.client
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench import Measured, delays, processes
from bench.daemon import idle_stage, running

RATE = 200  # requests a second
SECONDS = 60.0
BROWSERS = 40
LANES = 16  # connections that share the rate
# What a page, a scraper and probes ask for; every second one is the liveness probe.
_ASKED = ("/livez", "/api/v1/collectors", "/livez", "/metrics", "/livez", "/api/v1/runs", "/livez", "/")
_BROWSED = ("/api/v1/state", "/", "/tv", "/collectors/ci")  # as static/page.js does, without its pauses
_RUN = ("/api/v1/collectors/ci/runs?wait=30",)
_BUSY = 503
_connect = partial(http.client.HTTPConnection, "127.0.0.1", timeout=30)

# Path, status (0: no answer), and seconds from the instant at which it was due.
Answer = tuple[str, int, float]


def run() -> Iterable[Measured]:
    with idle_stage() as it, running(it.config, it.environ) as daemon, processes(3) as pool:
        port = int(daemon.base.rpartition(":")[2])
        loads = (
            pool.submit(_in_threads, partial(_ask_steadily, port), LANES),
            pool.submit(_in_threads, partial(_ask_restlessly, port, "GET", _BROWSED), BROWSERS),
            pool.submit(_in_threads, partial(_ask_restlessly, port, "POST", _RUN), 1),
        )
        steady, browsed, runs = (load.result() for load in loads)
    statuses = Counter(status for _, status, _ in (*steady, *browsed))
    yield Measured("requests answered", len(steady), "", RATE * SECONDS)
    yield Measured("answers to the browsers", len(browsed))
    yield Measured("turned away with 503", statuses.pop(_BUSY, 0))
    yield Measured("errors", statuses.total() - statuses[200])
    yield Measured("runs of the collector meanwhile", sum(status == 200 for _, status, _ in runs))
    yield from delays("/livez", [seconds for path, _, seconds in steady if path == "/livez"])


def _in_threads(ask: Callable[[int], list[Answer]], count: int) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return [answer for answers in pool.map(ask, range(count)) for answer in answers]


def _ask_steadily(port: int, lane: int) -> list[Answer]:
    """One of LANES connections: each request is due at its instant, whether the one before came in time or not."""
    answers, connection, began = list[Answer](), _connect(port), time.monotonic()
    for number in range(lane, int(RATE * SECONDS), LANES):
        due, path = began + number / RATE, _ASKED[number % len(_ASKED)]
        time.sleep(max(0.0, due - time.monotonic()))
        answers.append((path, _ask(connection, "GET", path), time.monotonic() - due))
    return answers


def _ask_restlessly(port: int, method: str, paths: Sequence[str], place: int) -> list[Answer]:
    answers, connection, end = list[Answer](), _connect(port), time.monotonic() + SECONDS
    while (asked := time.monotonic()) < end:
        path = paths[(len(answers) + place) % len(paths)]
        answers.append((path, status := _ask(connection, method, path), time.monotonic() - asked))
        if status == _BUSY:
            time.sleep(1)
    return answers


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> int:
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0
    return answer.status
