"""The demo's stage: everything that the daemon is pointed at is really there, and nothing of it stays."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from service.demo.stage import stage


def test_the_stage_is_up_while_it_is_held_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment must not come between, and is the user's own again afterwards."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.com")
    with stage() as held:
        github, intake = held.environ["GITHUB_API_URL"], held.environ["DD_URL"]
        assert httpx.get(f"{github}/repos/ionic-team/ionic-framework").status_code == 200
        assert httpx.get(f"{intake}/api/v1/validate", headers={"dd-api-key": "other"}).status_code == 403
        keys = {"dd-api-key": held.environ["DD_API_KEY"], "dd-application-key": held.environ["DD_APP_KEY"]}
        assert httpx.get(f"{intake}/api/v1/dashboard", headers=keys).json() == {"dashboards": []}
        point = {"timestamp": int(datetime.now(UTC).timestamp()), "value": 1}
        series = {"series": [{"metric": "demo.stage", "type": 3, "points": [point], "tags": ["a:b"]}]}
        assert httpx.post(f"{intake}/api/v2/series", json=series, headers=keys).status_code == 202
        assert [point.metric for point in held.datadog.points] == ["demo.stage"]
        assert held.state_dir.parent == held.config.parent
        assert os.environ["no_proxy"] == "example.com,127.0.0.1"
        collectors = yaml.safe_load(held.config.read_text())["collectors"]
        for name in ("training", "eval"):
            records = json.loads(Path(collectors[name]["source"]).read_text())
            ages = [datetime.now(UTC) - datetime.fromisoformat(record["timestamp"]) for record in records]
            assert timedelta(minutes=5) <= min(ages) < timedelta(minutes=10)
    assert not held.config.parent.exists()
    assert os.environ["no_proxy"] == "example.com"
    for address in (github, intake):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, trust_env=False)


def test_what_goes_wrong_on_the_stage_comes_out_as_it_is() -> None:
    with pytest.raises(SystemExit, match="78"), stage():
        raise SystemExit(78)
