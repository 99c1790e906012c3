"""What is kept of the logs: bounded, and a run's lines apart."""

from datetime import UTC, datetime

from service.domain.logged import Logged
from service.log_memory import LogMemory

NOW = datetime(2026, 3, 4, 5, tzinfo=UTC)


def line(message: str, run: str | None = None) -> Logged:
    return Logged(NOW, "info", message, {"run": run, "collector": "ci", "n": 1} if run else {})


def test_a_runs_lines_are_kept_from_its_begin_to_its_end() -> None:
    memory = LogMemory()
    memory.keep(line("early", "a"))
    memory.open("a")
    memory.keep(line("first", "a"))
    memory.keep(line("of another", "b"))
    memory.keep(line("last", "a"))
    assert [(each.message, each.fields) for each in memory.of_run("a")] == [("first", {"n": 1}), ("last", {"n": 1})]
    memory.close("a")
    memory.keep(line("late", "a"))
    assert memory.of_run("a") == []
    assert [each.message for each in memory.recent()][-1] == "late"


def test_a_storm_of_lines_costs_its_middle() -> None:
    memory = LogMemory()
    memory.open("a")
    for number in range(5000):
        memory.keep(line(str(number), "a"))
    kept = [each.message for each in memory.of_run("a")]
    assert len(kept) == 201
    assert (kept[0], kept[-1]) == ("0", "4999")
    assert kept[50] == "4800 lines are left out here"
    assert len(memory.recent()) == 1000
    assert [each.message for each in memory.recent(2)] == ["4998", "4999"]


def test_a_long_text_is_cut_in_its_middle() -> None:
    memory = LogMemory()
    memory.keep(Logged(NOW, "error", "x" * 100_000, {"error.stack": "begin" + "y" * 100_000 + "end"}))
    (kept,) = memory.recent()
    assert len(kept.message) < 2100
    stack = kept.fields["error.stack"]
    assert len(stack) < 8100
    assert stack.startswith("begin")
    assert stack.endswith("end")
