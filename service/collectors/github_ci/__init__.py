"""``github_ci``: how the CI of GitHub repositories is doing. Read runs, keep what matters, measure.

collector -> repository -> run_list, workflows, pull_requests   read in every cycle
                        -> attempts                             what that leaves unknown, within a budget
                        -> state, weekly_runs                   what the next cycle, and the table of the week, are told
                        -> measurement -> metrics               the numbers; red_time; culprits, who broke the branch
"""

from service.collectors.github_ci.actions import list_workflows
from service.collectors.github_ci.collector import GithubCi, check_settings
from service.collectors.github_ci.settings import GithubCiSettings

__all__ = ["GithubCi", "GithubCiSettings", "check_settings", "list_workflows"]
