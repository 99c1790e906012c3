"""Boards and monitors name only what the collectors really send: judged by what a real run delivers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from service.demo.stage import Stage, stage
from service.domain.samples import normalize_tag
from tests.unit.boards.shapes import texts


def run(held: Stage, *args: str) -> str:
    """What the program prints."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "--config", str(held.config), *args],
        env={**os.environ, **held.environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def questions(query: str) -> Iterator[tuple[str, set[str], set[str], set[str]]]:
    """Metric, fixed tags, template variables and groups of each series that the query asks for."""
    for metric, scope, by in re.findall(r"\w+:(metta[\w.]+)\{([^}]*)\}(?: by \{([^}]*)\})?", query):
        parts = {part for part in scope.split(",") if part not in ("*", "")}
        variables = {part for part in parts if part.startswith("$")}
        excluded = {part for part in parts if part.startswith("!")}
        yield metric, parts - variables - excluded, variables, {name for name in by.split(",") if name}


def test_boards_and_monitors_name_only_what_the_collectors_send() -> None:
    with stage() as held:
        run(held, "--once")
        sent: dict[str, list[set[str]]] = {}
        for point in held.datadog.points:
            tags = {normalize_tag(*tag.partition(":")[::2]) for tag in point.tags}
            sent.setdefault(point.metric, []).append(tags)
        rendered: dict[str, Any] = json.loads(run(held, "datadog", "render"))
    asked = [query for kind in ("dashboards", "monitors") for query in texts(rendered[kind])]
    assert len(asked) > 40
    everywhere = {tag.partition(":")[0] for series in sent.values() for tags in series for tag in tags}
    for query in asked:
        series = list(questions(query))
        assert series, query
        for metric, fixed, variables, groups in series:
            assert {variable[1:] for variable in variables} <= everywhere, query
            # What the recording has nothing to measure of is drawn all the same: a check that is unknown.
            found = [{tag.partition(":")[0] for tag in tags} for tags in sent.get(metric, ()) if fixed <= tags]
            assert not sent.get(metric) or any(groups <= names for names in found), query
    assert {each["metric"] for each in rendered["metadata"]} >= set(sent)
    assert any("stablesuite.hearts{" in query for query in asked)
    states = {next(tag for tag in tags if tag.startswith("task:")) for tags in sent["metta.infra.check.state"]}
    assert "task:sps" in states
    assert held.datadog.refused == 0, held.datadog.last_refusal
