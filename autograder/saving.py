"""nbgrader's step that saves a submission's marks, with its own rules, but at once.

nbgrader asks for the row of each cell, with six joins, and commits it by itself: sixteen questions and as many commits
for eight tasks, the greater part of what recording took. Here all rows of a submission are read by two questions and
written by one commit, so that marks of two versions of a submission never stand beside each other.
"""

from types import SimpleNamespace
from typing import Any

from nbgrader.api import BaseCell, Comment, Grade, Gradebook, MissingEntry
from nbgrader.preprocessors import SaveAutoGrades


class SaveMarks(SaveAutoGrades):  # type: ignore[misc]
    """Saves what the checks earned and what is said of empty answers; manual marks and comments stay."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Save the marks of a notebook's cells.

        Raises:
            MissingEntry: The gradebook does not know this submission, or one of its cells.
        """
        about = resources["nbgrader"]
        self.notebook_id, self.assignment_id, self.student_id = (
            about["notebook"], about["assignment"], about["student"]
        )  # fmt: skip
        with Gradebook(about["db_url"]) as gradebook:
            self.gradebook = _Rows(gradebook, self.notebook_id, self.assignment_id, self.student_id)
            for index, cell in enumerate(nb.cells):
                self.preprocess_cell(cell, resources, index)
            gradebook.db.commit()
        return nb, resources


class _Rows:
    """What nbgrader's step asks a gradebook for, from the rows of one submission."""

    def __init__(self, gradebook: Gradebook, *submission: str) -> None:
        notebook = gradebook.find_submission_notebook(*submission).id
        self.grades, self.comments = (
            dict(gradebook.db.query(BaseCell.name, kind).join(kind.cell).filter(kind.notebook_id == notebook).all())
            for kind in (Grade, Comment)
        )
        self.db = SimpleNamespace(commit=lambda: None)

    def find_grade(self, cell: str, *_: str) -> Grade:
        return _known(self.grades, cell)

    def find_comment(self, cell: str, *_: str) -> Comment:
        return _known(self.comments, cell)


def _known(rows: dict[str, Any], cell: str) -> Any:
    if cell not in rows:
        raise MissingEntry(f"the gradebook knows no cell {cell}: run `course release`, which enters it")
    return rows[cell]
