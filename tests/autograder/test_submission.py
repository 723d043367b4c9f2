"""What was handed in, however it was mangled, and the canonical form that it is graded in."""

import json
import os
from pathlib import Path

import pytest

from autograder.submission import (
    MAX_CELLS,
    MAX_FILES,
    MAX_NOTEBOOK_BYTES,
    Cell,
    Release,
    Submission,
    SubmissionFault,
    canonical_cells,
    imported_modules,
    parse_notebook,
    read_submission,
    students_of,
    submission_folder,
)

FILES_BYTES = 2**20
RELEASED = {"expect.py", "README.md", "requirements.txt"}


class Handed:
    """A released course and the folder of one submission, at first the release itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = submission_folder(root, "shapes", "ada")
        self.folder.mkdir(parents=True)
        self.released = json.loads((root / "release" / "shapes" / "shapes.ipynb").read_text())
        self.notebook = self.folder / "shapes.ipynb"
        self.write(self.released)

    def write(self, notebook):
        self.notebook.write_text(json.dumps(notebook))

    def read(self) -> Submission:
        return read_submission(self.root, "shapes", "ada", FILES_BYTES, Release.read(self.root, "shapes"))

    def changed(self) -> dict:
        """A copy of the released notebook to change."""
        return json.loads(json.dumps(self.released))


@pytest.fixture
def handed(released) -> Handed:
    return Handed(released.root)


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def named(notebook, name):
    [found] = [cell for cell in notebook["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == name]
    return found


def demo_of(notebook):
    [found] = [cell for cell in notebook["cells"] if "demo" in cell["metadata"].get("tags", [])]
    return found


def source_of(cell):
    return "".join(cell["source"])


def test_the_release_handed_in_unchanged_is_read_whole(handed):
    submission = handed.read()
    assert [cell.source for cell in submission.cells] == [source_of(cell) for cell in code_cells(handed.released)]
    assert [cell.kind for cell in submission.cells].count("checks") == 2
    assert [cell.kind for cell in submission.cells].count("demo") == 1
    assert len({cell.cell_id for cell in submission.cells}) == len(submission.cells)
    assert set(submission.files) == RELEASED and submission.left_out == ()


# notebooks that cannot be read


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b" \n", "empty file"),
        (b"{", "cut off"),
        (b"PK\x03\x04", "not JSON"),
        (b'"\xff"', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"[" * 200_000, "not JSON"),
        (b'{"cells":' * 50_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "nbformat is None"),
        (b"null", "nbformat is None"),
        (b"{}", "nbformat is None"),
        (b'{"nbformat": 3, "worksheets": []}', "nbformat is 3"),
        (b'{"nbformat": "4", "cells": []}', "nbformat is '4'"),
        (b'{"nbformat": 4}', "no list"),
        (b'{"nbformat": 4, "cells": {}}', "no list"),
        (b'{"nbformat": 4, "cells": [' + b"{}," * MAX_CELLS + b"{}]}", "no list of at most"),
        (b'{"nbformat": 4, "cells": [1]}', "cell 1 of the notebook is malformed"),
        (b'{"nbformat": 4, "cells": [{}, {"source": 5}]}', "cell 2 of the notebook is malformed"),
        (b'{"nbformat": 4, "cells": [{"source": ["a", 5]}]}', "cell 1 of the notebook is malformed"),
    ],
)
def test_a_notebook_that_cannot_be_read_is_refused_with_the_reason(handed, content, reason):
    handed.notebook.write_bytes(content)
    with pytest.raises(SubmissionFault, match=reason):
        handed.read()


def test_a_notebook_cut_off_anywhere_is_refused_and_nothing_else(handed):
    whole = handed.notebook.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        with pytest.raises(SubmissionFault):
            parse_notebook(whole[:length])


def test_a_reason_is_short_and_can_be_written(handed):
    handed.write({"nbformat": "\ud800" + "x" * 10_000})
    with pytest.raises(SubmissionFault) as raised:
        handed.read()
    assert len(str(raised.value).encode("utf-8")) < 200


def test_a_byte_order_mark_and_sources_as_lists_of_lines_change_nothing(handed):
    plain = handed.read()
    notebook = handed.changed()
    for cell in notebook["cells"]:
        cell["source"] = source_of(cell).splitlines(keepends=True)
    handed.notebook.write_bytes(b"\xef\xbb\xbf" + json.dumps(notebook).encode())
    assert handed.read() == plain
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    handed.write(notebook)
    assert handed.read().digest() == plain.digest()


@pytest.mark.parametrize(
    "odd",
    [
        {"cell_type": "code"},
        {"cell_type": "code", "source": "x", "metadata": None},
        {"cell_type": "code", "source": "x", "metadata": []},
        {"cell_type": "code", "source": "x", "metadata": {"nbgrader": 5, "tags": 5}},
        {"cell_type": "code", "source": "x", "metadata": {"nbgrader": {"grade_id": ["area_checks"]}}},
        {"cell_type": "code", "source": "x", "id": 5},
        {"cell_type": "code", "source": "x\ud800\x00"},
        {"cell_type": ["code"], "source": "x"},
        {"cell_type": "unheard of", "source": "x"},
        {},
    ],
)
def test_an_odd_cell_spoils_nothing_else(handed, odd):
    notebook = handed.changed()
    notebook["cells"].insert(0, odd)
    handed.write(notebook)
    expected = [source_of(cell) for cell in code_cells(handed.released)]
    assert [cell.source for cell in handed.read().cells][-len(expected) :] == expected
    assert handed.read().digest()


# files that are no files


def test_nothing_handed_in_is_told(handed):
    for student in ("nobody", "../ada", ""):
        with pytest.raises(SubmissionFault, match=r"nothing was handed in|no notebook"):
            read_submission(handed.root, "shapes", student, FILES_BYTES, Release.read(handed.root, "shapes"))
    handed.notebook.rename(handed.folder / "Shapes (1).ipynb")
    with pytest.raises(SubmissionFault, match=r"there is no notebook shapes\.ipynb"):
        handed.read()


def link(path, target):
    path.symlink_to(target)


def hard_link(path, target):
    path.hardlink_to(target)


def pipe(path, target):
    os.mkfifo(path)


def folder(path, target):
    path.mkdir()


@pytest.mark.parametrize("make", [link, hard_link, pipe, folder])
def test_a_notebook_that_is_no_plain_file_is_refused(handed, make):
    """At once: reading a pipe that nobody writes to would wait for ever."""
    elsewhere = handed.root / "solutions" / "solved.ipynb"
    handed.notebook.rename(elsewhere)
    make(handed.notebook, elsewhere)
    with pytest.raises(SubmissionFault, match="not a plain file"):
        handed.read()


@pytest.mark.parametrize("make", [link, hard_link, pipe])
def test_a_file_that_is_no_plain_file_is_left_out_and_said_so(handed, make):
    make(handed.folder / "answers.py", handed.root / "solutions" / "shapes.py")
    submission = handed.read()
    assert set(submission.files) == RELEASED
    assert submission.left_out == ("answers.py is not a plain file",)


def test_a_folder_that_is_a_link_is_not_followed(handed):
    (handed.folder / "course").symlink_to(handed.root)
    assert set(handed.read().files) == RELEASED
    elsewhere = handed.root / "elsewhere"
    handed.folder.rename(elsewhere)
    handed.folder.symlink_to(elsewhere)
    with pytest.raises(SubmissionFault, match="nothing was handed in"):
        handed.read()


def test_a_notebook_over_the_limit_is_refused_without_being_read(handed):
    with handed.notebook.open("wb") as file:
        file.truncate(MAX_NOTEBOOK_BYTES + 1)
    with pytest.raises(SubmissionFault, match="larger than 32 MiB"):
        handed.read()


def test_files_over_the_limits_are_left_out_and_said_so(handed):
    (handed.folder / "a.bin").write_bytes(bytes(FILES_BYTES // 2 - 10))
    (handed.folder / "b.bin").write_bytes(bytes(11))
    (handed.folder / "c.bin").write_bytes(bytes(10))
    submission = handed.read()
    assert set(submission.files) == {"a.bin", "c.bin"} | RELEASED
    assert [line.split()[0] for line in submission.left_out] == ["b.bin"]


def test_no_more_files_are_taken_than_allowed(handed):
    for i in range(MAX_FILES + 5):
        (handed.folder / f"{i:03}.txt").touch()
    submission = handed.read()
    assert len(submission.files) == MAX_FILES + len(RELEASED)
    assert submission.left_out == (f"more than {MAX_FILES} files: the rest was not looked at",)


def test_subfolders_and_hidden_files_go_along_and_what_tools_leave_does_not(handed):
    for name in ("sub/deep/data.csv", ".hidden", "timestamp.txt", "__pycache__/x.pyc", ".ipynb_checkpoints/y.ipynb"):
        (handed.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (handed.folder / name).write_text("x")
    assert set(handed.read().files) == {"sub/deep/data.csv", ".hidden"} | RELEASED


def test_a_name_that_is_no_unicode_does_no_harm(handed):
    (handed.folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    os.mkfifo(handed.folder / os.fsdecode(b"pipe\xe9"))
    assert handed.read().digest()


def test_a_name_with_a_line_break_starts_no_line_of_its_own(handed):
    (handed.folder / "x\nz_other: 0 of 5").symlink_to("/etc/hosts")
    (handed.folder / "a name, é.txt").write_text("x")
    submission = handed.read()
    assert submission.left_out == ("x?z_other: 0 of 5: a name that is not plain text",)
    assert "a name, é.txt" in submission.files


def test_the_helper_is_the_released_one_whatever_was_handed_in(handed):
    (handed.folder / "expect.py").write_text("def expect_close(*args): pass")
    assert handed.read().files["expect.py"] == (handed.root / "release" / "shapes" / "expect.py").read_bytes()


@pytest.mark.parametrize("name", ["expect/__init__.py", "expect.cpython-311-x86_64-linux-gnu.so", "expect.so"])
def test_what_would_be_imported_in_the_helpers_place_is_left_out(handed, name):
    for path in (handed.folder / name, handed.folder / "expected" / "data.csv", handed.folder / "expect.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("def expect_close(*args): pass")
    submission = handed.read()
    assert set(submission.files) == {"expected/data.csv", "expect.csv"} | RELEASED
    assert submission.left_out == (f"{name} hides a file of the assignment",)


# canonical form


def test_changed_checks_run_as_they_were_released(handed):
    notebook = handed.changed()
    named(notebook, "area_checks")["source"] = "pass"
    handed.write(notebook)
    [checks, _] = [cell for cell in handed.read().cells if cell.kind == "checks"]
    assert checks.source == source_of(named(handed.released, "area_checks"))


def test_of_checks_that_are_there_twice_the_last_are_the_checks(handed):
    notebook = handed.changed()
    copy = {**named(notebook, "area_checks"), "source": "first = 1", "id": "copy"}
    notebook["cells"].insert(0, copy)
    handed.write(notebook)
    cells = handed.read().cells
    assert (cells[0].kind, cells[0].source) == ("student", "first = 1")
    assert [cell.kind for cell in cells].count("checks") == 2


def test_deleted_checks_are_just_not_there(handed):
    notebook = handed.changed()
    notebook["cells"].remove(named(notebook, "area_checks"))
    handed.write(notebook)
    assert [cell.source for cell in handed.read().cells if cell.kind == "checks"] == [
        source_of(named(handed.released, "volume_checks"))
    ]


def test_a_demo_is_skipped_only_as_it_was_released(handed):
    notebook = handed.changed()
    demo_of(notebook)["source"] = source_of(demo_of(notebook)) + "\n\n"
    handed.write(notebook)
    assert [cell.kind for cell in handed.read().cells].count("demo") == 1
    demo_of(notebook)["source"] = source_of(demo_of(notebook)) + "helper = 1"
    handed.write(notebook)
    cells = handed.read().cells
    assert [cell.kind for cell in cells].count("demo") == 0
    assert any(cell.kind == "student" and "helper = 1" in cell.source for cell in cells)


def test_a_students_cell_that_is_called_a_demo_runs(handed):
    notebook = handed.changed()
    named(notebook, "area")["metadata"]["tags"] = ["demo"]
    handed.write(notebook)
    assert next(cell for cell in handed.read().cells if "def area" in cell.source).kind == "student"


@pytest.mark.parametrize("identity", [None, "", "a b", "<cell x>", "../x", 5, ["a"], "x" * 65, "\ud800", "a\nb"])
def test_cell_ids_are_unique_and_plain_whatever_was_handed_in(handed, identity):
    notebook = handed.changed()
    for cell in notebook["cells"]:
        cell["id"] = identity
        if identity is None:
            del cell["id"]
    handed.write(notebook)
    identities = [cell.cell_id for cell in handed.read().cells]
    assert len(set(identities)) == len(identities)
    assert all(i.replace("-", "").replace("_", "").isalnum() and len(i) <= 64 for i in identities)


def test_of_cells_with_one_id_the_first_keeps_it():
    cells = [{"cell_type": "code", "source": s, "metadata": {}, "id": i}
             for s, i in (("a", "cell-2"), ("b", "x"), ("c", "x"), ("d", "cell-2"))]  # fmt: skip
    found = canonical_cells({"cells": cells}, {"cells": []})
    assert [cell.cell_id for cell in found] == ["cell-2", "x", "cell-3", "cell-4"]
    clash = canonical_cells({"cells": [cells[0], {**cells[1], "id": ""}]}, {"cells": []})
    assert [cell.cell_id for cell in clash] == ["cell-2", "cell-2-"]


# the digest


def test_the_digest_stays_when_nothing_that_runs_changes(handed):
    before = handed.read().digest()
    notebook = handed.changed()
    for cell in code_cells(notebook):
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
        cell["execution_count"] = 7
    named(notebook, "area_checks")["source"] = "pass"
    notebook["metadata"]["kernelspec"] = {"name": "other"}
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "a note", "id": "note"})
    handed.write(notebook)
    (handed.folder / "timestamp.txt").write_text("2027-01-01")
    (handed.folder / "expect.py").write_text("pass")
    assert handed.read().digest() == before


def test_the_digest_changes_with_anything_that_runs(handed):
    digests = [handed.read().digest()]
    (handed.folder / "data.csv").write_text("1")
    digests.append(handed.read().digest())
    (handed.folder / "data.csv").write_text("2")
    digests.append(handed.read().digest())
    (handed.folder / "data.csv").rename(handed.folder / "data2.csv")
    digests.append(handed.read().digest())
    notebook = handed.changed()
    named(notebook, "area")["source"] = "def area(side): return side"
    handed.write(notebook)
    digests.append(handed.read().digest())
    cells = notebook["cells"]
    cells.append(cells.pop(cells.index(named(notebook, "area"))))
    handed.write(notebook)
    digests.append(handed.read().digest())
    (handed.root / "release" / "shapes" / "expect.py").write_text("def expect_close(*args): pass\n")
    digests.append(handed.read().digest())
    assert len(set(digests)) == len(digests)


def test_the_digest_keeps_cells_and_files_apart():
    def digest(*sources, **files):
        cells = tuple(Cell(f"c{i}", i, "student", source) for i, source in enumerate(sources))
        return Submission("shapes", "ada", cells, {name: content.encode() for name, content in files.items()}).digest()

    found = [digest("ab"), digest("a", "b"), digest("b", "a"), digest(a="b"), digest(b="a"), digest(a="", b="")]
    assert len(set(found)) == len(found)


def test_students_are_those_who_handed_something_in(handed):
    (handed.root / "submitted" / "bob" / "other").mkdir(parents=True)
    (handed.root / "submitted" / "carl").mkdir()
    (handed.root / "submitted" / "carl" / "shapes").write_text("a file")
    assert students_of(handed.root, "shapes") == ["ada"]


def test_modules_that_a_released_notebook_imports_are_found_in_any_cell() -> None:
    sources = (
        "import a\nimport b.c as d",
        "%matplotlib inline\nimport seen",
        "def f():\n    from e import g, h",
        "from . import i",
    )
    cells = [{"cell_type": "code", "source": source} for source in sources]
    text = {"cell_type": "markdown", "source": "import nothing"}
    assert imported_modules({"cells": [text, *cells]}) == ["a", "b.c", "seen", "e", "e.g", "e.h"]
