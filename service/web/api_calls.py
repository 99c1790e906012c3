"""The table of /api/v1: one row a call, from which its route and its part of /openapi.json are made."""

from service.web.api import Api
from service.web.asked import History, Last, Page, Waiting, Why
from service.web.board import State
from service.web.calls import Call
from service.web.check_views import Checks
from service.web.views import (
    API,
    Collectors,
    CollectorView,
    Log,
    Runs,
    RunView,
    Samples,
    Triggered,
    TriggeredRuns,
)


def calls_of(api: Api) -> list[Call]:
    one = {"name": "the collector's name"}
    run = {"id": "the run's id"}
    metric = {**one, "metric": "a metric, the last parts of its name, or a check's name"}
    collector, runs = f"{API}/collectors/{{name}}", f"{API}/runs"
    return [
        Call(
            "GET",
            f"{API}/collectors",
            api.collectors,
            "All collectors with schedule, next run, last run, last error",
            {200: ("The collectors", Collectors)},
        ),
        Call("GET", f"{API}/state", api.state, "The daemon at a glance", {200: ("The state", State)}),
        Call(
            "GET",
            collector,
            api.collector,
            "One collector",
            {200: ("The collector", CollectorView)},
            problems=(404,),
            names=one,
        ),
        Call(
            "GET",
            f"{collector}/checks",
            api.checks,
            "What its checks say, since when, and the evidence",
            {200: ("The checks", Checks)},
            query=Page,
            problems=(404,),
            names=one,
        ),
        Call(
            "GET",
            f"{collector}/checks/{{metric}}",
            api.checks,
            "The same of one metric",
            {200: ("The checks", Checks)},
            query=Page,
            problems=(404,),
            names=metric,
        ),
        Call(
            "POST",
            f"{collector}/runs",
            api.trigger,
            "Runs the collector now",
            {
                200: ("With `wait`: the run, which has ended", RunView),
                202: ("The run has started", Triggered),
            },
            query=Waiting,
            body=Why,
            problems=(404, 409, 429),
            locates=(200, 202, 409),
            names=one,
        ),
        Call(
            "POST",
            f"{collector}/snapshots",
            api.push,
            "Takes a snapshot, keeps it and runs the collector",
            {202: ("The run has started, or follows the active one", Triggered)},
            problems=(404, 422, 429),
            locates=(202,),
            names=one,
            upload=("application/json", "application/x-ndjson", "application/gzip"),
        ),
        Call(
            "POST",
            f"{collector}/pause",
            api.pause,
            "Suspends the schedule, across restarts, too",
            {200: ("The collector", CollectorView)},
            body=Why,
            problems=(404,),
            names=one,
        ),
        Call(
            "POST",
            f"{collector}/resume",
            api.resume,
            "Resumes the schedule; the latest slot that was missed starts at once",
            {200: ("The collector", CollectorView)},
            body=Why,
            problems=(404,),
            names=one,
        ),
        Call(
            "GET",
            runs,
            api.runs,
            "Runs, newest first; `next` leads to the older ones",
            {200: ("One page of runs", Runs)},
            query=History,
            problems=(404,),
        ),
        Call(
            "POST",
            runs,
            api.trigger_all,
            "Runs all enabled collectors now",
            {202: ("The runs that started, and those that were active already", TriggeredRuns)},
            body=Why,
        ),
        Call(
            "GET",
            f"{runs}/{{id}}",
            api.run,
            "One run: cause, times, attempts, outcome, errors, delivery",
            {200: ("The run", RunView)},
            problems=(404,),
            names=run,
        ),
        Call(
            "GET",
            f"{runs}/{{id}}/samples",
            api.samples,
            "What the run collected, and what became of each point",
            {200: ("One page of samples", Samples)},
            query=Page,
            problems=(404,),
            names=run,
        ),
        Call(
            "GET",
            f"{runs}/{{id}}/log",
            api.run_log,
            "The run's log lines, debug ones included",
            {200: ("The lines", Log)},
            problems=(404,),
            names=run,
        ),
        Call(
            "GET",
            f"{API}/log",
            api.log,
            "The daemon's last log lines",
            {200: ("The lines", Log)},
            query=Last,
        ),
    ]
