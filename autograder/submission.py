"""One submission as it was handed in, read without trusting it, and brought into canonical form.

Canonical means: the notebook's code cells in order, check cells as they were released whatever was done to them, demo
cells that were left as released marked for skipping, and the helper files of the assignment as they were released.
Nothing is followed out of the submission's folder, and nothing larger than allowed is read.
"""

import ast
import contextlib
import difflib
import hashlib
import json
import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from autograder.outputs import plain_text

MAX_NOTEBOOK_BYTES = 32 * 2**20
MAX_CELLS = 2000
MAX_FILES = 200
MAX_REASONS = 5
CHECKS_SUFFIX = "_checks"
_STUDENT_ID = re.compile(r"[^\W_][\w.@+-]*")
IGNORED_NAMES = {".ipynb_checkpoints", "__pycache__", "timestamp.txt"}


class SubmissionFault(Exception):
    """What was handed in cannot be graded; the text is a plain reason that the student may read."""


@dataclass(frozen=True)
class Cell:
    """A code cell in canonical form.

    Attributes:
        cell_id: Unique in the notebook.
        index: Its place among all cells of the submitted notebook, from 0.
        kind: "student", "checks" (visible checks, as released) or "demo" (unchanged since the release: not run).
        source: Its text.
    """

    cell_id: str
    index: int
    kind: Literal["student", "checks", "demo"]
    source: str


@dataclass(frozen=True)
class Submission:
    """What will run: canonical cells, and the files beside the notebook (name -> content)."""

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    assignment: str
    student: str
    cells: tuple[Cell, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Files that were not taken along, each with the reason."""

    def digest(self) -> str:
        """Hash of everything that runs."""
        digest = hashlib.sha256()
        for cell in self.cells:
            digest.update(json.dumps([cell.cell_id, cell.kind, cell.source]).encode())
        for name, content in sorted(self.files.items()):
            digest.update(json.dumps([name, hashlib.sha256(content).hexdigest()]).encode())
        return digest.hexdigest()

    def to_json(self) -> bytes:
        """All of it, to be handed to another process or machine."""
        return _AS_JSON.dump_json(self)

    @staticmethod
    def from_json(data: bytes) -> "Submission":
        """What `to_json` has written.

        Raises:
            ValueError: It is something else.
        """
        return _AS_JSON.validate_json(data)


_AS_JSON = TypeAdapter(Submission)


def submission_folder(root: Path, assignment: str, student: str) -> Path:
    """Where a student's submission lies."""
    return root / "submitted" / student / assignment


@dataclass(frozen=True)
class Release:
    """What students were given: the notebook, parsed, and the files beside it (name -> content)."""

    notebook: dict[str, Any]
    files: dict[str, bytes]

    @staticmethod
    def read(root: Path, assignment: str) -> "Release":
        """The release of an assignment.

        Raises:
            FileNotFoundError: It was not released.
        """
        folder = root / "release" / assignment
        beside = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".ipynb")
        return Release(read_released(root, assignment), {path.name: path.read_bytes() for path in beside})


def read_submission(root: Path, assignment: str, student: str, files_bytes: int, release: Release) -> Submission:
    """Read a student's submission of an assignment.

    Args:
        root: The course folder.
        assignment: Name of the assignment.
        student: The student's identifier, a folder in `submitted/`.
        files_bytes: What the files beside the notebook may hold together.
        release: What was released of the assignment.

    Raises:
        SubmissionFault: It cannot be graded, and why.
    """
    notebook = read_notebook(root, assignment, student)
    files, left_out = _read_files(submission_folder(root, assignment, student), assignment, files_bytes)
    modules = {Path(name).stem for name in release.files if name.endswith(".py")}
    hiding = [name for name in files if _module_before_source(name) in modules]
    left_out += tuple(plain_text(f"{name} hides a file of the assignment") for name in hiding)
    files = {name: content for name, content in files.items() if name not in hiding} | release.files
    return Submission(assignment, student, canonical_cells(notebook, release.notebook), files, _few(left_out))


def _few(reasons: tuple[str, ...]) -> tuple[str, ...]:
    more = len(reasons) - MAX_REASONS
    return reasons if more <= 0 else (*reasons[:MAX_REASONS], f"and {more} more files")


def read_notebook(root: Path, assignment: str, student: str) -> dict[str, Any]:
    """The notebook that a student handed in, parsed.

    Raises:
        SubmissionFault: There is none, or it is not one, and why.
    """
    folder = submission_folder(root, assignment, student)
    if folder.is_symlink() or not folder.is_dir():
        raise SubmissionFault("nothing was handed in")
    try:
        return parse_notebook(_read_file(folder, f"{assignment}.ipynb", MAX_NOTEBOOK_BYTES))
    except FileNotFoundError:
        likely = likely_notebook(folder, assignment)
        meant = f"; {likely} may be meant" if likely else ""
        raise SubmissionFault(f"there is no notebook {assignment}.ipynb in the submission{meant}") from None


