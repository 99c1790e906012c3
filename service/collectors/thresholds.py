"""Thresholds from the settings: they replace the condition that a record brings, where its source can't be changed."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from service.config.settings import Section
from service.domain import conditions
from service.domain.baseline import MIN_VALUES
from service.domain.runs import PartialFailure
from service.domain.samples import Rule


def _check_condition(text: str) -> str:
    if not conditions.parse(text) and not conditions.is_relative(text):
        raise ValueError(f'must be a condition such as "> 0.5", "in [1, 2]" or ">= 0.85x", not "{text}"')
    return text


class BaselineSettings(Section):
    """What a relative condition compares with (domain.samples.Rule)."""

    of: Literal["median"] = "median"
    last: Annotated[int, Field(ge=MIN_VALUES, le=100)] = 10
    skip: Annotated[int, Field(ge=0, le=100)] = 0


class Threshold(Section):
    """A condition, alone as its text. ``for``: so many values in a row must fail before the check does."""

    condition: Annotated[str, AfterValidator(_check_condition)]
    baseline: BaselineSettings | None = None
    for_: Annotated[int, Field(ge=1, le=100, alias="for")] = 1

    @model_validator(mode="before")
    @classmethod
    def _from_condition(cls, value: Any) -> Any:
        return {"condition": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _compares(self) -> "Threshold":
        if self.baseline and not conditions.is_relative(self.condition):
            raise ValueError(f'baseline is for a condition such as ">= 0.85x", and this one is "{self.condition}"')
        return self

    def make_rule(self, apart: timedelta = timedelta(0)) -> Rule | None:
        """None where the condition alone has the verdict."""
        if self.for_ == 1 and not conditions.is_relative(self.condition):
            return None
        baseline = self.baseline or BaselineSettings()
        return Rule(baseline.last, baseline.skip, apart, self.for_)


# By ``workflow_name/task/check`` as a shell's pattern, in which * goes beyond a slash; the first that fits counts.
Thresholds = Mapping[str, Threshold]


def find_threshold(name: str, thresholds: Thresholds) -> Threshold | None:
    return next((each for pattern, each in thresholds.items() if fnmatchcase(name, pattern)), None)


def find_unused(thresholds: Thresholds, names: Collection[str]) -> list[PartialFailure]:
    """A failure for each pattern that fits none of the checks that a run brought: it is misspelt, or they are gone."""
    unused = [each for each in thresholds if not any(fnmatchcase(name, each) for name in names)]
    return [PartialFailure("no check has such a name", f'thresholds "{pattern}"') for pattern in unused]
