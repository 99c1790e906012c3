"""Asks a collector, which may be foreign code: whatever it does comes out as what it promised or as one plain error."""

import asyncio
from datetime import datetime

import anyio

from service import logs
from service.domain.errors import HealthError
from service.domain.runs import Collected
from service.domain.samples import Sample
from service.pipeline.job import Job

_LONGEST_REASON = 1000  # characters


async def ask(job: Job, now: datetime) -> Collected:
    """What the job's collector brings. It may be foreign code, so whatever it does comes out as one plain error.

    Raises what adapters raise (of a group of errors that one first), TypeError when it brings something else than it
    promised, RuntimeError when it tried to end the process or was cancelled by something of its own.
    """
    try:
        return _checked(await job.collector.collect(now))
    except anyio.get_cancelled_exc_class() as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        # Nobody cancelled this task: it awaited something that was cancelled and let the error out.
        raise RuntimeError("the collector was cancelled by something of its own") from error
    except SystemExit as error:
        raise RuntimeError(f"the collector called sys.exit({error.code!r})") from error
    except BaseExceptionGroup as errors:
        telling = _telling(errors)
        if isinstance(telling, Exception):
            raise telling from errors
        raise


def _telling(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to tell: a collector with a task group raises groups of groups; what adapters say goes first."""
    leaves: list[BaseException] = [error]
    while groups := [leaf for leaf in leaves if isinstance(leaf, BaseExceptionGroup)]:
        leaves = [leaf for leaf in leaves if leaf not in groups] + [
            each for group in groups for each in group.exceptions
        ]
    return next((leaf for leaf in leaves if isinstance(leaf, HealthError)), leaves[0])


def _checked(collected: object) -> Collected:
    """``collected`` when it is what collectors promise to bring. Raises TypeError."""
    if not isinstance(collected, Collected):
        raise TypeError(f"the collector brought {type(collected).__name__} instead of Collected")
    for sample in collected.samples:
        if not isinstance(sample, Sample):
            raise TypeError(f"the collector brought {type(sample).__name__} among its samples")
        for name, value in sample.tags.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"a tag of {sample.metric.name} is not text: {name!r}: {value!r}")
    return collected


def reason_of(error: Exception | None) -> str:
    """What to tell the operator of a failed attempt, in one line."""
    text = str(error) if isinstance(error, HealthError) else f"unexpected {type(error).__name__}: {error}"
    # Foreign code may say anything, and what is said here is stored and shown.
    return " ".join(logs.hidden(text).split())[:_LONGEST_REASON]
