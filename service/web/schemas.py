"""The models of everything that comes in or leaves over HTTP; the same ones fill the pages. Times are UTC."""

from datetime import UTC
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

Instant = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Info(View):
    """What runs here. ``started``: since when."""

    name: str
    version: str
    commit: str
    started: Instant
    env: str
    service: str
