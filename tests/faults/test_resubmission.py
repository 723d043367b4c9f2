"""A submission that is replaced while it is graded or recorded, and a grader that fails: whose mark is it then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyCourse
from examined import WRONG_AREA, WRONG_VOLUME, copy_of, exported, hand_in

from autograder import gradebook
from autograder.classroom import Graded, grade_all
from autograder.course import load_course
from autograder.gradebook import close_grader
from autograder.grading import Grader
from autograder.marks_log import MarksLog, read_log
from autograder.recorded import read_marks
from autograder.recording import Recorder
from autograder.results import SubmissionResult, Verdict
from autograder.status import course_status
from autograder.submission import Submission

FIRST: dict[str, str] = {}
SECOND = {"area": WRONG_AREA, "volume": WRONG_VOLUME}
FIRST_POINTS, SECOND_POINTS = 5.0, 1.33


@pytest.fixture(scope="module")
def warm(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TinyCourse, Grader]]:
    course = copy_of(released_once, tmp_path_factory.mktemp("warm") / "course")
    with Grader(course.root, load_course(course.root), "shapes") as grader:
        yield course, grader
    close_grader()


@pytest.fixture
def recorder(warm: tuple[TinyCourse, Grader]) -> Recorder:
    return Recorder(warm[1], tell=pytest.fail)


def recorded(course: TinyCourse, student: str) -> float | None:
    """Points from the checks in the gradebook."""
    mark = read_marks(course.root, load_course(course.root), "shapes").get(student)
    return mark.automatic if mark else None


def autograded(course: TinyCourse, student: str) -> str:
    """The source of all cells of the recorded notebook."""
    path = course.root / "autograded" / student / "shapes" / "shapes.ipynb"
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def state(course: TinyCourse, student: str) -> tuple[str, tuple[str, ...]]:
    (found,) = course_status(course.root, load_course(course.root))
    (one,) = (one for one in found.students if one.student == student)
    return one.state.value, one.notes


def test_what_is_replaced_after_it_was_graded_is_graded_anew_and_recorded(
    warm: tuple[TinyCourse, Grader], recorder: Recorder
) -> None:
    course, grader = warm
    hand_in(course, "before", FIRST)
    graded = Graded(grader.grade("before"), fresh=True)
    hand_in(course, "before", SECOND)
    marked = recorder.record(graded)
    assert (marked.result.score, marked.final, recorded(course, "before")) == (SECOND_POINTS,) * 3
    assert WRONG_AREA in autograded(course, "before")
    assert state(course, "before")[0] == "graded"


@pytest.mark.parametrize("what", ["notebook", "date"])
def test_what_is_replaced_while_it_is_recorded_is_recorded_again(
    warm: tuple[TinyCourse, Grader], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    course, grader = warm
    student, real = f"during_{what}", gradebook.record
    hand_in(course, student, FIRST)
    calls = []

    def record(*arguments: Any) -> Any:
        mark = real(*arguments)
        if not calls:
            hand_in(course, student, SECOND if what == "notebook" else FIRST, "2027-10-02 12:00:00 UTC")
        calls.append(mark.automatic)
        return mark

    monkeypatch.setattr(gradebook, "record", record)
    marked = recorder.record(Graded(grader.grade(student), fresh=True))
    second = SECOND_POINTS if what == "notebook" else FIRST_POINTS
    assert calls == [FIRST_POINTS, second]
    assert (marked.result.score, marked.final, recorded(course, student)) == (second,) * 3
    assert MarksLog(course.root, "shapes").latest[student].decided_by["handed in at"] == "2027-10-02 12:00:00 UTC"
    assert (WRONG_AREA in autograded(course, student)) == (what == "notebook")


def test_what_never_stays_the_same_has_no_mark_and_is_said(
    warm: tuple[TinyCourse, Grader], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    course, grader = warm
    hand_in(course, "restless", FIRST)
    real, times = gradebook.record, iter(range(100))

    def record(*arguments: Any) -> Any:
        mark = real(*arguments)
        hand_in(course, "restless", FIRST, f"2027-10-02 12:00:{next(times):02} UTC")
        return mark

    monkeypatch.setattr(gradebook, "record", record)
    marked = recorder.record(Graded(grader.grade("restless"), fresh=True))
    assert marked.failure == "it was handed in again and again while it was graded"
    assert next(times) == 3
    assert exported(course.root, tmp_path)["restless"] == ""
    monkeypatch.undo()
    assert recorder.record(Graded(grader.grade("restless"), fresh=False)).final == FIRST_POINTS
    assert exported(course.root, tmp_path)["restless"] == "5"


def test_what_is_replaced_after_it_was_recorded_is_stale_until_the_next_run(
    warm: tuple[TinyCourse, Grader], recorder: Recorder
) -> None:
    course, grader = warm
    hand_in(course, "after", FIRST)
    recorder.record(Graded(grader.grade("after"), fresh=True))
    hand_in(course, "after", SECOND)
    assert recorded(course, "after") == FIRST_POINTS
    assert state(course, "after") == ("stale", ("changed since: submission",))
    marked = Recorder(grader, tell=pytest.fail).record(Graded(grader.grade("after"), fresh=True))
    assert (marked.before, marked.final, recorded(course, "after")) == (FIRST_POINTS, SECOND_POINTS, SECOND_POINTS)
    *_, last = read_log(course.root, "shapes")
    assert (last.student, last.old, last.new, last.why) == ("after", FIRST_POINTS, SECOND_POINTS, ("submission",))


# faults of ours


class Inline:
    """An executor that runs everything at once in this thread."""

    def submit(self, function: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


def test_a_fault_of_ours_is_tried_once_more_alone_then_said_and_is_never_a_zero(
    warm: tuple[TinyCourse, Grader], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    course, grader = warm
    hand_in(course, "lucky", FIRST)
    hand_in(course, "unlucky", FIRST)
    recorder = Recorder(grader, tell=pytest.fail)
    recorder.record(Graded(grader.grade("unlucky"), fresh=True))
    asked = []

    def fails(submission: Submission) -> SubmissionResult:
        student = submission.student
        asked.append(student)
        once = student == "lucky" and asked.count("lucky") > 1
        if once:
            return real(submission)
        return SubmissionResult(
            assignment="shapes", student=student, verdict=Verdict.GRADER_FAULT, reason="the sandbox did not start"
        )

    real = grader.worker.grade
    monkeypatch.setattr(grader, "close", lambda: None)
    monkeypatch.setattr(grader.worker, "grade", fails)
    hand_in(course, "unlucky", SECOND)
    marked = [recorder.record(one) for one in grade_all(grader, ["unlucky", "lucky"], Inline())]  # type: ignore[arg-type]
    assert asked[:2] == ["unlucky", "lucky"] and sorted(asked[2:]) == ["lucky", "unlucky"]
    assert {one.result.student: (one.failure, one.final) for one in marked} == {
        "unlucky": ("the sandbox did not start", None), "lucky": ("", FIRST_POINTS)
    }  # fmt: skip
    assert recorded(course, "unlucky") == FIRST_POINTS  # of the submission before: what was recorded is not touched
    found = exported(course.root, tmp_path)
    assert (found["unlucky"], found["lucky"]) == ("", "5")
    assert state(course, "unlucky")[0] == "grader fault"
