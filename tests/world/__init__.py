"""A simulated GitHub for tests and the bench: generated repositories, the truth about them, and faults.

world = generate(seed=4, workflows=9, runs_a_day=60)
async with simulated(world) as github:
    github.fail("/actions/runs", faults.not_found, times=1)
    ... github.url, github.app.asked, github.client() ...
    assert values == truth(world.repository, world.now, settings)
"""

from tests.world import faults
from tests.world.generator import DAY, HOUR, MINUTE, NOW, World, generate
from tests.world.server import TOKEN, InProcess, Simulated, WorldClock, served, simulated
from tests.world.truth import durations, truth

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "NOW",
    "TOKEN",
    "InProcess",
    "Simulated",
    "World",
    "WorldClock",
    "durations",
    "faults",
    "generate",
    "served",
    "simulated",
    "truth",
]