def likely_notebook(folder: Path, assignment: str) -> str:
    """The notebook under another name that is probably meant, such as `vae (1).ipynb`; "" where none is.

    The only one there is, else the one whose name is nearest. A name that would not stand in a line is never proposed.
    """
    names = [
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(".ipynb") and entry.is_file(follow_symlinks=False) and entry.name.isprintable()
    ]
    if len(names) == 1:
        return names[0]
    plain = {name.lower(): name for name in sorted(names)}
    nearest = difflib.get_close_matches(f"{assignment}.ipynb", plain, n=1)
    return plain[nearest[0]] if nearest else ""


def read_released(root: Path, assignment: str) -> dict[str, Any]:
    """The released notebook, parsed."""
    notebook: dict[str, Any] = json.loads((root / "release" / assignment / f"{assignment}.ipynb").read_bytes())
    return notebook


def imported_modules(released: dict[str, Any]) -> list[str]:
    """Modules that a released notebook imports, in its order; names that it takes from them may be modules too."""
    found: dict[str, None] = {}
    for cell in released["cells"]:
        lines = cell_text(cell).splitlines() if cell["cell_type"] == "code" else []
        python = [line for line in lines if not line.lstrip().startswith(("%", "!"))]
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse("\n".join(python))):
                if isinstance(node, ast.Import):
                    found.update(dict.fromkeys(alias.name for alias in node.names))
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found[node.module] = None
                    found.update(dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names))
    return list(found)


def task_points(released: dict[str, Any]) -> dict[str, float]:
    """Points of every task of a released notebook, in its order."""
    graded = [cell["metadata"]["nbgrader"] for cell in released["cells"] if grade_id(cell).endswith(CHECKS_SUFFIX)]
    return {settings["grade_id"].removesuffix(CHECKS_SUFFIX): float(settings["points"]) for settings in graded}


def unsafe_files(folder: Path) -> list[Path]:
    """What lies in a submission's folder and is neither a plain file nor a folder: links, pipes, devices."""
    found = [Path(parent) / name for parent, folders, names in os.walk(folder) for name in (*folders, *names)]
    return [path for path in found if not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode))]


def _module_before_source(name: str) -> str:
    """The module that Python finds in this file or folder before it looks for a source file; "" for none."""
    top, slash, _ = name.partition("/")
    return top if slash else top.partition(".")[0] if Path(top).suffix in (".so", ".pyd") else ""


def parse_notebook(data: bytes) -> dict[str, Any]:
    """A notebook file as plain data, of which only what grading needs was checked.

    Raises:
        SubmissionFault: It is not a notebook of format 4.
    """
    if not data.strip():
        raise SubmissionFault("the notebook is an empty file")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SubmissionFault("the notebook is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise SubmissionFault("the notebook is not JSON: it may have been cut off or is another kind of file") from None
    version = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if version != 4:
        raise SubmissionFault(f"the file is not a notebook of format 4 (its nbformat is {version!r:.40})")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or len(cells) > MAX_CELLS:
        raise SubmissionFault(f"the notebook has no list of at most {MAX_CELLS} cells")
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict) or not isinstance(_text(cell.get("source", "")), str):
            raise SubmissionFault(f"cell {number} of the notebook is malformed")
    assert isinstance(notebook, dict)
    return notebook


def _text(source: Any) -> str | None:
    """A cell's source, which the format allows as a string or a list of lines; half characters are replaced."""
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source.encode("utf-8", "replace").decode() if isinstance(source, str) else None


def cell_text(cell: dict[str, Any]) -> str:
    """The source of a cell of a parsed notebook."""
    return str(_text(cell.get("source", "")))


def last_of_each(notebook: dict[str, Any]) -> dict[str, int]:
    """Where the last code cell with each task's or check's name stands: it is the one that counts."""
    return {grade_id(cell): i for i, cell in enumerate(notebook["cells"]) if cell.get("cell_type") == "code"}


def grade_id(cell: dict[str, Any]) -> str:
    """The task's or check's name in a cell's nbgrader metadata, or ""."""
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    return name if isinstance(name, str) else ""


def _is_demo(cell: dict[str, Any]) -> bool:
    tags = cell.get("metadata", {}).get("tags", [])
    return "demo" in tags


def canonical_cells(notebook: dict[str, Any], released: dict[str, Any]) -> tuple[Cell, ...]:
    """The code cells of a submitted notebook in canonical form.

    Of two cells that carry one check's name the last counts, as for nbgrader.
    """
    code = [cell for cell in released["cells"] if cell["cell_type"] == "code"]
    checks = {grade_id(cell): cell_text(cell) for cell in code if grade_id(cell).endswith(CHECKS_SUFFIX)}
    demos = {cell_text(cell).strip() for cell in code if _is_demo(cell)}
    submitted = [(i, cell) for i, cell in enumerate(notebook["cells"]) if cell.get("cell_type") == "code"]
    last = last_of_each(notebook)
    return tuple(_unique_ids(_canonical(submitted, checks, demos, last)))


