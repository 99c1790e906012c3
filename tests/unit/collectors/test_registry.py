"""Collector types of other packages: found by their entry points, loaded one at a time, told apart from broken ones."""

import sys
from pathlib import Path

import pytest

from service.collectors.registry import expected_checks, installed_names, load_type, settings_of
from service.collectors.snapshot import Snapshot
from service.config.loader import load
from service.config.settings import CollectorSettings
from service.domain.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with one type; its module is written by the tests."""
    (info := tmp_path / "acme_health-1.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-health\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[infra_health.collectors]\nqueue = acme_queue:Queue\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_queue", raising=False)
    load_type.cache_clear()  # of types that other tests installed under the same names
    return tmp_path


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('no\\nway')", "can't be loaded: RuntimeError: no way"),
        ("raise SystemExit(3)", "can't be loaded: SystemExit: 3"),
        ("x = 1", "can't be loaded: AttributeError: "),
        ("class Queue:\n    Settings = dict\n", "its Settings are no CollectorSettings"),
    ],
)
def test_a_type_that_can_not_be_loaded_is_told_in_one_line_and_no_other_imports_it(
    package: Path, code: str, told: str
) -> None:
    (package / "acme_queue.py").write_text(code)
    assert {"queue", "snapshot"} <= set(installed_names())
    assert load_type("snapshot") is Snapshot
    with pytest.raises(ConfigError) as raised:
        load_type("queue")
    assert str(raised.value).startswith("collector type queue (acme_queue:Queue)")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_a_type_s_settings_raise_is_told_like_any_error_of_the_configuration(package: Path) -> None:
    source = """
from pydantic import model_validator
from service.plugin import CollectorSettings

class Queue:
    class Settings(CollectorSettings):
        @model_validator(mode="after")
        def check(self):
            return {}["no such key"]

    @staticmethod
    def expected_checks(settings):
        return 1 / 0
"""
    (package / "acme_queue.py").write_text(source)
    file = package / "config.yaml"
    file.write_text('collectors:\n  mine: {type: queue, schedule: "@hourly"}\n')
    with pytest.raises(ConfigError, match=r"config.yaml:2:10: collectors.mine.type: its settings can't .* KeyError"):
        load(file, {}, settings_of)
    with pytest.raises(ConfigError, match="collector type queue: expected_checks: ZeroDivisionError"):
        expected_checks(load_type("queue"), CollectorSettings(type="queue", schedule="@hourly"))
