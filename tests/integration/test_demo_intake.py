"""The demo's intake over real HTTP: it must refuse what Datadog would not take as meant."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import zstandard
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from service.demo.intake import MAX_BODY, MAX_POINTS, MAX_WIRE, AcceptedPoint, IntakeLog, intake_app
from service.demo.serving import served

NOW = 1_760_000_000
SERIES, DISTRIBUTIONS = "/api/v2/series", "/api/v1/distribution_points"
GAUGE: dict[str, Any] = {"metric": "metta.a", "type": 3, "points": [{"timestamp": NOW, "value": 1.5}], "tags": ["a:b"]}
SAMPLES: dict[str, Any] = {"metric": "metta.d", "points": [[NOW, [1, 2.5]]], "tags": ["a:b"]}


class Client:
    """Posts to an intake as a careless client could."""

    def __init__(self, url: str, log: IntakeLog) -> None:
        self.log = log
        self._http = httpx.Client(base_url=url, headers={"DD-API-KEY": "good", "Content-Type": "application/json"})

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self._http.get(path, headers=headers)

    def post(self, body: Any, path: str = SERIES, encoding: str = "", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if encoding:
            headers["Content-Encoding"] = encoding
        return self._http.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def close(self) -> None:
        self._http.close()


class Latest:
    """The ASGI app that is served: each test's own, behind one server for all."""

    app = intake_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def latest() -> Iterator[tuple[str, Latest]]:
    latest = Latest()
    with served(Starlette(routes=[Mount("/", latest)])) as (url,):
        yield url, latest


@pytest.fixture
def intake(latest: tuple[str, Latest]) -> Iterator[Client]:
    url, served_app = latest
    served_app.app = app = intake_app(keys={"good"}, now=lambda: float(NOW))
    client = Client(url, app.state.log)
    yield client
    client.close()


def test_a_good_series_is_taken_and_kept(intake: Client) -> None:
    count = {**GAUGE, "metric": "metta.c", "type": 1, "interval": 60}

    answer = intake.post({"series": [GAUGE, count]})

    assert (answer.status_code, answer.json()) == (202, {"errors": []})
    assert intake.log.points == [
        AcceptedPoint("metta.a", "gauge", ("a:b",), NOW, 1.5),
        AcceptedPoint("metta.c", "count", ("a:b",), NOW, 1.5, 60),
    ]
    assert (intake.log.accepted, intake.log.requests, intake.log.refused) == (2, 1, 0)


def test_a_good_distribution_is_taken_value_by_value(intake: Client) -> None:
    answer = intake.post({"series": [SAMPLES]}, DISTRIBUTIONS)

    assert (answer.status_code, answer.json()) == (202, {"status": "ok"})
    assert [(each.kind, each.value) for each in intake.log.points] == [("distribution", 1), ("distribution", 2.5)]


def test_each_known_encoding_is_understood(intake: Client) -> None:
    text = json.dumps({"series": [GAUGE]}).encode()
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(text)

    for encoding, body in {
        "": text,
        "identity": text,
        "deflate": zlib.compress(text),
        "gzip": gzip.compress(text),
        "zstd1": zstandard.compress(text),
    }.items():
        assert intake.post(body, encoding=encoding).status_code == 202, encoding
    assert intake.post(unsized, encoding="zstd1").status_code == 202
    assert intake.log.accepted == 6


@pytest.mark.parametrize("encoding", ["zstd", "br", "deflate, gzip"])
def test_an_unknown_encoding_is_refused(intake: Client, encoding: str) -> None:
    assert intake.post({"series": [GAUGE]}, encoding=encoding).status_code == 400


def test_the_distribution_endpoint_knows_deflate_alone(intake: Client) -> None:
    text = json.dumps({"series": [SAMPLES]}).encode()

    assert intake.post(zlib.compress(text), DISTRIBUTIONS, "deflate").status_code == 202
    assert intake.post(zstandard.compress(text), DISTRIBUTIONS, "zstd1").status_code == 400


Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {"deflate": zlib.compress, "gzip": gzip.compress, "zstd1": zstandard.compress}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_body_that_is_broken_or_cut_off_is_refused(intake: Client, encoding: str) -> None:
    text = json.dumps({"series": [GAUGE] * 50}).encode()

    assert intake.post(b"nonsense", encoding=encoding).status_code == 400
    assert intake.post(COMPRESS[encoding](text)[:-4], encoding=encoding).status_code == 400
    assert intake.log.accepted == 0


def test_bodies_are_bounded_before_and_after_compression(intake: Client) -> None:
    frame = len(json.dumps({"series": [{**GAUGE, "tags": []}]}).encode())
    blank = b" " * (MAX_BODY - frame)
    text = json.dumps({"series": [{**GAUGE, "tags": []}]}).encode()

    assert intake.post(zlib.compress(text + blank), encoding="deflate").status_code == 202
    for encoding, compress in COMPRESS.items():
        assert intake.post(compress(text + blank + b" "), encoding=encoding).status_code == 413
    assert intake.post(text + b" " * (MAX_WIRE - frame)).status_code == 202
    assert intake.post(text + b" " * (MAX_WIRE - frame + 1)).status_code == 413


def test_a_bomb_is_refused_without_being_unpacked(intake: Client) -> None:
    bomb = zlib.compress(b" " * 200_000_000)

    assert len(bomb) < MAX_WIRE
    assert intake.post(bomb, encoding="deflate").status_code == 413
    assert intake.post(zstandard.compress(b" " * 200_000_000), encoding="zstd1").status_code == 413


