"""A run that is under way, and how it turns out."""

from dataclasses import dataclass, replace

import anyio

from service import logs
from service.domain.runs import Collected, Fault, Outcome, Run

_LONGEST_FAULT = 1000  # characters


@dataclass(eq=False, slots=True)
class Active:
    """A run that is under way: what is known of it so far, and how to end it early."""

    run: Run
    scope: anyio.CancelScope
    done: anyio.Event
    ending: Outcome = Outcome.INTERRUPTED  # what a cancellation of ``scope`` means
    waits: bool = False  # for others of its job to end

    def cancel(self, outcome: Outcome) -> None:
        self.ending = outcome
        self.scope.cancel()


def succeeded(run: Run, collected: Collected) -> Run:
    """The run that brought ``collected``: whole, or partial with what was left out."""
    faults = tuple(Fault(_shown(fault.reason), _shown(fault.part)) for fault in collected.faults)
    if (more := collected.left_out - len(faults)) > 0:
        faults = (*faults, Fault(f"and {more} more left out"))
    return replace(run, outcome=Outcome.PARTIAL if faults else Outcome.COMPLETE, faults=faults)


def _shown(text: str) -> str:
    # Foreign code may say anything, and what it says here is stored and shown.
    return logs.hidden(text)[:_LONGEST_FAULT]


def failed(run: Run, reason: str, outcome: Outcome = Outcome.FAILED) -> Run:
    """The run that brought nothing."""
    return replace(run, outcome=outcome, faults=(Fault(reason),))
