"""Hands `course_config.py` to nbgrader, so that bare `nbgrader ...` commands and the formgrader do what `course` does.

nbgrader only logs an exception that its configuration raises, and goes on with its own defaults: it would grade another
course, by executing what students wrote. So a configuration that does not load ends the command.
"""

import asyncio
import os
import sysconfig
from pathlib import Path

from nbgrader.plugins import BasePlugin
from nbgrader.preprocessors import AssignLatePenalties
from traitlets import Instance, Unicode
from traitlets.config import Config

from autograder.authoring import STUB
from autograder.course import Course, CourseError, LatePolicy, load_course
from autograder.postgres import gradebook_url

SANITIZE_STEPS: list[str] = []
"""What nbgrader does with a submission first. Its steps correct what a student's file says of itself, such as
identifiers, kernel, metadata and cells that must not change: here all of that comes from the release, not from the file
(see `autograder.rebuilt`)."""

AUTOGRADE_STEPS = [
    "autograder.gradebook.RunChecks",  # where nbgrader has Execute, which trusts the student's process
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "autograder.gradebook_rows.SaveMarks",
    "autograder.nbgrader_settings.CourseLatePenalties",
]
"""What nbgrader does then: its own steps, three of them replaced, but for another look at the metadata."""

FEEDBACK_STEPS = [
    "autograder.gradebook_rows.ShowMarks",
    "autograder.feedback_page.PutReports",  # nbgrader's other step only fetches styles, which our page brings along
]
"""What nbgrader does with a recorded submission to make feedback of it."""

PAGE_FILTERS = {
    "highlight_code": "autograder.feedback_page.highlight_code",
    "markdown2html": "autograder.feedback_page.markdown2html",
}
"""How the formgrader shows what students wrote: sanitised, in bounded time, with formulas that need no network."""


def configure_from(config_file: str, config: Config) -> None:
    """Configure nbgrader for the course whose folder holds `config_file`; what `nbgrader_config.py` calls.

    Raises:
        SystemExit: `course_config.py` does not load. traitlets lets this one pass, so that the command ends.
        CourseError: The same inside a running server: there, ending would take the instructor's open notebooks along.
            The formgrader logs it and keeps the settings that it has.
    """
    try:
        configure(config, Path(config_file).resolve().parent)
    except CourseError as error:
        if _inside_a_server():
            raise
        raise SystemExit(f"nbgrader cannot run before this is put right:\n{error}") from error


def configure(config: Config, root: Path, course: Course | None = None) -> None:
    """Set what nbgrader needs to know about a course in a folder.

    Args:
        config: nbgrader's configuration; changed in place.
        root: The course's folder, where everything that nbgrader reads or writes lies.
        course: The course, where it is loaded already; else `course_config.py` in that folder is.

    Raises:
        CourseError: `course_config.py` does not load.
    """
    course = course or load_course(root)
    folder = config.CourseDirectory
    folder.course_id = course.id
    folder.root = str(root)
    folder.db_url = gradebook_url(root, course)
    folder.directory_structure = "{nbgrader_step}/{student_id}/{assignment_id}"
    for step in ("source", "release", "submitted", "autograded", "feedback"):
        folder[f"{step}_directory"] = step
    config.ClearSolutions.code_stub = STUB
    config.Autograde.sanitize_preprocessors = list(SANITIZE_STEPS)
    config.Autograde.autograde_preprocessors = list(AUTOGRADE_STEPS)
    config.Autograde.exporter_class = "autograder.gradebook.SubmissionExporter"
    config.CourseLatePenalties.root = str(root)
    config.GenerateFeedback.preprocessors = list(FEEDBACK_STEPS)
    config.GenerateFeedback.exporter_class = "autograder.feedback_page.FeedbackPage"
    config.ExportApp.plugin_class = "autograder.export.MarksExport"
    config.HTMLExporter.filters = dict(PAGE_FILTERS)
    _put_programs_on_path()


def _put_programs_on_path() -> None:
    """Let nbgrader find `alembic`, which it starts by name when it makes a gradebook."""
    programs = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = f"{programs}{os.pathsep}{path}"


def _inside_a_server() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class CourseLatePenalties(AssignLatePenalties):  # type: ignore[misc]
    """Takes the penalty off a late submission that the assignment's own policy asks for.

    nbgrader asks a plugin, which is told the student, the score and the seconds, but not the assignment: this step of
    autograding knows it, and so makes a plugin for it.
    """

    root = Unicode(help="The folder with course_config.py.").tag(config=True)

    def init_plugin(self) -> None:
        """Make the plugin for the assignment at hand."""
        policy = load_course(Path(self.root)).assignment(self.assignment_id).late
        self.plugin_inst = _PolicyPlugin(parent=self, policy=policy)


class _PolicyPlugin(BasePlugin):  # type: ignore[misc]
    policy = Instance(LatePolicy)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float:
        policy: LatePolicy = self.policy
        return policy.penalty(score, total_seconds_late)