def test_the_number_of_points_is_bounded(intake: Client) -> None:
    def points(count: int) -> bytes:
        listed = [{"timestamp": NOW - number % 60, "value": 1} for number in range(count)]
        return zlib.compress(json.dumps({"series": [{**GAUGE, "points": listed}]}).encode())

    assert intake.post(points(MAX_POINTS), encoding="deflate").status_code == 202
    assert intake.post(points(MAX_POINTS + 1), encoding="deflate").status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"series": []}',
        b'{"series": {}}',
        b'{"series": [{}], "more": 1}',
        json.dumps({"series": [{**GAUGE, "points": [{"timestamp": NOW, "value": float("nan")}]}]}).encode(),
        json.dumps({"series": [{**GAUGE, "points": [{"timestamp": NOW, "value": float("inf")}]}]}).encode(),
        json.dumps({"series": [GAUGE]}).encode().replace(b"1.5", b"1e999"),
        json.dumps({"series": [GAUGE]}).encode().replace(b"a:b", b"a:\xff"),
    ],
)
def test_what_is_not_json_of_that_shape_is_refused(intake: Client, body: bytes) -> None:
    answer = intake.post(body)

    assert answer.status_code == 400
    assert answer.json()["errors"] == [intake.log.last_refusal]
    assert intake.log.accepted == 0


@pytest.mark.parametrize(
    "change",
    [
        {"metric": ""},
        {"metric": "9lives"},
        {"metric": "with space"},
        {"metric": "with-dash"},
        {"metric": "é"},
        {"metric": "m" * 201},
        {"metric": None},
        {"tags": "a:b"},
        {"tags": [1]},
        {"tags": [""]},
        {"tags": ["1a:b"]},
        {"tags": [":b"]},
        {"tags": ["a:"]},
        {"tags": ["a:b\nc"]},
        {"tags": ["a:" + "b" * 199]},
        {"type": 0},
        {"type": 4},
        {"type": "gauge"},
        {"type": None},
        {"type": 1},
        {"type": 2},
        {"type": 1, "interval": 0},
        {"type": 1, "interval": 1.5},
        {"interval": -1},
        {"points": []},
        {"points": None},
        {"points": [[NOW, 1]]},
        {"points": [{"timestamp": NOW}]},
        {"points": [{"timestamp": NOW, "value": "1"}]},
        {"points": [{"timestamp": NOW, "value": True}]},
        {"points": [{"timestamp": NOW, "value": None}]},
        {"points": [{"timestamp": NOW + 0.5, "value": 1}]},
        {"points": [{"timestamp": str(NOW), "value": 1}]},
        {"unknown": 1},
    ],
)
def test_a_series_that_datadog_would_not_take_as_meant_is_refused(intake: Client, change: dict[str, Any]) -> None:
    answer = intake.post({"series": [GAUGE, {**GAUGE, **change}]})

    assert answer.status_code == 400
    assert answer.json()["errors"][0].startswith("series[1]: ")
    assert intake.log.accepted == 0


@pytest.mark.parametrize(
    "change",
    [
        {"points": [{"timestamp": NOW, "value": 1}]},
        {"points": [[NOW, 1]]},
        {"points": [[NOW, []]]},
        {"points": [[NOW, [1], 2]]},
        {"points": [[NOW, ["1"]]]},
        {"points": [[NOW + 0.5, [1]]]},
        {"type": "gauge"},
        {"type": 3},
        {"interval": 60},
    ],
)
def test_a_distribution_that_datadog_would_not_take_as_meant_is_refused(intake: Client, change: dict[str, Any]) -> None:
    assert intake.post({"series": [{**SAMPLES, **change}]}, DISTRIBUTIONS).status_code == 400


def test_points_out_of_the_time_window_are_dropped_without_a_word(intake: Client) -> None:
    times = [NOW - 3601, NOW - 3600, NOW, NOW + 600, NOW + 601]
    points = [{"timestamp": at, "value": 1} for at in times]

    assert intake.post({"series": [{**GAUGE, "points": points}]}).status_code == 202
    assert [each.at for each in intake.log.points] == times[1:4]
    assert (intake.log.accepted, intake.log.dropped) == (3, 2)


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_missing_or_wrong_key_is_refused_as_datadog_does(intake: Client, key: str) -> None:
    answer = intake.post({"series": [GAUGE]}, DD_API_KEY=key)

    assert (answer.status_code, answer.json()) == (403, {"errors": ["Forbidden"]})
    assert intake.get("/api/v1/validate", **{"DD-API-KEY": key}).status_code == 403
    assert intake.log.accepted == 0


def test_a_good_key_is_valid(intake: Client) -> None:
    answer = intake.get("/api/v1/validate")

    assert (answer.status_code, answer.json()) == (200, {"valid": True})


def test_without_a_list_of_keys_any_key_is_good_but_none_is_not() -> None:
    app = intake_app(now=lambda: float(NOW))
    with served(app) as (url,):
        client = Client(url, app.state.log)
        assert client.post({"series": [GAUGE]}, DD_API_KEY="any").status_code == 202
        assert client.post({"series": [GAUGE]}, DD_API_KEY="").status_code == 403
        client.close()


def test_other_content_and_other_paths_are_refused(intake: Client) -> None:
    assert intake.post({"series": [GAUGE]}, Content_Type="text/plain").status_code == 400
    answer = intake.post({"series": [GAUGE]}, "/api/v1/series")
    assert (answer.status_code, answer.json()) == (404, {"errors": ["Not found"]})
    assert intake.get(SERIES).status_code == 405
