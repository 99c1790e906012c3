"""One question to a collector, which may be anybody's code: whatever it does comes out as an answer or one error."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import anyio
import anyio.lowlevel

from service import logs
from service.domain.errors import HealthError
from service.domain.runs import Collected, Fault
from service.domain.samples import Evidence, Kind, Metric, Sample
from service.pipeline.job import Job

_AT_ONCE = 2000  # samples
_LONGEST_REASON = 1000  # characters


async def ask(job: Job, now: datetime) -> Collected:
    """What the job's collector brings.

    Raises what adapters raise (of a group of errors that one first), TypeError when it brings something else than it
    promised, RuntimeError when it tried to end the process or was cancelled by something of its own.
    """
    try:
        return await _checked(await job.collector.collect(now))
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == -math.inf:
            raise  # by its run: the deadline has come, or the daemon ends
        # It awaited something that was cancelled, or cancelled its own task. Let out, either would end the daemon.
        if task := asyncio.current_task():
            while task.cancelling():
                task.uncancel()
        raise RuntimeError("the collector was cancelled by something of its own") from error
    except SystemExit as error:
        raise RuntimeError(f"the collector called sys.exit({error.code!r})") from error
    except BaseExceptionGroup as errors:
        raise _plain(_telling(errors)) from errors
    except BaseException as error:
        # Ctrl-C comes to the signal receiver, never here: a KeyboardInterrupt is the collector's own.
        raise _plain(error) from error


def _plain(error: BaseException) -> Exception:
    """``error`` as one that ends a run and nothing else."""
    return error if isinstance(error, Exception) else RuntimeError(f"the collector raised {type(error).__name__}")


def _telling(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to tell: a collector with a task group raises groups of groups; what adapters say goes first."""
    leaves: list[BaseException] = [error]
    while groups := [leaf for leaf in leaves if isinstance(leaf, BaseExceptionGroup)]:
        leaves = [leaf for leaf in leaves if leaf not in groups] + [
            each for group in groups for each in group.exceptions
        ]
    return next((leaf for leaf in leaves if isinstance(leaf, HealthError)), leaves[0])


async def _checked(collected: object) -> Collected:
    """``collected`` when it is what collectors promise to bring. Raises TypeError.

    What is wrong deeper down would come out of the store or a page, where nobody knows any more whose it was.
    """
    if not isinstance(collected, Collected):
        raise TypeError(f"the collector brought {type(collected).__name__} instead of Collected")
    samples: Any = collected.samples
    if not isinstance(samples, tuple):
        # A list may grow and a generator can be read but once.
        collected = replace(collected, samples=tuple(samples))
    for number, sample in enumerate(collected.samples):
        if not number % _AT_ONCE and number:
            await anyio.lowlevel.checkpoint()  # a hundred thousand take longer than the loop may stand still
        if not isinstance(sample, Sample):
            raise TypeError(f"the collector brought {type(sample).__name__} among its samples")
        _check_sample(sample)
    _check_rest(collected)
    return collected


def _check_sample(sample: Sample) -> None:
    metric = sample.metric
    if not (isinstance(metric, Metric) and isinstance(metric.name, str) and isinstance(metric.kind, Kind)):
        raise TypeError(f"the collector brought a sample of {metric!r:.200}, which is no metric")
    if not isinstance(sample.tags, Mapping):
        raise TypeError(f"the tags of {metric.name} are {type(sample.tags).__name__}")
    for name, value in sample.tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a tag of {metric.name} is not text: {name!r}: {value!r}")
    if (at := sample.measured_at) is not None and not (isinstance(at, datetime) and at.tzinfo):
        raise TypeError(f"{metric.name} was measured at {at!r}, which is no time with a zone")
    if sample.interval is not None and not isinstance(sample.interval, int):
        raise TypeError(f"the interval of {metric.name} is no whole number of seconds: {sample.interval!r}")
    if sample.evidence and not all(isinstance(each, Evidence) for each in sample.evidence):
        raise TypeError(f"the evidence of {metric.name} holds something else than Evidence")


def _check_rest(collected: Collected) -> None:
    for fault in collected.faults:
        if not (isinstance(fault, Fault) and isinstance(fault.reason, str) and isinstance(fault.part, str)):
            raise TypeError(f"the collector brought {fault!r:.200} among its faults")
    for tags in collected.unmeasured:
        if not isinstance(tags, Mapping) or not all(isinstance(each, str) for pair in tags.items() for each in pair):
            raise TypeError(f"the collector brought {tags!r:.200} among what it did not measure")
    if not isinstance(collected.remember, Mapping):
        raise TypeError(f"the collector wants to remember {type(collected.remember).__name__} instead of a mapping")
    for key, value in collected.remember.items():
        if not isinstance(key, str) or not isinstance(value, bytes | None):
            raise TypeError(f"the collector wants to remember {type(value).__name__} under {key!r} instead of bytes")
    if not isinstance(collected.left_out, int):
        raise TypeError(f"the collector left out {collected.left_out!r}, which is no number")


def reason_of(error: Exception | None) -> str:
    """What to tell the operator of a failed attempt, in one line."""
    text = str(error) if isinstance(error, HealthError) else f"unexpected {type(error).__name__}: {logs.text_of(error)}"
    # Foreign code may say anything, and what is said here is stored and shown.
    return " ".join(logs.hidden(text).split())[:_LONGEST_REASON]
