"""nbgrader's steps that save and show a submission's marks ask for all its rows at once.

nbgrader asks for the row of each cell, with six joins, and when it saves, commits it by itself: sixteen questions and
as many commits for eight tasks. Here its own rules work on rows that two questions have read, and one commit writes
them: marks of two versions of a submission never stand beside each other.
"""

from types import SimpleNamespace
from typing import Any

from nbgrader.api import BaseCell, Comment, Grade, Gradebook, MissingEntry, SubmittedNotebook
from nbgrader.preprocessors import GetGrades, SaveAutoGrades
from sqlalchemy.orm import undefer


class Rows:
    """What a gradebook holds of one submission, in the form in which nbgrader's steps ask for it."""

    def __init__(self, gradebook: Gradebook, notebook: str, assignment: str, student: str) -> None:
        """Read the rows.

        Raises:
            MissingEntry: The gradebook does not know this submission.
        """
        self.notebook: SubmittedNotebook = gradebook.find_submission_notebook(notebook, assignment, student)
        self.grades: dict[str, Grade] = self._by_cell(gradebook, Grade, undefer(Grade.max_score))
        self.comments: dict[str, Comment] = self._by_cell(gradebook, Comment)
        self.db = SimpleNamespace(commit=lambda: None)  # nbgrader's step commits after each cell

    def _by_cell(self, gradebook: Gradebook, kind: Any, *options: Any) -> dict[str, Any]:
        rows = gradebook.db.query(BaseCell.name, kind).join(kind.cell).filter(kind.notebook_id == self.notebook.id)
        return dict(rows.options(*options).all())

    def find_grade(self, cell: str, *_: str) -> Grade:
        """The row of a graded cell."""
        return _known(self.grades, cell)

    def find_comment(self, cell: str, *_: str) -> Comment:
        """The row of a cell that can be commented on."""
        return _known(self.comments, cell)


def _known(rows: dict[str, Any], cell: str) -> Any:
    if cell not in rows:
        raise MissingEntry(f"the gradebook knows no cell {cell}: run `course release`, which enters it")
    return rows[cell]


class _Step:
    """What both steps do: nbgrader's own work on each cell, with the rows in place of the gradebook."""

    def work_on(self: Any, nb: Any, resources: Any, gradebook: Gradebook) -> Rows:
        about = resources["nbgrader"]
        submission = (about["notebook"], about["assignment"], about["student"])
        self.notebook_id, self.assignment_id, self.student_id = submission
        self.gradebook = rows = Rows(gradebook, *submission)
        for index, cell in enumerate(nb.cells):
            self.preprocess_cell(cell, resources, index)
        return rows


class SaveMarks(_Step, SaveAutoGrades):  # type: ignore[misc]
    """Saves what the checks earned and what is said of empty answers; manual marks and comments stay."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Save the marks of a notebook's cells.

        Raises:
            MissingEntry: The gradebook does not know this submission, or one of its cells.
        """
        with Gradebook(resources["nbgrader"]["db_url"]) as gradebook:
            self.work_on(nb, resources, gradebook)
            gradebook.db.commit()
        return nb, resources


class ShowMarks(_Step, GetGrades):  # type: ignore[misc]
    """Puts marks and comments, those by hand included, into a notebook's cells, and the sum beside them."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Put them there.

        Raises:
            MissingEntry: The gradebook does not know this submission, or one of its cells.
        """
        with Gradebook(resources["nbgrader"]["db_url"]) as gradebook:
            notebook = self.work_on(nb, resources, gradebook).notebook
            penalty = notebook.late_submission_penalty or 0
            resources["nbgrader"] |= {
                "score": notebook.score - penalty, "max_score": notebook.max_score, "late_penalty": penalty
            }  # fmt: skip
        return nb, resources
