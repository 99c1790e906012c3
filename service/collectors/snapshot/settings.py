"""The settings of snapshot collectors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field

from service.collectors.expectation import Entry
from service.collectors.records import MAX_BYTES, MAX_RECORDS, Origin
from service.collectors.snapshot.sources import parse_place
from service.collectors.thresholds import Threshold
from service.config.settings import Bytes, CollectorSettings, Text
from service.domain.errors import ConfigError

ORIGINS = {
    "training": Origin("training", namespace="metta.infra.stablesuite", source="stable_suite"),
    "evaluation": Origin("evaluation", namespace="metta.infra.cron", source="cron"),
}
VARIABLES = {"training": "TRAINING_HEALTH_FILE", "evaluation": "EVAL_HEALTH_FILE"}


def _check_source(address: str) -> str:
    try:
        parse_place(address)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return address


class SnapshotSettings(CollectorSettings):
    """``source``: where the snapshot is read from (``sources.FORMS``); without one it is pushed.

    ``token_env``: the variable that holds the bearer token of an http(s) source (NAME_FILE: a file that holds it).
    ``max_bytes`` (once inflated) and ``max_records`` bound what is read. ``expect``: checks that each snapshot has to
    bring (``expectation``). ``thresholds``: in place of what records say, by ``workflow_name/task/check`` or a pattern.
    """

    category: Literal["training", "evaluation"]
    source: Annotated[str, AfterValidator(_check_source)] | None = None
    token_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    expect: tuple[Entry, ...] = ()
    thresholds: dict[Text, Threshold] = Field(default_factory=dict)
    max_bytes: Annotated[Bytes, Field(gt=0)] = ByteSize(MAX_BYTES)
    max_records: Annotated[int, Field(gt=0)] = MAX_RECORDS

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """As the base class says; the category tells which variable names the source."""
        found = super().legacy_environment(values, environ)
        variable = VARIABLES.get(str(values.get("category", "")).strip())
        return found | {"source": environ[variable]} if variable and variable in environ else found
