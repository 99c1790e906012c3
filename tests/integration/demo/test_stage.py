"""The demo's stage: everything that the daemon is pointed at is really there, and nothing of it stays."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from service.config.clients import sync_http_client
from service.demo.stage import stage


def test_the_stage_is_up_while_it_is_held_and_leaves_nothing_behind() -> None:
    with stage() as held:
        github, intake = held.environ["GITHUB_API_URL"], held.environ["DD_URL"]
        # A proxy in the user's environment must not come between.
        with sync_http_client({"HTTP_PROXY": "http://127.0.0.1:9"}, base_url=github) as client:
            assert client.get("/repos/ionic-team/ionic-framework").status_code == 200
        keys = {"dd-api-key": held.environ["DD_API_KEY"], "dd-application-key": held.environ["DD_APP_KEY"]}
        with httpx.Client(base_url=intake, headers=keys, verify=False, trust_env=False) as client:
            assert client.get("/api/v1/validate", headers={"dd-api-key": "other"}).status_code == 403
            assert client.get("/api/v1/dashboard").json() == {"dashboards": []}
            point = {"timestamp": int(datetime.now(UTC).timestamp()), "value": 1}
            series = {"series": [{"metric": "demo.stage", "type": 3, "points": [point], "tags": ["a:b"]}]}
            assert client.post("/api/v2/series", json=series).status_code == 202
        assert [point.metric for point in held.datadog.points] == ["demo.stage"]
        collectors = yaml.safe_load(held.config.read_text())["collectors"]
        for name in ("training", "eval"):
            records = json.loads(Path(collectors[name]["source"]).read_text())
            ages = [datetime.now(UTC) - datetime.fromisoformat(record["timestamp"]) for record in records]
            assert timedelta(minutes=5) <= min(ages) < timedelta(minutes=10)
    assert not held.config.parent.exists()
    for address in (github, intake):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, verify=False, trust_env=False)
