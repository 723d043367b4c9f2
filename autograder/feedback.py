"""Feedback pages of a class, made side by side: only those that something has changed for.

A page is what nbgrader's `GenerateFeedback` makes with the settings in `autograder.nbgrader_settings`, so that its own
command and the formgrader's button give the same. Here each is made in a process of its own pool and written
atomically, and nothing else is put beside it but the two small files that nbgrader needs to release it.
"""

import logging
import os
import re
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path

from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from autograder.course import Course, load_course
from autograder.database import quiet_queries
from autograder.feedback_page import STAMP_NAME, NoPage, stamp
from autograder.nbgrader_settings import configure
from autograder.results import Verdict, load_result, result_path, write_atomically

FOR_THE_EXCHANGE = ("timestamp.txt", "submission_secret.txt")
"""What `nbgrader release_feedback` reads beside a page."""
MAX_SMALL_FILE = 10_000
_STAMP = re.compile(rf'<meta name="{STAMP_NAME}" content="([0-9a-f]{{64}})">')


class Outcome(StrEnum):
    """What became of a student's page."""

    MADE = "made"
    UP_TO_DATE = "up to date"
    UNGRADED = "ungraded"
    """There is no mark, and so no page."""
    FAILED = "failed"
    """There is a mark, but no page of it."""


@dataclass(frozen=True)
class Page:
    """A student's feedback page, or why there is none."""

    student: str
    outcome: Outcome
    reason: str = ""


def page_path(root: Path, assignment: str, student: str) -> Path:
    """Where a student's page lies."""
    return root / "feedback" / student / assignment / f"{assignment}.html"


def make_pages(
    root: Path,
    course: Course,
    assignment: str,
    students: Sequence[str],
    *,
    jobs: int | None = None,
    force: bool = False,
) -> Iterator[Page]:
    """Make the feedback pages of an assignment, each told of when it is there.

    Args:
        root: The course folder.
        course: Its settings.
        assignment: Name of the assignment.
        students: Whose pages.
        jobs: Pages made side by side; None means one per core.
        force: Make even those that nothing has changed for.
    """
    to_make = []
    for student in students:
        page = None if force else _standing(root, course, assignment, student)
        page = _refusal(root, assignment, student) or page
        if page is None:
            to_make.append(student)
        else:
            yield page
    yield from _make_side_by_side(root, assignment, to_make, jobs or os.cpu_count() or 1)


def _refusal(root: Path, assignment: str, student: str) -> Page | None:
    """Why a student gets no page, if so."""
    result = load_result(result_path(root, assignment, student))
    if result is None:
        return Page(student, Outcome.UNGRADED, "it has not been graded")
    if result.verdict == Verdict.GRADER_FAULT:
        return Page(student, Outcome.UNGRADED, f"it has no mark, because grading failed: {result.reason}")
    return None


def _standing(root: Path, course: Course, assignment: str, student: str) -> Page | None:
    """The page that is there, if nothing has changed since it was made."""
    result = load_result(result_path(root, assignment, student))
    try:
        made = _STAMP.search(page_path(root, assignment, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if result is None or made is None:
        return None
    with quiet_queries(), _gradebook(root, course) as gradebook:
        try:
            current = stamp(root, result, gradebook)
        except MissingEntry:
            return None
    return Page(student, Outcome.UP_TO_DATE) if made[1] == current else None


def _gradebook(root: Path, course: Course) -> Gradebook:
    config = Config()
    configure(config, root, course)
    return Gradebook(config.CourseDirectory.db_url, course.id)


# Side by side


def _make_side_by_side(root: Path, assignment: str, students: Sequence[str], jobs: int) -> Iterator[Page]:
    """Make pages in a pool; one that takes its process down is tried once more alone, and costs only itself."""
    lost: list[str] = []
    for page in _pool(root, assignment, students, jobs):
        if page.outcome == Outcome.FAILED and not page.reason:
            lost.append(page.student)
        else:
            yield page
    for student in lost:
        for page in _pool(root, assignment, [student], 1):
            yield page if page.reason or page.outcome == Outcome.MADE else Page(student, Outcome.FAILED, _LOST)


_LOST = "making the page ended the process that made it"


def _pool(root: Path, assignment: str, students: Sequence[str], jobs: int) -> Iterator[Page]:
    """Pages from a pool of processes; a lost one is FAILED without a reason."""
    if not students:
        return
    with ProcessPoolExecutor(
        min(jobs, len(students)), _CONTEXT, initializer=_start_worker, initargs=(root, assignment)
    ) as pool:
        futures = {pool.submit(_make, student): student for student in students}
        try:
            for future in as_completed(futures):
                try:
                    reason = future.result()
                except BrokenProcessPool:
                    yield Page(futures[future], Outcome.FAILED)
                else:
                    yield Page(futures[future], Outcome.FAILED if reason else Outcome.MADE, reason)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])  # importing nbconvert and nbgrader takes a second
_maker: "PageMaker | None" = None


def _start_worker(root: Path, assignment: str) -> None:
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers itself
    _maker = PageMaker(root, load_course(root), assignment)


def _make(student: str) -> str:
    """Make a student's page; "" or why there is none."""
    assert _maker is not None
    try:
        with quiet_queries():
            _maker.make(student)
    except NoPage as error:
        return str(error)
    except MissingEntry:
        return f"the gradebook holds no mark: run `course grade {_maker.assignment}`"
    except Exception as error:  # one page that cannot be made must not keep a class from its pages
        return f"{type(error).__name__}: {error}"
    return ""


class PageMaker:
    """Makes pages of one assignment with nbgrader's own converter, one after another."""

    def __init__(self, root: Path, course: Course, assignment: str) -> None:
        """Set up the converter as `nbgrader generate_feedback` does, and enter the course's folder, as it does."""
        config = Config()
        configure(config, root, course)
        self.root, self.assignment = root, assignment
        self.folder = CourseDirectory(config=config)
        self.converter = GenerateFeedback(coursedir=self.folder, config=config)
        self.converter.log.setLevel(logging.CRITICAL)  # warns of each late penalty
        self.exporter = self.converter.exporter_class(parent=self.converter, config=self.converter.config)
        for step in self.converter.preprocessors:
            self.exporter.register_preprocessor(step)
        os.chdir(root)

    def make(self, student: str) -> None:
        """Write a student's page.

        Raises:
            NoPage: There can be none, and why.
            MissingEntry: The gradebook does not know the submission.
        """
        page = page_path(self.root, self.assignment, student)
        html = self._html(student)
        for name in FOR_THE_EXCHANGE:
            source = self.root / "autograded" / student / self.assignment / name
            if source.is_file() and not source.is_symlink() and source.stat().st_size <= MAX_SMALL_FILE:
                self._write(page.parent / name, source.read_text(encoding="utf-8", errors="replace"))
        self._write(page, html)

    def _write(self, path: Path, text: str) -> None:
        """Write a file atomically, readable as nbgrader makes it."""
        write_atomically(path, text)
        path.chmod(int(str(self.converter.permissions), 8))

    def _html(self, student: str) -> str:
        """The page of a recorded notebook; of an empty one where nbgrader could not read what was handed in."""
        recorded = self.folder.format_path(self.folder.autograded_directory, student, self.assignment)
        notebook = Path(recorded) / f"{self.assignment}.ipynb"
        resources = self.converter.init_single_notebook_resources(str(notebook))
        if notebook.is_file():
            html, _ = self.exporter.from_filename(str(notebook), resources=resources)
        else:
            html, _ = self.exporter.from_notebook_node(new_notebook(), resources=resources)
        return str(html)
