"""The simulated intake over HTTP: it must refuse what Datadog would not take as meant."""

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import zstandard

from service.demo.datadog import SimulatedDatadog
from service.demo.intake import MAX_COMPRESSED, MAX_RAW, AcceptedPoint
from service.demo.stage import serve

NOW = 1_760_000_000
SERIES, DISTRIBUTIONS = "/api/v2/series", "/api/v1/distribution_points"
GAUGE: dict[str, Any] = {"metric": "metta.a", "type": 3, "points": [{"timestamp": NOW, "value": 1.5}], "tags": ["a:b"]}
SAMPLES: dict[str, Any] = {"metric": "metta.d", "points": [[NOW, [1, 2.5]]], "tags": ["a:b"]}
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {"deflate": zlib.compress, "zstd1": zstandard.compress}


class Client(httpx.Client):
    """Posts to an intake as a careless client could."""

    def __init__(self, url: str, datadog: SimulatedDatadog) -> None:
        super().__init__(base_url=url, headers={"DD-API-KEY": "good", "Content-Type": "application/json"}, verify=False)
        self.datadog = datadog

    def send_body(self, body: Any, path: str = SERIES, encoding: str = "identity", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.post(path, content=content, headers={"Content-Encoding": encoding, **named})


@pytest.fixture
def intake() -> Iterator[Client]:
    datadog = SimulatedDatadog(api_keys={"good"}, now=lambda: float(NOW))
    with serve(datadog) as (url,), Client(url, datadog) as client:
        yield client


def test_a_good_series_is_taken_and_kept(intake: Client) -> None:
    count = {**GAUGE, "metric": "metta.c", "type": 1, "interval": 60}
    answer = intake.send_body({"series": [GAUGE, count]})
    assert (answer.status_code, answer.json()) == (202, {"errors": []})
    assert intake.datadog.points == [
        AcceptedPoint("metta.a", "gauge", ("a:b",), NOW, 1.5),
        AcceptedPoint("metta.c", "count", ("a:b",), NOW, 1.5, 60),
    ]
    assert (intake.datadog.accepted, intake.datadog.requests, intake.datadog.refused) == (2, {"202": 1}, 0)


def test_bodies_are_bounded_before_and_after_compression(intake: Client) -> None:
    text = json.dumps({"series": [{**GAUGE, "tags": []}]}).encode()
    full = text + b" " * (MAX_RAW - len(text))
    assert intake.send_body(zlib.compress(full), encoding="deflate").status_code == 202
    for encoding, compress in COMPRESS.items():
        assert intake.send_body(compress(full + b" "), encoding=encoding).status_code == 413
    bomb = zstandard.compress(b" " * 200_000_000)
    assert intake.send_body(bomb, encoding="zstd1").status_code == 413
    assert intake.send_body(full[:MAX_COMPRESSED]).status_code == 202
    assert intake.send_body(full[: MAX_COMPRESSED + 1]).status_code == 413


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Path and body of what is not JSON of that shape, or what Datadog would not take as meant."""
    good = json.dumps({"series": [GAUGE]}).encode()
    yield from ((SERIES, body) for body in (b"", b"[]", b"{}", b'{"series": []}', b'{"series": {}}'))
    yield from ((SERIES, good.replace(b"1.5", value)) for value in (b"1e999", b"NaN", b"Infinity"))
    yield SERIES, good.replace(b"a:b", b"a:\xff")
    changes: list[dict[str, Any]] = [
        *({"metric": name} for name in ("", "9lives", "with space", "with-dash", "é", "m" * 201, "m\n", None)),
        *({"tags": tags} for tags in ("a:b", [1], [""], ["1a:b"], [":b"], ["a:"], ["a:b\nc"], ["a:" + "b" * 199])),
        *({"type": kind} for kind in (0, 4, "gauge", None, 1, 2)),
        *({"type": 1, "interval": interval} for interval in (0, 1.5)),
        *({"points": points} for points in ([], None, [[NOW, 1]], [{"timestamp": NOW}])),
        *({"points": [{"timestamp": NOW, "value": value}]} for value in ("1", True, None)),
        *({"points": [{"timestamp": at, "value": 1}]} for at in (NOW + 0.5, str(NOW))),
        {"interval": -1},
        {"unknown": 1},
    ]
    for change in changes:
        yield SERIES, json.dumps({"series": [GAUGE, {**GAUGE, **change}]}).encode()
    points = (
        [{"timestamp": NOW, "value": 1}],
        [[NOW, 1]],
        [[NOW, []]],
        [[NOW, [1], 2]],
        [[NOW, ["1"]]],
        [[NOW + 0.5, [1]]],
    )
    changes = [*({"points": each} for each in points), {"type": "gauge"}, {"type": 3}, {"interval": 60}]
    for change in changes:
        yield DISTRIBUTIONS, json.dumps({"series": [{**SAMPLES, **change}]}).encode()


def test_what_datadog_would_not_take_as_meant_is_refused_with_the_reason(intake: Client) -> None:
    for path, body in bad_bodies():
        answer = intake.send_body(body, path)
        assert answer.status_code == 400, body
        assert answer.json()["errors"] == [intake.datadog.last_refusal]
    assert intake.datadog.accepted == 0


def test_points_out_of_the_time_window_are_dropped_without_a_word(intake: Client) -> None:
    times = [NOW - 3601, NOW - 3600, NOW, NOW + 600, NOW + 601]
    points = [{"timestamp": at, "value": 1} for at in times]
    assert intake.send_body({"series": [{**GAUGE, "points": points}]}).status_code == 202
    assert [each.at for each in intake.datadog.points] == times[1:4]
    assert (intake.datadog.accepted, intake.datadog.dropped) == (3, 2)


def test_keys_are_asked_for_as_datadog_does(intake: Client) -> None:
    for key in ("", "wrong"):
        answer = intake.send_body({"series": [GAUGE]}, DD_API_KEY=key)
        assert (answer.status_code, answer.json()) == (403, {"errors": ["Forbidden"]})
        assert intake.get("/api/v1/validate", headers={"DD-API-KEY": key}).status_code == 403
    assert intake.get("/api/v1/validate").json() == {"valid": True}
    assert intake.get("/api/v1/dashboard").status_code == 403, "the API asks for an application key, too"
    intake.datadog.api_keys = None
    assert intake.send_body({"series": [GAUGE]}, DD_API_KEY="any").status_code == 202
    assert intake.send_body({"series": [GAUGE]}, DD_API_KEY="").status_code == 403
