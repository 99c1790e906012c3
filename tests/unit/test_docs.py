"""The documents name only what exists."""

import re
from pathlib import Path

import click
import pytest

from service.cli.main import main
from service.collectors.exec import ExecSettings
from service.collectors.github_ci import GithubCi, GithubCiSettings
from service.collectors.snapshot import SnapshotSettings
from service.config.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:service|tests|k8s|docs|bench)/[\w./-]+)`", text)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in linked if not (document.parent / name).exists()]
    assert missing == []


def test_every_symbol_that_the_architecture_names_is_in_the_file_beside_it() -> None:
    _, *paragraphs = re.split(r"\n(?=\d\. )", (ROOT / "docs" / "architecture.md").read_text())
    assert len(paragraphs) == 8
    for paragraph in paragraphs:
        sources = "".join((ROOT / name).read_text() for name in re.findall(r"`(service/[\w/]+\.py)`", paragraph))
        for owner, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", paragraph):
            assert re.search(rf"^class {owner}\b", sources, re.MULTILINE), owner
            assert re.search(rf"^    (?:async )?def {member}\b", sources, re.MULTILINE), f"{owner}.{member}"


def test_the_readme_names_every_command_and_only_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", readme)) <= targets
    assert [name for name in main.list_commands(click.Context(main)) if name not in readme] == []


def test_readme_or_reference_name_every_setting_variable_and_metric() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "reference.md").read_text()
    kinds = (GithubCiSettings, SnapshotSettings, ExecSettings)
    sections = (Settings.model_fields[name].annotation for name in ("datadog", "github", "http", "aws", "log", "store"))
    keys = {
        *Settings.model_fields,
        *(key for kind in kinds for key in kind.model_fields),
        *(key for section in sections for key in getattr(section, "model_fields", ())),
    } - {"api_key", "app_key", "token", "read_token"}
    wanted = keys | {name for kind in kinds for name in kind.legacy_names.values()}
    wanted |= {f"DD_{name}" for name in ("API_KEY", "APP_KEY", "SITE", "URL", "ENV", "SERVICE", "VERSION")}
    wanted |= {"GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN", "GITHUB_API_URL", "GITHUB_USER_AGENT", "INFRA_HEALTH_TOKEN"}
    wanted |= {"TRAINING_HEALTH_FILE", "EVAL_HEALTH_FILE", "AWS_ENDPOINT_URL", "NO_COLOR"}
    wanted |= {metric.name.removeprefix("metta.infra.cron.") for metric in GithubCi.metrics}
    assert sorted(wanted - set(re.findall(r"[\w.]+", text))) == []
    shipped = set(re.findall(r"\w+", (ROOT / "config.yaml").read_text()))
    assert keys - shipped == {"webhook_secret"}
