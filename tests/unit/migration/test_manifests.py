"""Random CronJob manifests: what comes over fires as Kubernetes would fire it, and nothing is lost on the way."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.collectors import registry
from service.config_sources import load
from service.domain import cron
from service.domain.errors import ConfigError
from service.migration import manifests, texts, write
from service.migration.plan import plan
from service.migration.workload import Workload

TYPES = {name: kind.Settings for name, kind in registry.installed().items()}
START = datetime(2025, 3, 1, tzinfo=UTC)


def field(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    single = numbers.map(str) | (st.sampled_from(names) if names else numbers.map(str))
    spans = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, 30).map(lambda step: f"*/{step}")
    parts = single | spans | steps | st.just("*")
    return st.lists(parts, min_size=1, max_size=3).map(",".join) | st.just("*") | st.just("?")


MONTHS = ("jan", "FEB", "Mar", "dec")
DAYS = ("sun", "MON", "Sat")
SCHEDULES = st.one_of(
    st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12, MONTHS), field(0, 6, DAYS)).map(" ".join),
    st.sampled_from(["@hourly", "@daily", "@weekly", "@monthly", "@every 1h30m", "@every 90s"]),
)
ZONES = st.sampled_from([None, "UTC", "Etc/UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata"])
COUNTS = st.none() | st.integers(0, 1000)


def optional(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@st.composite
def cronjobs(draw: st.DrawFn) -> dict[str, Any]:
    words = [
        "uv",
        "run",
        "python",
        "-m",
        "devops.datadog.cli",
        "collect",
        draw(st.sampled_from(["ci", "training", "eval"])),
    ]
    command = draw(
        st.sampled_from([{"command": [*words, "--push"]}, {"command": words[:5], "args": [*words[5:], "--push"]}])
        | st.just({"command": ["sh", "-c", " ".join([*words, "--push"])]})
    )
    job = optional(backoffLimit=draw(COUNTS), activeDeadlineSeconds=draw(st.none() | st.integers(1, 10**6)))
    template = {"spec": {"containers": [{"name": "c", "image": "i", **command}], "restartPolicy": "Never"}}
    spec = optional(
        schedule=draw(SCHEDULES),
        timeZone=draw(ZONES),
        suspend=draw(st.none() | st.booleans()),
        concurrencyPolicy=draw(st.none() | st.sampled_from(["Allow", "Forbid", "Replace"])),
        startingDeadlineSeconds=draw(COUNTS),
        successfulJobsHistoryLimit=draw(COUNTS),
        failedJobsHistoryLimit=draw(COUNTS),
    )
    spec["jobTemplate"] = {"spec": {**job, "template": template}}
    name = draw(st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True))
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


@given(st.lists(cronjobs(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_comes_over_fires_alike(tmp_path: Path, items: list[dict[str, Any]]) -> None:
    documents, _ = texts.read(yaml.safe_dump_all(items), "random")
    read = [manifests.workload(item, "random") for item in manifests.objects(documents)]
    result = plan(read, TYPES)
    file = tmp_path / "config.yaml"
    file.write_text(write.config(result))
    collectors = load(file, {}, TYPES).settings.collectors
    carried = [stanza for stanza in result.stanzas if not stanza.why_not]
    assert list(collectors) == [stanza.name for stanza in carried]
    assert len(result.stanzas) == len(items)
    for item, stanza in zip(items, result.stanzas, strict=True):
        spec, job = item["spec"], item["spec"]["jobTemplate"]["spec"]
        zone = ZoneInfo(spec.get("timeZone", "UTC"))
        original = fires(spec["schedule"], zone)
        if stanza.why_not:
            assert not original, f"{spec['schedule']} was refused: {stanza.why_not}"
            continue
        ours = collectors[stanza.name]
        assert fires(ours.schedule, ours.time_zone) == original
        assert ours.enabled is not spec.get("suspend", False)
        assert ours.concurrency_policy.value == spec.get("concurrencyPolicy", "Allow")
        assert ours.backoff_limit == job.get("backoffLimit", 6)
        assert ours.successful_runs_history_limit == spec.get("successfulJobsHistoryLimit", 3)
        assert ours.failed_runs_history_limit == spec.get("failedJobsHistoryLimit", 1)
        deadline = ours.starting_deadline
        assert (deadline.total_seconds() if deadline is not None else None) == spec.get("startingDeadlineSeconds")
        assert ours.active_deadline.total_seconds() == job.get("activeDeadlineSeconds", 300)


def fires(schedule: str, zone: ZoneInfo) -> list[datetime]:
    """The first instants, across a change to summer time."""
    found: list[datetime] = []
    while len(found) < 12 and (fire := cron.parse(schedule).next(found[-1] if found else START, zone)):
        found.append(fire.astimezone(UTC))
    return found


@given(
    st.recursive(
        st.none() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "spec",
                        "kind",
                        "metadata",
                        "items",
                        "jobTemplate",
                        "template",
                        "containers",
                        "command",
                        "env",
                        "name",
                        "schedule",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_object_breaks_the_reading(item: Any) -> None:
    for each in manifests.objects([{"kind": "CronJob", "spec": item, "metadata": item}, item]):
        assert isinstance(manifests.workload(each, "random"), Workload)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{{- range $i, $e := .list }}", ["{{- range $i, $e := .list }}: what follows was read as if it held, once"]),
        ("{{ if .x }}", ["{{ if .x }}: what follows was read as if it held, once"]),
        ("{{/* a comment\nover lines */}}", []),
        ("{{ $x := 1 }}", []),
        ("  {{- end -}}", []),
        (
            "{{ toYaml .Values.more | indent 2 }}",
            ["{{ toYaml .Values.more | indent 2 }} is known to the template alone"],
        ),
    ],
)
def test_lines_that_only_steer_a_template_leave_no_value(line: str, told: list[str]) -> None:
    documents, unsure = texts.read(f"a: 1\n{line}\nb: {{{{ .Values.b }}}}\n", "template")
    assert (documents, unsure) == ([{"a": "1", "b": "{{ .Values.b }}"}], told)


def test_of_a_templates_branches_none_is_taken_for_the_value() -> None:
    choice = '{{ if .p }}"1 * * * *"{{ else }}"2 * * * *"{{ end }}'
    documents, _ = texts.read(f"a: {choice}\n", "template")
    assert documents == [{"a": choice}]
    documents, unsure = texts.read('{{ if .p }}\na: "1"\n{{ else }}\na: "2"\n{{ end }}\n', "template")
    assert texts.is_template(documents[0]["a"])
    assert "line 4: a is there twice; the template alone knows which one counts" in unsure


def test_a_key_that_stands_twice_is_told() -> None:
    assert texts.read("a: 1\nb: &x {c: 1}\na: 2\nd:\n  <<: *x\n  <<: *x\n", "x") == (
        [{"a": "2", "b": {"c": "1"}, "d": {"c": "1"}}],
        ["line 3: a is there twice; the last one counts"],
    )


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, <<: *a{i - 1}}}\n" for i in range(1, 60)),
        "a: &a [*a]",
        "!!python/object/apply:os.system [id]",
    ],
    ids=["aliases of aliases", "merges of merges", "an alias of itself", "a tag that would run something"],
)
def test_hostile_yaml_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match="source"):
        texts.read(text, "source")
