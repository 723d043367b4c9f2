"""Submissions that are not what they should be: files that are no notebooks, and notebooks that say absurd things."""

import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from attack import FAULT, Attack, Notebook, code_cell, write_notebook
from controls import (
    beats_stock_nbgrader,
    handed_in_as,
    is_no_strict_json,
    larger_than,
    more_files_than,
    never_read,
    read_by_whoever_opens_it,
    stops_nbformat,
    works_without_walls,
)

NOTHING = (0.0, 0.0)


def as_bytes(make: Callable[[bytes], bytes]) -> Callable[[Path, Notebook], None]:
    """Hands in other bytes than those of the notebook."""

    def place(folder: Path, notebook: Notebook) -> None:
        (folder / "shapes.ipynb").write_bytes(make(json.dumps(notebook).encode()))

    return place


def with_top(**changes: object) -> Callable[[Notebook], object]:
    """Changes the notebook's own entries."""
    return lambda notebook: notebook.update(changes)


def neighbour(folder: Path) -> Path:
    """The submission of an honest student of the same course; where there is none, the release."""
    course = folder.parents[2]
    there = course / "submitted" / "a_honest" / "shapes" / "shapes.ipynb"
    return there if there.exists() else course / "release" / "shapes" / "shapes.ipynb"


def link(folder: Path, notebook: Notebook) -> None:
    (folder / "shapes.ipynb").symlink_to(neighbour(folder))


def hard_link(folder: Path, notebook: Notebook) -> None:
    os.link(folder.parents[2] / "release" / "shapes" / "shapes.ipynb", folder / "shapes.ipynb")


def linked_folder(folder: Path, notebook: Notebook) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(neighbour(folder).parent)


def pipe(folder: Path, notebook: Notebook) -> None:
    os.mkfifo(folder / "shapes.ipynb")


def folder_of_that_name(folder: Path, notebook: Notebook) -> None:
    (folder / "shapes.ipynb").mkdir()


def socket_of_that_name(folder: Path, notebook: Notebook) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the name of a socket may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("shapes.ipynb")
    finally:
        os.chdir(here)


def pipe_beside(folder: Path, notebook: Notebook) -> None:
    write_notebook(folder, notebook)
    os.mkfifo(folder / "data.csv")


def strange_names(folder: Path, notebook: Notebook) -> None:
    write_notebook(folder, notebook)
    for name in (b"new\nline", b"\x1b[31mred", b"\xff\xfe", "\u202egnp.exe".encode(), b"<img src=x onerror=attack(1)>"):
        (folder / os.fsdecode(name)).write_text("x")


def line_of_its_own(folder: Path, notebook: Notebook) -> None:
    write_notebook(folder, notebook)
    (folder / "x\nz_honest: 0 of 5").symlink_to("/etc/hosts")


def deep(data: bytes) -> bytes:
    return data[:-1] + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def archive() -> bytes:
    """A file of some hundred kilobytes that unpacks to 128 MiB."""
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in ("../../../escaped", "/tmp/escaped-absolute", "large"):
            bomb.writestr(name, bytes(128 * 2**20 if name == "large" else 1))
    return data.getvalue()


def source_of_numbers(notebook: Notebook) -> None:
    notebook["cells"][1]["source"] = [1, 2, 3]


def half_a_character(notebook: Notebook) -> None:
    notebook["cells"].append(code_cell("text = '\ud800'  # \udfff", "\udc00"))
    notebook["metadata"]["title"] = "\ud800"


def odd_cells(notebook: Notebook) -> None:
    notebook["cells"] += [
        {"cell_type": "code"},
        {"cell_type": "heading", "level": 7, "source": "x", "metadata": None},
        {"cell_type": ["code"], "source": "x = 1", "metadata": {"nbgrader": [1]}, "outputs": "none"},
        {"cell_type": "markdown", "source": "![a](attachment:none.png)", "metadata": {"tags": "demo"}},
        {"cell_type": "code", "source": "y = 1", "metadata": {"tags": ["demo"], "nbgrader": {"grade_id": {}}}},
    ]


def same_ids(notebook: Notebook) -> None:
    for cell in notebook["cells"]:
        cell["id"] = "same"


