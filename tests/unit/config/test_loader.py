"""What an operator may rely on: which value wins, how it may be written, and what each mistake is told as."""

import re
import textwrap
from collections.abc import Mapping
from datetime import timedelta
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from service.collectors.github_ci import GithubCiSettings
from service.collectors.github_ci.settings import Thresholds
from service.collectors.registry import settings_of
from service.collectors.snapshot import SnapshotSettings
from service.config.fields import format_duration, read_duration
from service.config.loader import Loaded, load
from service.config.settings import Settings, describe, differences, secret_values
from service.domain.errors import ConfigError
from tests.golden.generate import FOLDER, list_mistakes

SHIPPED = Path(__file__).parents[3] / "config.yaml"
CI = 'collectors:\n  ci: {type: github_ci, schedule: "*/10 * * * *"}\n'


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str = CI, environ: Mapping[str, str] | None = None) -> Loaded:
    Path("config.yaml").write_text(textwrap.dedent(text), "utf-8", "surrogateescape")
    return load(None, environ or {}, settings_of)


def settings(text: str = CI, environ: Mapping[str, str] | None = None) -> Settings:
    return loaded(text, environ).settings


def errors(text: str = CI, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environ)
    return str(caught.value).splitlines()


def ci(chosen: Settings, name: str = "ci") -> GithubCiSettings:
    found = chosen.collectors[name]
    assert isinstance(found, GithubCiSettings)
    return found


# Which value wins


def test_without_collectors_in_a_file_the_three_shipped_ones_run() -> None:
    result = load(None, {}, settings_of)
    assert result.file is None
    for found in (result.settings, settings("http: {port: 9000}\n")):
        assert {name: (each.type, each.schedule, each.service) for name, each in found.collectors.items()} == {
            "ci": ("github_ci", "*/10 * * * *", "dashboard-collector"),
            "training": ("snapshot", "0 * * * *", "training-health-collector"),
            "eval": ("snapshot", "0 * * * *", "eval-health-collector"),
        }
    assert found.http.port == 9000
    assert load(SHIPPED, {}, settings_of).settings == result.settings


@pytest.mark.parametrize(
    ("environ", "key", "value", "of_the_file"),
    [
        ({"DD_API_KEY": "k", "DATADOG_API_KEY": "l"}, "datadog.api_key", "k", "k"),
        ({"DATADOG_API_KEY": "k"}, "datadog.api_key", "k", "k"),
        ({"DD_APP_KEY": "k"}, "datadog.app_key", "k", "k"),
        ({"DATADOG_APP_KEY": "k"}, "datadog.app_key", "k", "k"),
        ({"DD_SITE": "dd.eu", "INFRA_HEALTH_DATADOG__SITE": "own.eu"}, "datadog.site", "own.eu", "own.eu"),
        ({"DD_SITE": "", "INFRA_HEALTH_DATADOG__SITE": " "}, "datadog.site", "datadoghq.com", "f.eu"),
        ({"DD_ENV": "staging"}, "datadog.env", "staging", "staging"),
        ({"DD_SERVICE": "health"}, "datadog.service", "health", "health"),
        ({"DD_VERSION": "1.10"}, "datadog.version", "1.10", "1.10"),
        ({"DD_URL": "http://127.0.0.1:9"}, "datadog.url", "http://127.0.0.1:9", "http://127.0.0.1:9"),
        ({"INFRA_HEALTH_TOKEN": "s", "INFRA_HEALTH_HTTP__TOKEN": "long"}, "http.token", "long", "long"),
        ({"INFRA_HEALTH_TOKEN": "short"}, "http.token", "short", "short"),
        ({"GITHUB_TOKEN": "t2", "GITHUB_DASHBOARD_TOKEN": "t1"}, "github.token", "t1", "f"),
        ({"GITHUB_DASHBOARD_TOKEN": " ", "GITHUB_TOKEN": "t"}, "github.token", "t", "f"),
        ({"GITHUB_API_URL": "https://e/api/v3/"}, "github.api_url", "https://e/api/v3", "http://f"),
        ({"GITHUB_USER_AGENT": "me"}, "github.user_agent", "me", "f"),
    ],
)
def test_names_of_the_environment(environ: dict[str, str], key: str, value: str, of_the_file: str) -> None:
    """INFRA_HEALTH_* wins over Datadog's, these over the file, the file over GitHub's; empty ones are not set."""
    file = """\
        datadog: {api_key: f, app_key: f, site: f.eu, env: f, service: f, version: f, url: http://f}
        github: {token: f, api_url: http://f, user_agent: f}
        http: {token: f}
        """
    for text, expected in (("", value), (file, of_the_file)):
        found = attrgetter(key)(settings(text, environ))
        assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == expected


