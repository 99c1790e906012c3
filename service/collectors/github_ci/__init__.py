"""``github_ci``: how the CI of GitHub repositories is doing. Read runs, keep what matters, measure.

settings -> collector (the repositories in turn) -> repository (one cycle of one of them) ->

- what is read in every cycle: run_list, pull_requests; what that leaves unknown, within a budget: details;
  all by the requests in actions, as the rows in models
- what the next cycle takes up: state; weekly_runs, the table of the week
- what follows: measurement (the numbers), culprits (who broke the branch, and for how long it was red)
- what is sent: catalogue (each metric with its check and condition), with evidence (links and words) to each number

deliveries: what webhooks told between two cycles.
"""

from service.collectors.github_ci.actions import list_workflows
from service.collectors.github_ci.collector import GithubCi, check_settings
from service.collectors.github_ci.settings import GithubCiSettings

__all__ = ["GithubCi", "GithubCiSettings", "check_settings", "list_workflows"]
