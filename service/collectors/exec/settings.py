"""The settings of exec collectors."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from service.collectors.expectation import Entry
from service.collectors.thresholds import Threshold
from service.config import fields
from service.config.secrets import Secret, aws_secret, mounted_file
from service.config.settings import Bytes, CollectorSettings, Text

Word = Annotated[
    str,
    StringConstraints(strip_whitespace=False),
    Field(coerce_numbers_to_str=True),
    fields.matching(r"(?s)[^\0]*", "holds a NUL character, which no program can be given"),
]
Variable = Annotated[str, fields.matching(r"[A-Za-z_][A-Za-z0-9_]*", "must be the name of an environment variable")]
Place = Annotated[
    Text, AfterValidator(lambda place: str(fields.expand_path(Path(place))) if place.startswith("~/") else place)
]
Namespace = Annotated[
    str,
    fields.matching(r"([A-Za-z][A-Za-z0-9_.]{0,98})?", "must begin with a letter and have letters, digits, _ and ."),
]


class ExecSettings(CollectorSettings):
    """``command``: the program and its arguments, as they are; no shell reads them.

    ``environment`` and ``secrets`` (a path, else a name in AWS Secrets Manager) come on top of a clean environment,
    with what ``pass_environment`` names of the daemon's own. ``memory``: the program's address space in bytes.
    ``namespace`` is put before metrics that do not begin with "metta.". ``category``: without it the collector's name.
    ``expect``: checks that each run has to print (``expectation``). ``thresholds``: in place of what it prints.
    ``format``: of stdout; "json" is a list, an object with "records", or lines.
    """

    environment: dict[Variable, Word] = Field(default_factory=dict)
    pass_environment: tuple[Variable, ...] = ()
    secrets: dict[Variable, Place] = Field(default_factory=dict)
    command: Annotated[tuple[Word, ...], Field(min_length=1)]
    memory: Annotated[Bytes, Field(ge=2**20)] | None = None
    namespace: Namespace = ""
    category: Text | None = None
    expect: tuple[Entry, ...] = ()
    thresholds: dict[Text, Threshold] = Field(default_factory=dict)
    format: Literal["auto", "json", "prometheus", "openmetrics"] = "auto"

    def open_secrets(self) -> dict[str, Secret]:
        """The secrets by variable. Nothing is read yet."""
        return {variable: _open_secret(variable, place) for variable, place in self.secrets.items()}

    @field_validator("command")
    @classmethod
    def _is_there(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        name = command[0]
        path = info.data.get("environment", {}).get("PATH") or os.environ.get("PATH", os.defpath)
        if shutil.which(name, path=path):
            return command
        if "/" in name and Path(name).exists():
            raise ValueError(f"{name} is no program that the daemon's user may execute")
        hint = "; the program and each of its arguments are items of a list" if " " in name else ""
        raise ValueError(f"there is no program {name}{'' if '/' in name else f' in {path}'}{hint}")


def _open_secret(variable: str, place: str) -> Secret:
    is_path = place.startswith(("/", "./", "../"))
    source = mounted_file(Path(place), f"secrets.{variable}") if is_path else aws_secret(place)
    return Secret(f"secret {variable}", f"put it into {place}", sources=[source])
