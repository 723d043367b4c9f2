"""The notebook that nbgrader gets to see of a submission: made anew, from sources alone.

What a student's file says of itself (metadata, format version, identifiers, attachments) can make nbgrader stop, and
has nothing to say about marks. So the cells' text is taken over, and everything else comes from the release.

The formgrader shows this notebook to an instructor, on the address where that instructor's Jupyter listens: a script in
it could do there whatever the instructor can. nbgrader would put HTML from Markdown and raw cells into its page as it
is, so no text of a student's holds any here.
"""

import re
from collections.abc import Iterator
from typing import Any

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_notebook

from autograder.submission import canonical_cells, cell_text, grade_id, last_of_each

RESTORED = "restored-{}"


def rebuild(notebook: dict[str, Any], released: dict[str, Any]) -> NotebookNode:
    """A well-formed notebook with a submission's text and the release's metadata.

    Code cells are the canonical ones, under their identifiers. Of several cells with one task's name the last is the
    task's. Task and check cells that are gone stand again where they were released.

    Args:
        notebook: A submitted notebook (see `submission.parse_notebook`).
        released: The released notebook.
    """
    graded = {grade_id(cell): cell for cell in released["cells"] if cell["cell_type"] == "code" and grade_id(cell)}
    cells = list(_cells(notebook, released, graded))
    _restore(cells, graded)
    return from_dict(new_notebook(cells=cells, metadata=released["metadata"]))


def _code_cell(source: str, cell_id: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Unlike nbformat's own, not validated by itself: the notebook will be, as a whole."""
    return {
        "id": cell_id, "cell_type": "code", "metadata": metadata, "source": source, "execution_count": None,
        "outputs": [],
    }  # fmt: skip


def _cells(
    notebook: dict[str, Any], released: dict[str, Any], graded: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    canonical = {cell.index: cell for cell in canonical_cells(notebook, released)}
    taken = {cell.cell_id for cell in canonical.values()}
    last = last_of_each(notebook)
    ours = {cell_text(cell) for cell in released["cells"] if cell["cell_type"] != "code"}
    for index, cell in enumerate(notebook["cells"]):
        if index in canonical:
            name = grade_id(cell)
            metadata = graded[name]["metadata"] if name in graded and last[name] == index else {}
            found = canonical[index]
            yield _code_cell(found.source, found.cell_id, metadata)
            continue
        cell_id = f"text-{index + 1}"
        while cell_id in taken:
            cell_id += "-"
        text = cell_text(cell)
        kind = "markdown" if cell.get("cell_type") == "markdown" else "raw"
        shown = text if text in ours else harmless_markdown(text)
        yield {"id": cell_id, "cell_type": kind, "metadata": {}, "source": shown}


_TAG = re.compile(r"<(?=[A-Za-z/!?]|\Z)(?!/?(?:b|br|code|em|i|kbd|strong|sub|sup|u) */?>)")
_PICTURE = re.compile(r"!(?=\[)")
_LINK = re.compile(r"\](?=[(:])(?!\((?:https?://|mailto:|#))")


def harmless_markdown(text: str) -> str:
    """Markdown that becomes no tag but those of Markdown and the simplest of text, and links to nothing but the web.

    A space takes its meaning from everything else, which so can still be read: before a tag's name, inside a link to a
    script or into the course's own folders, and before a picture, which could come from anywhere.
    """
    return _LINK.sub("] ", _PICTURE.sub("! ", _TAG.sub("< ", text)))


def _restore(cells: list[dict[str, Any]], graded: dict[str, dict[str, Any]]) -> None:
    """Put back missing task and check cells, each behind the one that it was released behind."""
    place = 0
    for name, cell in graded.items():
        found = [i for i, there in enumerate(cells) if grade_id(there) == name]
        if found:
            place = found[0] + 1
        else:
            cells.insert(place, _code_cell(cell_text(cell), RESTORED.format(name)[:64], cell["metadata"]))
            place += 1
