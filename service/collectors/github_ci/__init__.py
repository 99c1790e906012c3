"""``github_ci``: how the CI of GitHub repositories is doing. Read runs, keep what matters, measure.

collector -> repository -> window, pull_requests         read in every cycle
                        -> backfill, timed_out_jobs      what that leaves unknown, within a budget
                        -> state                         what the next cycle is told
                        -> weekly_runs                   the table of the week
                        -> metrics, catalogue            the numbers: red_time; and culprits, who broke the branch
"""

from service.collectors.github_ci.collector import GithubCi, check_settings
from service.collectors.github_ci.settings import GithubCiSettings
from service.collectors.github_ci.window import list_workflows

__all__ = ["GithubCi", "GithubCiSettings", "check_settings", "list_workflows"]
