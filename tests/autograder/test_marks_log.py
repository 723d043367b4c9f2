"""The log of marks: what is written down, why, and what of it survives a full disk."""

import json
from pathlib import Path

import pytest

from autograder.marks_log import MarksLog, RecordedMark, log_begin, log_path, read_log, rows
from autograder.results import CheckResult, SubmissionResult, TaskResult, Verdict

PARTS = {"submission": "s1", "checks": "c1", "late policy": "{}"}


def result(passed: bool = True) -> SubmissionResult:
    check = CheckResult(name="test_three", title="It is three.", passed=passed)
    tasks = (TaskResult(name="area", points=5, checks=(check,)),)
    return SubmissionResult(
        assignment="shapes", student="ada", verdict=Verdict.GRADED, tasks=tasks, fingerprint="f", sandbox="namespaces"
    )


def mark(score: float, automatic: float | None = None, late_penalty: float = 0.0) -> RecordedMark:
    return RecordedMark(score, late_penalty, score if automatic is None else automatic)


def told(root: Path) -> list[tuple[float | None, float | None, tuple[str, ...]]]:
    return [(line.old, line.new, line.why) for line in read_log(root, "shapes") if line.event != "begins"]


@pytest.fixture
def log(tmp_path: Path) -> MarksLog:
    """A log in which ada has five points."""
    log_begin(tmp_path, "shapes", "ada")
    log = MarksLog(tmp_path, "shapes")
    log.recorded(result(), mark(5.0), PARTS)
    return log


def test_a_mark_is_logged_with_the_one_before_and_what_had_changed(log: MarksLog, tmp_path: Path) -> None:
    log.recorded(result(), mark(2.0), {**PARTS, "submission": "s2", "checks": "c2"})
    log.recorded(result(), mark(2.0), {**PARTS, "submission": "s2", "checks": "c2"}, forced=True)
    log.recorded(result(), mark(1.0, late_penalty=1), {**PARTS, "submission": "s2", "checks": "c2", "late policy": "x"})
    assert told(tmp_path) == [
        (None, 5.0, ("first mark",)),
        (5.0, 2.0, ("submission", "checks")),
        (2.0, 2.0, ("forced",)),
        (2.0, 1.0, ("late policy",)),
    ]
    again = MarksLog(tmp_path, "shapes")
    assert (again.latest, again.unfinished) == (log.latest, set())
    assert again.latest["ada"].sandbox == "namespaces"


def test_what_changed_outside_is_found_once(log: MarksLog, tmp_path: Path) -> None:
    log.catch_up({"ada": mark(5.0)})
    assert len(told(tmp_path)) == 1
    for held, why in [
        (mark(4.0, automatic=5.0), "marked by hand"),
        (mark(3.0), "changed by another program"),
    ]:
        log.catch_up({"ada": held})
        log.catch_up({"ada": held})
        assert told(tmp_path)[-1][1:] == (held.score, (why,))
    assert len(told(tmp_path)) == 3
    log.catch_up({})
    assert told(tmp_path)[-1] == (3.0, None, ("taken out of the gradebook by another program",))
    log.catch_up({"eve": mark(1.0), "unmarked": RecordedMark(0.0, 0.0, None)})
    assert told(tmp_path)[-1] == (None, 1.0, ("recorded before this log began, or by another program",))
    assert MarksLog(tmp_path, "shapes").latest["ada"].new is None


def test_a_mark_by_hand_leaves_what_is_known_of_the_result(log: MarksLog) -> None:
    log.catch_up({"ada": mark(4.0, automatic=5.0)})
    assert (log.latest["ada"].decided_by, log.latest["ada"].fingerprint) == (PARTS, "f")
    log.catch_up({"ada": mark(3.0)})
    assert (log.latest["ada"].decided_by, log.latest["ada"].fingerprint) == ({}, "")


def test_a_recording_that_was_broken_off_is_known_until_it_is_done(log: MarksLog, tmp_path: Path) -> None:
    log_begin(tmp_path, "shapes", "ada")
    again = MarksLog(tmp_path, "shapes")
    assert again.unfinished == {"ada"}
    again.catch_up({"ada": mark(2.0)})
    assert told(tmp_path)[-1] == (5.0, 2.0, ("a recording that was broken off",))
    assert MarksLog(tmp_path, "shapes").unfinished == {"ada"}
    again.recorded(result(), mark(2.5), PARTS)
    assert MarksLog(tmp_path, "shapes").unfinished == set()


def test_a_line_that_a_full_disk_has_cut_costs_no_other(log: MarksLog, tmp_path: Path) -> None:
    path = log_path(tmp_path, "shapes")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"when": "2027-10-01 12:00:00 UTC", "stud')
    MarksLog(tmp_path, "shapes").recorded(result(), mark(2.0), PARTS)
    assert [line[1] for line in told(tmp_path)] == [5.0, 2.0]
    assert path.read_bytes().startswith(whole)  # nothing is taken out


def test_lines_are_short_and_plain(log: MarksLog, tmp_path: Path) -> None:
    log.recorded(result().model_copy(update={"reason": "x" * 10_000 + "\n\x1b"}), mark(2.0), PARTS)
    *_, last = log_path(tmp_path, "shapes").read_bytes().splitlines()
    assert len(last) < 2000 and json.loads(last)["student"] == "ada"
    assert [row[1:] for row in rows(list(read_log(tmp_path, "shapes")))] == [
        ["student", "old", "new", "late", "why"],
        ["ada", "", "5", "", "first mark"],
        ["ada", "5", "2", "", "recorded again"],
    ]
