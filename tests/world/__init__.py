"""A simulated GitHub for tests and the bench: generated repositories, the truth about them, and faults.

world = generate(seed=4, workflows=9, runs_a_day=60)
github = Simulated(world)
github.fail("/actions/runs", faults.not_found, times=1)
async with httpx.AsyncClient(transport=InProcess(github.app)) as http:
    ... github.client(http), github.app.asked ...
    assert values == truth(world.repository, world.now, settings)
"""

from tests.world import faults
from tests.world.generator import DAY, HOUR, MINUTE, NOW, World, generate
from tests.world.server import TOKEN, InProcess, Simulated
from tests.world.truth import truth

__all__ = ["DAY", "HOUR", "MINUTE", "NOW", "TOKEN", "InProcess", "Simulated", "World", "faults", "generate", "truth"]