def without_metadata(notebook: Notebook) -> None:
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def odd_names(notebook: Notebook) -> None:
    for number, cell in enumerate(notebook["cells"]):
        if "nbgrader" not in cell["metadata"]:
            cell["metadata"]["nbgrader"] = {
                "grade_id": f"../{number} <b>", "grade": True, "points": -1e308, "locked": "no", "solution": True,
                "task": True, "schema_version": -1,
            }  # fmt: skip


ATTACKS = (
    Attack(
        name="cut_off",
        what="Is cut off in the middle.",
        place=as_bytes(lambda data: data[:-200]),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is not JSON",
        control=stops_nbformat,
    ),
    Attack(
        name="another_kind_of_file",
        what="Is a PDF under the notebook's name.",
        place=as_bytes(lambda data: b"%PDF-1.7\n\x00\xff not a notebook"),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is not UTF-8 text",
        control=stops_nbformat,
    ),
    Attack(
        name="empty_file",
        what="Is an empty file.",
        place=as_bytes(lambda data: b""),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is an empty file",
        control=stops_nbformat,
    ),
    Attack(
        name="deep_json",
        what="Nests lists a hundred thousand deep.",
        place=as_bytes(deep),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is not JSON",
        control=stops_nbformat,
    ),
    Attack(
        name="format_3",
        what="Is a notebook of an older format.",
        change=with_top(nbformat=3, worksheets=[]),
        marks=NOTHING,
        verdict=FAULT,
        reason="not a notebook of format 4",
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="latin_1",
        what="Is not in UTF-8.",
        place=as_bytes(lambda data: data.replace(b"squares", "carrés".encode("latin-1"))),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is not UTF-8 text",
        control=stops_nbformat,
    ),
    Attack(
        name="hundred_megabytes",
        what="Is a hundred megabytes long.",
        place=as_bytes(lambda data: data + b" " * 100 * 2**20),
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is larger than 32 MiB",
        control=larger_than(100 * 2**20),
    ),
    Attack(
        name="four_megabytes_in_a_cell",
        what="Has a cell of four megabytes.",
        change=lambda notebook: notebook["cells"].append(code_cell("x = 1  #" + "x" * 4 * 2**20, "long")),
        control=larger_than(4 * 2**20),
    ),
    Attack(
        name="three_thousand_cells",
        what="Has three thousand cells.",
        change=lambda notebook: notebook["cells"].extend(code_cell("1", f"c{i}") for i in range(3000)),
        marks=NOTHING,
        verdict=FAULT,
        reason="no list of at most 2000 cells",
        control=larger_than(300_000),
    ),
    Attack(
        name="cells_that_are_none",
        what="Has a number where the list of cells should be.",
        change=with_top(cells=4),
        marks=NOTHING,
        verdict=FAULT,
        reason="no list of at most 2000 cells",
        control=stops_nbformat,
    ),
    Attack(
        name="source_of_numbers",
        what="Has a cell whose text is a list of numbers.",
        change=source_of_numbers,
        marks=NOTHING,
        verdict=FAULT,
        reason="cell 2 of the notebook is malformed",
        control=stops_nbformat,
    ),
    Attack(
        name="odd_cells",
        what="Has cells without a text, of kinds that there are not, with metadata of wrong types.",
        change=odd_cells,
        control=stops_nbformat,
    ),
    Attack(
        name="not_a_number",
        what="Holds NaN and infinities, which are not JSON, where numbers may stand.",
        place=as_bytes(lambda data: data.replace(b'"metadata": {}', b'"metadata": {"x": [NaN, -Infinity, 1e999]}')),
        control=is_no_strict_json,
    ),
    Attack(
        name="number_of_ten_thousand_digits",
        what="Holds a number that is longer than Python reads.",
        place=as_bytes(lambda data: data[:-1] + b', "big": ' + b"9" * 10_000 + b"}"),
        marks=NOTHING,
        verdict=FAULT,
        reason="the notebook is not JSON",
        control=stops_nbformat,
    ),
    Attack(
        name="half_a_character",
        what="Holds halves of characters, which cannot be written to a file.",
        change=half_a_character,
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="mark_of_byte_order",
        what="Starts with the mark of the byte order that some editors write.",
        place=as_bytes(lambda data: b"\xef\xbb\xbf" + data),
        control=stops_nbformat,
    ),
    Attack(
        name="no_metadata",
        what="Has lost all metadata, as some converters leave it.",
        change=without_metadata,
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="another_kernel",
        what="Asks for a kernel of another language, which is not installed.",
        change=lambda notebook: notebook["metadata"].update(
            kernelspec={"name": "julia-1.9", "display_name": "Julia", "language": "julia"}
        ),
        control=handed_in_as(lambda notebook: notebook["metadata"]["kernelspec"]["language"] == "julia"),
    ),
    Attack(
        name="same_ids",
        what="Gives all cells one identifier.",
        change=same_ids,
        control=handed_in_as(lambda notebook: {cell["id"] for cell in notebook["cells"]} == {"same"}),
    ),
    Attack(
        name="newer_format",
        what="Says that its format is newer than any.",
        change=with_top(nbformat_minor=10**6),
        control=handed_in_as(lambda notebook: notebook["nbformat_minor"] > 5),
    ),
    Attack(
        name="odd_names_of_tasks",
        what="Has nbgrader's metadata everywhere, with names that are paths and tags, negative points and wrong types.",
        change=odd_names,
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="link_to_a_neighbour",
        what="Is a symbolic link to another student's notebook.",
        place=link,
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is not a plain file",
        control=read_by_whoever_opens_it,
    ),
    Attack(
        name="second_name_of_a_file",
        what="Is a hard link to a file of the course.",
        place=hard_link,
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is not a plain file",
        control=read_by_whoever_opens_it,
    ),
    Attack(
        name="folder_of_a_neighbour",
        what="Is a symbolic link to another student's folder.",
        place=linked_folder,
        marks=NOTHING,
        verdict=FAULT,
        reason="nothing was handed in",
        control=read_by_whoever_opens_it,
    ),
    Attack(
        name="pipe",
        what="Is a pipe into which nobody writes.",
        place=pipe,
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is not a plain file",
        control=never_read,
        stock=False,
    ),
    Attack(
        name="folder_as_notebook",
        what="Is a folder under the notebook's name.",
        place=folder_of_that_name,
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is not a plain file",
        control=stops_nbformat,
    ),
    Attack(
        name="socket_as_notebook",
        what="Is a socket under the notebook's name.",
        place=socket_of_that_name,
        marks=NOTHING,
        verdict=FAULT,
        reason="shapes.ipynb is not a plain file",
        control=stops_nbformat,
    ),
    Attack(
        name="pipe_beside_it",
        what="Has a pipe beside the notebook.",
        place=pipe_beside,
        verdict=FAULT,
        reason="data.csv is not a plain file",
        control=beats_stock_nbgrader,
    ),
    Attack(
        name="strange_names",
        what="Has files whose names hold line breaks, terminal codes, tags, turned text and no UTF-8.",
        place=strange_names,
        verdict=FAULT,
        reason="a name that is not plain text",
        control=more_files_than(5),
    ),
    Attack(
        name="line_of_its_own",
        what="Has a link whose name is a line break and what the command prints of another student.",
        place=line_of_its_own,
        verdict=FAULT,
        reason="a name that is not plain text",
        hidden="\nz_honest: 0",
        control=more_files_than(0),
    ),
    Attack(
        name="thousand_files",
        what="Has a thousand files beside the notebook.",
        files={f"many/{number}.txt": "x" for number in range(1000)},
        verdict=FAULT,
        reason="more than 200 files",
        control=more_files_than(1000),
    ),
    Attack(
        name="archive_bomb",
        what="Unpacks an archive of a hundred kilobytes that holds 128 MiB, and names that lead out of the folder.",
        files={"data.zip": archive()},
        cell="""
import os, zipfile
tried("to unpack")
with zipfile.ZipFile("data.zip") as bomb:
    with bomb.open("large") as packed, open("large", "wb") as unpacked:
        try:
            while part := packed.read(2**20): unpacked.write(part)
        except OSError:
            pass
    size = os.path.getsize("large")
    os.unlink("large")
if size > 100 * 2**20:
    worked("unpacked", size)
""",
        control=works_without_walls,
    ),
)  # fmt: skip