def test_a_collectors_own_key_wins_over_the_replaced_systems_variable() -> None:
    """So two collectors of one type can differ; nested keys are filled one by one. Of merge keys the own one wins."""
    text = """
        collectors:
          a: &a {type: github_ci, schedule: "@hourly", repo: own/repo, thresholds: {revert: 3}}
          b: {<<: *a, repo: null, thresholds: {hotfix: 9}}
          c: {type: snapshot, schedule: "@hourly", category: training}
          d: {type: snapshot, schedule: "@hourly", category: evaluation}
        """
    environ = {
        "METTA_GITHUB_REPO": "env/repo",
        "CI_HOTFIX_THRESHOLD": "7",
        "CI_BENCHMARKS_WORKFLOWS": "159541672, nightly.yml",
        "TRAINING_HEALTH_FILE": "/data/t.json",
        "EVAL_HEALTH_FILE": "s3://bucket/e.json",
    }
    chosen = settings(text, environ)
    assert [ci(chosen, name).repo for name in "ab"] == ["own/repo", "env/repo"]
    assert [ci(chosen, name).thresholds for name in "ab"] == [Thresholds(hotfix=7, revert=3), Thresholds(hotfix=9)]
    assert ci(chosen, "a").benchmarks == ("159541672", "nightly.yml")
    snapshots = [each for each in chosen.collectors.values() if isinstance(each, SnapshotSettings)]
    assert [each.source for each in snapshots] == ["/data/t.json", "s3://bucket/e.json"]


def test_any_key_can_be_set_by_a_variable() -> None:
    """Names in any case, collectors with - as _, lists by commas or JSON, mappings by JSON or key by key."""
    of_the_collector = {
        "TYPE": "github_ci",
        "REPO": "a/b",
        "ENABLED": "false",
        "ACTIVE_DEADLINE": "90",
        "BENCHMARKS": '[159541672, "a, b"]',
        "THRESHOLDS__HOTFIX": "2.5",
        "TAGS": '{"team": "x", "level": 3}',
        "TAGS__TEAM": "y",
    }
    others = {"INFRA_HEALTH_HTTP__ALLOWED_HOSTS": "a.example, b.example,", "infra_health_log__level": "DEBUG"}
    environ = {f"INFRA_HEALTH_COLLECTORS__MY_CI__{name}": value for name, value in of_the_collector.items()}
    text = 'collectors:\n  my-ci: {type: snapshot, schedule: "@hourly"}\n'
    chosen = settings(text, environ | others | {"INFRA_HEALTH_STATE_DIR": "~/state"})
    assert ci(chosen, "my-ci") == GithubCiSettings(
        type="github_ci",
        schedule="@hourly",
        repo="a/b",
        enabled=False,
        active_deadline=timedelta(seconds=90),
        benchmarks=("159541672", "a, b"),
        thresholds=Thresholds(hotfix=2.5),
        tags={"team": "y", "level": "3"},
    )
    assert (chosen.http.allowed_hosts, chosen.log.level) == (("a.example", "b.example"), "debug")
    assert chosen.state_dir == Path("~/state").expanduser()


# The file


