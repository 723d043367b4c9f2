"""Records results through nbgrader, whose gradebook, late penalties, manual marks and feedback stay its own.

`RunChecks` stands where nbgrader has Execute, which would run the checks in the student's own kernel: it takes the
submission's result, grading it now where there is none that still stands, and writes it into the notebook in the form
in which nbgrader reads marks. So `course grade`, `nbgrader autograde` and the formgrader's button give the same marks.
"""

import atexit
import contextlib
import glob
import io
import json
import logging
import mimetypes
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbformat import from_dict
from nbgrader import utils
from nbgrader.api import Gradebook, InvalidEntry, MissingEntry
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from sqlalchemy.exc import SQLAlchemyError
from tornado.log import app_log
from traitlets import Bool
from traitlets.config import Config

from autograder.course import CONFIG_NAME, Course, CourseError, load_course
from autograder.database import quiet_queries
from autograder.fingerprint import assignment_digests
from autograder.grading import Grader
from autograder.marks_log import MarksLog, RecordedMark, log_begin
from autograder.nbgrader_settings import configure
from autograder.rebuilt import rebuild
from autograder.recorded import NoMark, decided_by, read_marks, recorded_notebook
from autograder.report import task_report
from autograder.results import CellResult, SubmissionResult, TaskResult, Verdict, load_result, result_path
from autograder.safekeeping import back_up, in_plain_words, only_grader
from autograder.submission import CHECKS_SUFFIX, read_notebook, read_released, submission_folder, unsafe_files
from autograder.timestamp import read_timestamp