def _canonical(
    submitted: list[tuple[int, dict[str, Any]]], checks: dict[str, str], demos: set[str], last: dict[str, int]
) -> Iterator[Cell]:
    for index, cell in submitted:
        name, source = grade_id(cell), cell_text(cell)
        cell_id = cell.get("id")
        cell_id = cell_id if isinstance(cell_id, str) and len(cell_id) <= 64 else ""
        if name in checks and last[name] == index:
            yield Cell(cell_id, index, "checks", checks[name])
        elif source.strip() in demos:
            yield Cell(cell_id, index, "demo", source)
        else:
            yield Cell(cell_id, index, "student", source)


def _unique_ids(cells: Iterator[Cell]) -> Iterator[Cell]:
    seen: set[str] = set()
    for cell in cells:
        plain = cell.cell_id.replace("-", "").replace("_", "")
        safe = plain.isascii() and plain.isalnum() and cell.cell_id not in seen
        cell_id = cell.cell_id if safe else f"cell-{cell.index + 1}"
        while cell_id in seen:
            cell_id += "-"
        seen.add(cell_id)
        yield Cell(cell_id, cell.index, cell.kind, cell.source)


def _read_file(folder: Path, name: str, limit: int) -> bytes:
    """A regular file's content; links, pipes, devices and files with other names elsewhere are refused."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        raise SubmissionFault(f"{name} is not a plain file") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise SubmissionFault(f"{name} is not a plain file")
        if status.st_size > limit:
            raise SubmissionFault(f"{name} is larger than {limit // 2**20} MiB")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)[:limit]
    finally:
        os.close(descriptor)


def _read_files(folder: Path, assignment: str, files_bytes: int) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files beside the notebook, up to the limits."""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    looked_at = 0
    room = files_bytes // 2  # the rest is for what the notebook writes
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED_NAMES)
        for name in sorted(names):
            path = (Path(parent) / name).relative_to(folder).as_posix()
            if name in IGNORED_NAMES or path == f"{assignment}.ipynb":
                continue
            looked_at += 1
            if not path.isprintable():  # in what is said of it, a line break would start a line of the student's own
                left_out.append(f"{_printable(path)}: a name that is not plain text")
                continue
            if looked_at > MAX_FILES:
                return files, (*left_out, f"more than {MAX_FILES} files: the rest was not looked at")
            try:
                content = _read_file(folder, path, room)
            except (SubmissionFault, OSError) as fault:
                left_out.append(plain_text(fault if isinstance(fault, SubmissionFault) else f"{path} cannot be read"))
                continue
            room -= len(content)
            files[path] = content
    return files, tuple(left_out)


def _printable(name: str) -> str:
    """A name as it may stand in a line: what cannot be printed there is replaced."""
    return "".join(character if character.isprintable() else "?" for character in name)


def misplaced(root: Path, assignment: str) -> list[str]:
    """Shell commands that put right what was probably handed in under another name: a notebook, or its folder.

    Nothing is moved by itself: whether that is what the student meant, an instructor decides.
    """
    commands = []
    for home in sorted((root / "submitted").glob("*")):
        folder = home / assignment
        if home.is_symlink() or not home.is_dir() or not home.name.isprintable():
            continue
        if not folder.exists():
            near = [
                entry.name
                for entry in os.scandir(home)
                if entry.is_dir(follow_symlinks=False)
                and entry.name.isprintable()
                and _plainly(entry.name) == _plainly(assignment)
            ]
            moved, target = (home / near[0], folder) if len(near) == 1 else (home / f"{assignment}.ipynb", folder)
            if near and likely_notebook(moved, assignment):
                commands.append(_move(root, moved, target))
            elif not moved.is_symlink() and moved.is_file():
                commands.append(f"mkdir {_quoted(root, folder)} && {_move(root, moved, folder / moved.name)}")
        elif folder.is_dir() and not folder.is_symlink() and not os.path.lexists(folder / f"{assignment}.ipynb"):
            likely = likely_notebook(folder, assignment)
            commands += [_move(root, folder / likely, folder / f"{assignment}.ipynb")] if likely else []
    return commands


def _plainly(name: str) -> str:
    """A name without what differs in a careless copy: case, separators, a number in brackets."""
    return re.sub(r"\(\d+\)|[\W_]", "", name.lower())


def _move(root: Path, source: Path, target: Path) -> str:
    return f"mv {_quoted(root, source)} {_quoted(root, target)}"


def _quoted(root: Path, path: Path) -> str:
    return shlex.quote(path.relative_to(root).as_posix())


def students_of(root: Path, assignment: str) -> list[str]:
    """Identifiers of the students who handed something in, in order."""
    return [name for name in _folders(root, assignment) if is_student_id(name)]


def strange_folders(root: Path, assignment: str) -> list[str]:
    """Names in `submitted/` that hold a submission but cannot be a student's identifier; not fit to be printed."""
    return [name for name in _folders(root, assignment) if not is_student_id(name)]


def _folders(root: Path, assignment: str) -> list[str]:
    return sorted(folder.parent.name for folder in (root / "submitted").glob(f"*/{assignment}") if folder.is_dir())


def is_student_id(name: str) -> bool:
    """Whether a name can be a student's identifier, which becomes the name of folders and files."""
    return len(name) <= 100 and _STUDENT_ID.fullmatch(name) is not None