def test_the_chosen_file_is_read() -> None:
    """--config, else INFRA_HEALTH_CONFIG, else ./config.yaml; one that was named must be there."""
    for name in ("config.yaml", "b.yaml", "c.yaml"):
        Path(name).write_text(f"datadog: {{env: {name}}}\n")
    environ, gone = {"INFRA_HEALTH_CONFIG": "b.yaml"}, {"INFRA_HEALTH_CONFIG": "gone.yaml"}
    own, named, given = Path("config.yaml"), Path("b.yaml"), Path("c.yaml")
    for path, variables, chosen in ((None, {}, own), (None, environ, named), (given, environ, given)):
        result = load(path, variables, settings_of)
        assert (result.settings.datadog.env, result.file) == (chosen.name, chosen)
    for path, variables, option in ((Path("gone.yaml"), {}, "--config"), (None, gone, "INFRA_HEALTH_CONFIG")):
        with pytest.raises(ConfigError, match=f"^gone.yaml: there is no such file; {option} names it$"):
            load(path, variables, settings_of)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  schedule: @hourly\n", "2:13: is no YAML here: found character that cannot start any token; quote"),
        ("just words\n", "1:1: must be a mapping of keys to values"),
        ("a: " + "[" * 100_000, "1:1003: is no YAML here: exceeded maximum nesting depth"),
        ("a: {b: 1}\nc: {}\na:\n  b: 1\n", "3:1: a is given twice, first in line 1"),
        ("a: !!python/object:os.system {}\n", "1:4: is no YAML here: could not determine a constructor for the tag"),
        ("datadog:\n  env: caf\udce9\n", "2: is not UTF-8 (byte 0xe9)"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place_and_how_to_mend_it(text: str, told: str) -> None:
    (error,) = errors(text)
    assert error.startswith(f"config.yaml:{told}")
    assert ('schedule: "*/10 * * * *"' in error) == ("no YAML" in error)


def test_nothing_is_taken_for_another_type_than_it_looks() -> None:
    """1.10 stays 1.10, on stays on in a text and is true for a switch, 010 is ten, ids are words."""
    text = """
        collectors:
          ci:
            type: github_ci
            schedule: 0 * * * *
            enabled: on
            backoff_limit: 010
            benchmarks: [159541672, nightly.yml]
            tags: {team: on, release: 1.10, day: 2025-01-14, at: 12:30}
        datadog: {version: 1.10}
        aws: {secrets: off}
        """
    chosen = settings(text)
    assert (chosen.datadog.version, chosen.aws.secrets) == ("1.10", "off")
    found = ci(chosen)
    assert (found.enabled, found.backoff_limit, found.benchmarks) == (True, 10, ("159541672", "nightly.yml"))
    assert found.tags == {"team": "on", "release": "1.10", "day": "2025-01-14", "at": "12:30"}


def test_each_key_that_the_shipped_file_shows_exists_and_has_the_default_that_it_names() -> None:
    """The lines that begin with # and a key, taken out of the comment; examples are those that say so."""
    shown = [re.sub(r"^(\s*)#(?=(?:  )*\w+:)", r"\1", line) for line in SHIPPED.read_text().splitlines()]
    settings("\n".join(shown))
    defaults = settings("\n".join(line for line in shown if "# example" not in line))
    assert differences(load(SHIPPED, {}, settings_of).settings, defaults) == {}


# Mistakes


def test_all_mistakes_are_told_at_once_with_place_and_remedy() -> None:
    """In the order of the file, tests/payloads/mistakes.yaml."""
    assert list_mistakes() == (FOLDER / "mistakes.txt").read_text()


def test_mistakes_of_the_environment_are_told_by_the_variables_name() -> None:
    environ = {
        "INFRA_HEALTH_HTTP__PORT": "eighty",
        "INFRA_HEALTH_COLLECTORS__CI__THRESHOLDS__HOTFX": "1",
        "INFRA_HEALTH_COLLECTORS__CII__REPO": "a/b",
        "INFRA_HEALTH_AWS": "no",
        "INFRA_HEALTH_AWS__SECRETS": "off",
        "CI_HOTFIX_THRESHOLD": "many",
    }
    assert errors(CI, environ) == [
        'environment CI_HOTFIX_THRESHOLD: collectors.ci.thresholds.hotfix: must be a valid number, not "many"',
        'environment INFRA_HEALTH_AWS: aws: must be a mapping of keys to values, not "no"',
        "environment INFRA_HEALTH_AWS__SECRETS: aws: is set as a whole (environment INFRA_HEALTH_AWS)",
        "environment INFRA_HEALTH_COLLECTORS__CII__REPO: collectors.cii.repo: there is no collector cii; "
        "did you mean ci?",
        "environment INFRA_HEALTH_COLLECTORS__CI__THRESHOLDS__HOTFX: collectors.ci.thresholds.hotfx: "
        "is no setting; did you mean hotfix?",
        'environment INFRA_HEALTH_HTTP__PORT: http.port: must be a whole number, not "eighty"',
    ]


def test_a_variable_of_ours_that_is_no_setting_is_noted_unless_it_is_read_elsewhere() -> None:
    """Kubernetes sets some for a Service of this name."""
    of_kubernetes = ["PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT_HTTP"]
    names = [*of_kubernetes, "URL", "TOKEN_FILE", "DATADOG__API_KEY_FILE", "DATADGO__SITE", "STATEDIR"]
    result = loaded(CI, {f"INFRA_HEALTH_{name}": "tcp://10.0.0.1:8080" for name in names})
    assert result.settings.http.port == 8080
    assert result.warnings == (
        "environment INFRA_HEALTH_STATEDIR is no setting and not used; did you mean state_dir?",
        "environment INFRA_HEALTH_DATADGO__SITE is no setting and not used; did you mean datadog?",
    )
    assert loaded("collectors:\n").warnings == ("no collector is configured: nothing will be collected",)


# Secrets, durations


def test_secrets_are_masked_when_the_settings_are_printed_and_blanks_around_them_left_out() -> None:
    text = """
        collectors:
          a: {type: exec, schedule: "@hourly", command: [cat], environment: {API_TOKEN: hidden1}}
          b: {type: snapshot, schedule: "@hourly", category: training, source: "https://u:hidden2@h/?sig=hidden3"}
          c: {type: snapshot, schedule: "@hourly", category: training, thresholds: {a: {condition: "> 1x", for: 2}}}
        http: {token: hidden5}
        github:
          token: |
            hidden6

        """
    chosen = settings(text, {"DD_API_KEY": " hidden4\n"})
    plain = describe(chosen)
    assert "hidden" not in str(plain)
    assert plain["datadog"]["api_key"] == plain["http"]["token"] == "********"
    assert (plain["datadog"]["app_key"], plain["aws"]["secrets"]) == (None, "auto")
    assert plain["collectors"]["c"]["thresholds"] == {"a": {"condition": "> 1x", "baseline": None, "for": 2}}
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    other = settings(text.replace("hidden5", "hidden7"), {"DD_API_KEY": "hidden4"})
    assert differences(chosen, other) == {"http.token": "******** -> ********"}
    assert {*secret_values(chosen)} == {"u:hidden2", "sig=hidden3", "hidden4", "hidden5", "hidden6"}


def test_no_message_shows_a_secret() -> None:
    """Wrong values of secret keys, unknown keys, addresses with credentials, lines that are no YAML."""
    told = errors(
        """
        collectors:
          a: {type: exec, schedule: "@hourly", command: [cat], environment: {API_TOKEN: [hidden]}}
          ci: {type: github_ci, schedule: "@hourly", tokn: hidden, repo: {token: hidden}}
        datadog: {api_key: hid den, api_kye: hidden, url: "https://me:hidden@h?q=hidden", app_key: {hidden: 1}}
        github: {api_url: "ftp://me:hidden@h"}
        http: {token: "hidden\\n hidden", port: {hidden: 1}}
        """,
        {"INFRA_HEALTH_GITHUB__TOKEN": "hidden hidden", "INFRA_HEALTH_HTTP__TOKENS": "hidden"},
    )
    assert len(told) == 12
    for text in ("http:\n  token: *hidden\n", "http:\n  token: !hidden x\n", 'http: {token: "hidden\n', "a: @hidden"):
        told += errors(text)
    assert "hid" not in "".join(told)


def test_durations_are_read_and_written_and_what_is_none_is_refused() -> None:
    known = {"90": 90, "5m": 300, "2h": 7200, "1d": 86400, "1h30m": 5400, "0": 0, 90: 90, 0.5: 0.5}
    for text, seconds in known.items():
        value = read_duration(text)
        assert (value, read_duration(format_duration(value))) == (timedelta(seconds=seconds), value)
    for wrong in ("", "s", "5 m", "5x", "-1", "1e3", "nan", "1m1h", True, "٣s"):
        with pytest.raises(ValueError, match="must be a duration"):
            read_duration(wrong)