class SubmissionExporter(NotebookExporter):  # type: ignore[misc]
    """Reads a submitted notebook without believing what it says of itself (see `autograder.rebuilt`).

    It is also where a recording begins, whoever started it: nbgrader makes this exporter at the start of a run and
    reads each submission with it before anything else is done with the marks.
    """

    within_course_grade = Bool(False, help="`course grade` keeps others off, makes the backup and ends the log.").tag(
        config=True
    )

    def __init__(self, **options: Any) -> None:
        """Keep `course grade` off, and back up, while nbgrader's own command runs."""
        super().__init__(**options)
        self._recording = ""
        if isinstance(self.parent, Autograde) and not self.within_course_grade:
            self.parent.convert_notebooks = self._alone(self.parent.convert_notebooks)

    def _alone(self, convert: Callable[[], None]) -> Callable[[], None]:
        def convert_alone() -> None:
            folder = self.parent.coursedir
            root = Path(folder.root)
            try:
                course = load_course(root)
                with only_grader(root, folder.assignment_id, course):
                    back_up(root, course)
                    marks = read_marks(root, course, folder.assignment_id)
                    MarksLog(root, folder.assignment_id).catch_up(marks)
                    try:
                        convert()
                    finally:
                        self._recording_is_over()
            except (CourseError, OSError, SQLAlchemyError) as error:
                said = str(in_plain_words(error, root) or error)
                self.log.error(said)
                raise NbGraderException(said) from error

        return convert_alone

    def _recording_begins(self, root: Path, assignment: str, student: str) -> None:
        self._recording_is_over()
        log_begin(root, assignment, student)
        self._recording = "" if self.within_course_grade else student

    def _recording_is_over(self) -> None:
        """Log the mark of the submission before; where recording it failed, nbgrader has taken its folder away."""
        student, self._recording = self._recording, ""
        if not student:
            return
        folder = self.parent.coursedir
        root, assignment = Path(folder.root), folder.assignment_id
        result = load_result(result_path(root, assignment, student))
        if result is not None and recorded_notebook(root, assignment, student).is_file():
            course = load_course(root)
            mark = read_marks(root, course, assignment, student)[student]
            MarksLog(root, assignment).recorded(result, mark, decided_by(root, course, result))

    def from_filename(self, filename: str, resources: Any = None, **options: Any) -> tuple[str, Any]:
        """Read a submission rebuilt, and what nbgrader has written itself as it is.

        It does so twice for each submission: what comes out of the first pass is read, and so validated, by the second,
        which writes in its place what stays.

        Raises:
            SubmissionFault: It is no notebook.
        """
        about = resources["nbgrader"]
        root = Path.cwd()  # nbgrader works in the course's folder
        submitted = submission_folder(root, about["assignment"], about["student"])
        if Path(filename).parts[-4:-1] != submitted.parts[-3:]:
            return super().from_filename(filename, resources=resources, **options)  # type: ignore[no-any-return]
        self._recording_begins(root, about["assignment"], about["student"])
        notebook = read_notebook(root, about["assignment"], about["student"])
        rebuilt = rebuild(notebook, read_released(root, about["assignment"]))
        nb, resources = self._take_steps(rebuilt, resources)
        return json.dumps(nb), resources

    def from_notebook_node(self, nb: Any, resources: Any = None, **_: Any) -> tuple[str, Any]:
        """Run nbgrader's steps and write what comes out. nbconvert would copy the notebook and validate it once more.

        Raises:
            nbformat.ValidationError: The steps have made something else than a notebook of it.
        """
        nb, resources = self._take_steps(nb, resources)
        invalid: dict[str, Exception] = {}
        text = nbformat.writes(nb, capture_validation_error=invalid)
        if invalid:
            raise invalid["ValidationError"]
        return f"{text}\n", resources

    def _take_steps(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        resources = self._init_resources(resources)
        for step in self._preprocessors:
            nb, resources = step(nb, resources)
        return nb, resources


class RunChecks(NbGraderPreprocessor):  # type: ignore[misc]
    """Writes a submission's result into the notebook that nbgrader records."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Put outputs, marks and reports into the cells.

        Raises:
            NoMark: Grading failed, or a graded cell belongs to no task; nbgrader then drops this submission.
        """
        about = resources["nbgrader"]
        grader = _grader_for(Path.cwd(), about["assignment"])
        result = grader.grade(about["student"])
        if result.verdict == Verdict.GRADER_FAULT:
            result = grader.grade_anew(about["student"])
        if result.verdict == Verdict.GRADER_FAULT:
            raise NoMark(f"{about['student']}: {result.reason}")
        _drop_harmful_copies(grader.root, about["assignment"], about["student"])
        write_result(nb.cells, result)
        return nb, resources


def _drop_harmful_copies(root: Path, assignment: str, student: str) -> None:
    """Delete of what nbgrader has copied beside the notebook what may not stand there.

    What it copied through symbolic links are files of this machine, which feedback would hand out. What a browser takes
    for a page could run a script: the formgrader serves it from the address where the instructor's Jupyter listens.
    """
    submitted, ours = submission_folder(root, assignment, student), root / "source" / assignment
    copied = root / "autograded" / student / assignment
    for path in unsafe_files(submitted):
        (copied / path.relative_to(submitted)).unlink(missing_ok=True)
    for path in [path for path in copied.rglob("*") if path.is_file()]:
        kind = mimetypes.guess_type(str(path))[0] or ""
        if _PAGE.search(kind) and not (ours / path.relative_to(copied)).exists():
            path.unlink()


_PAGE = re.compile("html|xml")  # SVG, XHTML and RSS are image/svg+xml, application/xhtml+xml and application/rss+xml


_current: tuple[tuple[Path, str, str, bytes], Grader] | None = None


def _grader_for(root: Path, assignment: str) -> Grader:
    """The grader for an assignment, kept warm from one submission to the next while the checks stay what they are."""
    global _current
    settings = (root / CONFIG_NAME).read_bytes()
    key = (root, assignment, str(assignment_digests(root, assignment)), settings)
    if _current is None or _current[0] != key:
        close_grader()
        _current = (key, Grader(root, load_course(root), assignment))
    return _current[1]


@atexit.register
def close_grader() -> None:
    """End the grader that is kept warm for nbgrader."""
    global _current
    if _current is not None:
        _current[1].close()
        _current = None


def write_result(cells: list[Any], result: SubmissionResult) -> None:
    """Write a result into a rebuilt notebook's cells, in place.

    Args:
        cells: The notebook's cells; code cells have the identifiers of the canonical ones.
        result: The submission's result.

    Raises:
        NoMark: A graded cell has no task in the result. Without a number it would get full marks.
    """
    outputs = {cell.cell_id: cell for cell in result.cells}
    tasks = {task.name: task for task in result.tasks}
    for cell in cells:
        if cell.cell_type != "code":
            continue
        found = outputs.get(cell.id)
        cell.execution_count = None
        cell.outputs = [from_dict(output) for output in found.outputs] if found else []
        if utils.is_grade(cell):
            name = cell.metadata.nbgrader["grade_id"].removesuffix(CHECKS_SUFFIX)
            if name not in tasks:
                raise NoMark(f"no task {name} was graded for the cell {cell.metadata.nbgrader['grade_id']}")
            cell.outputs = _grade_outputs(tasks[name], list(tasks), found)


def _grade_outputs(task: TaskResult, order: Sequence[str], ran: CellResult | None) -> list[Any]:
    """A graded cell's outputs: the mark first, as the number that nbgrader looks for, then the report.

    An error or anything on stderr would make nbgrader give zero, and a result that is no number full marks: what the
    visible checks showed is kept as plain display.
    """
    mark = {
        "output_type": "execute_result", "execution_count": None, "metadata": {},
        "data": {"text/plain": str(task.earned)},
    }  # fmt: skip
    shown = [_as_display(output) for output in (ran.outputs if ran else ())]
    return [from_dict(output) for output in (mark, _display(task_report(task, order)), *shown)]


def _display(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/plain": text}}


def _as_display(output: dict[str, Any]) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return _display(output["text"])
    if output["output_type"] == "error":
        return _display("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}")
    return output


# recording


def ready_to_record(root: Path, course: Course, assignment: str) -> Config:
    """nbgrader's settings for `record`, once the gradebook knows the assignment."""
    config = Config()
    configure(config, root, course)
    config.SubmissionExporter.within_course_grade = True
    with quiet_queries():
        enter_assignment(root, course, assignment, config)
    return config


def record(root: Path, course: Course, result: SubmissionResult, config: Config | None = None) -> RecordedMark:
    """Record a result in the gradebook, as `nbgrader autograde` does; manual marks and comments stay.

    Args:
        root: The course folder.
        course: Its settings.
        result: What is recorded.
        config: What `ready_to_record` gave, where there is more than one result to record.

    Raises:
        NoMark: The result is a fault of ours, or nbgrader could not record it.
    """
    if result.verdict == Verdict.GRADER_FAULT:
        raise NoMark(f"{result.student}: {result.reason}")
    folder = submission_folder(root, result.assignment, result.student)
    try:
        read_timestamp(folder)
    except ValueError as error:  # nbgrader would end with a traceback, or wait for a pipe for ever
        raise NoMark(f"{folder.relative_to(root)}/{error}: correct it or delete it") from None
    config = config or ready_to_record(root, course, result.assignment)
    with quiet_queries():
        if any(task.checks for task in result.tasks):
            _run_nbgrader(config, result)
        else:
            log_begin(root, result.assignment, result.student)
            _record_refused(config, course, root, result)
        return read_marks(root, course, result.assignment, result.student)[result.student]


def enter_assignment(root: Path, course: Course, assignment: str, config: Config) -> None:
    """Make sure that the gradebook knows the assignment, which a fresh checkout's does not."""
    with Gradebook(config.CourseDirectory.db_url, course.id) as gradebook:
        try:
            gradebook.find_notebook(assignment, assignment)
            return
        except MissingEntry:
            pass
    from autograder.release import enter

    enter(root, course, assignment)


def _run_nbgrader(config: Config, result: SubmissionResult) -> None:
    folder = CourseDirectory(config=config)
    folder.assignment_id, folder.student_id = result.assignment, result.student
    unsafe = unsafe_files(submission_folder(Path(folder.root), result.assignment, result.student))
    folder.ignore = [*folder.ignore, *(glob.escape(path.name) for path in unsafe)]  # it would copy through links
    converter = Autograde(coursedir=folder, config=config)
    converter.force = True
    with _collected(converter.log, app_log) as log:
        try:
            converter.start()
        except NbGraderException as error:
            raise NoMark(f"nbgrader could not record {result.student}: {error}\n{log.getvalue().strip()}") from error


@contextlib.contextmanager
def _collected(*loggers: logging.Logger) -> Iterator[io.StringIO]:
    """Collect what nbgrader logs, with tracebacks, in place of printing it."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    before = [(logger, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield log
    finally:
        for logger, propagate in before:
            logger.removeHandler(handler)
            logger.propagate = propagate


def _record_refused(config: Config, course: Course, root: Path, result: SubmissionResult) -> None:
    """Record a submission that nbgrader itself could not read: zero for each task, the reason as its comment."""
    shutil.rmtree(root / "autograded" / result.student / result.assignment, ignore_errors=True)  # of an earlier version
    folder = CourseDirectory(config=config)
    timestamp = folder.get_existing_timestamp(str(submission_folder(root, result.assignment, result.student)))
    when = {"timestamp": timestamp} if timestamp else {}
    with _collected(app_log), Gradebook(config.CourseDirectory.db_url, course.id) as gradebook:
        try:
            gradebook.update_or_create_student(result.student)
            submission = gradebook.update_or_create_submission(result.assignment, result.student, **when)
        except InvalidEntry as error:  # which the database's own errors become
            raise NoMark(f"nbgrader could not record {result.student}: {error}") from error
        for notebook in submission.notebooks:
            for grade in notebook.grades:
                grade.auto_score = 0.0
                grade.needs_manual_grade = grade.manual_score is not None
            for comment in notebook.comments:
                comment.auto_comment = result.reason
        gradebook.db.commit()
