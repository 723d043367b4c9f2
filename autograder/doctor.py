"""Whether grading is safe on this machine: tries what grading relies on, and each way out of a room, and names fixes.

An attempt to break out that fails outside too proves nothing, and is reported as such (see `autograder.escapes`).
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import autograder
from autograder import escapes
from autograder.course import Course, CourseError, Limits, load_course
from autograder.gpu import GpuUnavailable, demand_gpu
from autograder.postgres import ask, on_postgres
from autograder.sandbox import bubblewrap, lockdown

if TYPE_CHECKING:
    from autograder.sandbox.room import Sandbox

DISTRIBUTION = "generative-ai-foundations"
# The smallest that a course may set: what holds here holds for every course, and trying costs the machine least.
TRIED_LIMITS = Limits(memory_bytes=2 * 2**30, processes=32, files_bytes=4 * 2**20, wall_factor=2)
MIB, GIB = 2**20, 2**30
ENOUGH_DISK, TOO_LITTLE_DISK, ENOUGH_MEMORY = 2 * GIB, 200 * MIB, 3 * GIB
COMMAND_SECONDS, BUSY_SECONDS = 20.0, 3.0


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Grading is safe, but slower or not quite what was tested."""
    PROBLEM = "problem"
    """Nothing can be graded, or nothing should be."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How bad it is.
        subject: What was looked at.
        text: What was found, in one line.
        fix: What to do about it; empty where nothing is to be done.
        escape: Whether student code can leave its room this way.
    """

    level: Level
    subject: str
    text: str
    fix: str = ""
    escape: bool = False


@dataclass(frozen=True)
class Heading:
    """What is looked at from here on."""

    text: str


def _ok(subject: str, text: str) -> Finding:
    return Finding(Level.OK, subject, text)


def _warning(subject: str, text: str, fix: str = "") -> Finding:
    return Finding(Level.WARNING, subject, text, fix)


def _problem(subject: str, text: str, fix: str = "") -> Finding:
    return Finding(Level.PROBLEM, subject, text, fix)


def examine(root: Path | None) -> Iterator[Finding | Heading]:
    """Look at the machine, try the sandbox, and look at the course in a folder where there is one.

    Findings come as they are made. Nothing of the course is changed.
    """
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(_ask_nbgrader(root)) if root else None  # answers while the sandbox is tried
        yield Heading("Python and packages")
        yield python_version()
        yield from package_versions(root)
        yield Heading("The machine")
        yield graphics()
        yield from disk(root)
        yield memory()
        yield Heading("The sandbox (starting it takes some seconds)")
        yield from sandbox(root)
        if root and asked:
            yield Heading("The course")
            yield from course_settings(root, asked)
            yield gradebook(root)


def verdict(findings: list[Finding]) -> str:
    """The last line: whether to grade here."""
    escapes = [one.subject for one in findings if one.escape]
    problems = sum(one.level == Level.PROBLEM for one in findings)
    warnings = sum(one.level == Level.WARNING for one in findings)
    if escapes:
        return f"NOTHING SHOULD BE GRADED HERE: student code can {', '.join(escapes)}."
    if problems:
        return f"{problems} problem{'s' * (problems != 1)} to put right before anything is graded here."
    return "Grading is safe here" + (f"; {warnings} warning{'s' * (warnings != 1)}." if warnings else ".")


def line(step: Finding | Heading) -> str:
    """A heading or a finding as printed, its fix in a second line."""
    if isinstance(step, Heading):
        return f"\n{step.text}"
    text = f"  {step.level:<7}  {step.subject}: {step.text}"
    return f"{text}\n{'':11}Fix: {step.fix}" if step.fix else text


# Python and packages


def python_version() -> Finding:
    """Whether this Python is one of those that the package is made for."""
    from packaging.specifiers import SpecifierSet

    allowed = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    found = f"{platform.python_version()} at {sys.executable}"
    if SpecifierSet(allowed).contains(platform.python_version(), prereleases=True):
        return _ok("Python", found)
    return _problem("Python", f"{found}; the course needs {allowed}", "make -B demo PYTHON=python3.12")


def package_versions(root: Path | None) -> Iterator[Finding]:
    """What is required and missing or too old; what differs from the versions that were tested together."""
    constraints = next((path for path in _constraint_files(root) if path.is_file()), None)
    project = Path(autograder.__file__).parents[1]
    told = f"--constraint {constraints} " if constraints else ""
    fix = f"{sys.executable} -m pip install {told}--editable {project}"
    unmet = list(_unmet_requirements())
    if unmet:
        yield _problem("packages", "; ".join(unmet), fix)
    if constraints is None:
        yield _warning("package versions", "there is no constraints.txt to compare with")
        return
    different = list(_different_versions(constraints))
    if different:
        yield _warning("package versions", f"not those that were tested: {', '.join(different)}", fix)
    elif not unmet:
        yield _ok("package versions", f"those of {constraints}")


def _constraint_files(root: Path | None) -> Iterator[Path]:
    if root is not None:
        yield root / "constraints.txt"
    yield Path(autograder.__file__).parents[1] / "constraints.txt"


def _unmet_requirements() -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _installed(requirement.name)
        if found is None:
            yield f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, and {requirement.specifier} is needed"


def _different_versions(constraints: Path) -> Iterator[str]:
    """Installed packages whose version is another one than the file's; what is not installed is not needed."""
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, pinned, wanted = line.partition("#")[0].strip().partition("==")
        found = _installed(name) if pinned else None
        if found is not None and found.partition("+")[0] != wanted:  # +cpu and the like are builds of one version
            yield f"{name} is {found} instead of {wanted}"


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# what the sandbox needs


def bubblewrap_version() -> Finding:
    """Whether bubblewrap and, for root, its helpers are installed; its version."""
    if sys.platform != "linux":
        return _problem("bubblewrap", f"there is none for {sys.platform}", "grade on Linux, or in a virtual machine")
    try:
        program = bubblewrap.find_programs()
    except bubblewrap.SandboxUnavailable as error:
        return _problem("bubblewrap", str(error).partition(",")[0], bubblewrap.INSTALL_HINT)
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _problem("bubblewrap", f"{program} cannot be run: {error}", bubblewrap.INSTALL_HINT)
    if done.returncode:
        return _problem("bubblewrap", f"{program} does not work: {_last_line(done.stderr)}", bubblewrap.INSTALL_HINT)
    return _ok("bubblewrap", f"{done.stdout.strip()} at {program}")


def system_call_filter() -> Finding:
    """Whether there is a system call filter for this machine's architecture."""
    machine, known = platform.machine(), lockdown._ARCHITECTURES
    if machine in known:
        return _ok("system call filter", f"made for {machine}")
    return _problem("system call filter", f"there is none for {machine}", f"grade on one of {', '.join(known)}")


def root_needs() -> Iterator[Finding]:
    """For root: an unprivileged user takes over, and must be able to read Python and its packages."""
    if os.getuid() != 0:
        return
    missing = [program for program in ("setpriv", "unshare", "mount") if not shutil.which(program)]
    if missing:
        fix = "install it with `apt-get install util-linux mount` or `dnf install util-linux`"
        yield _problem("running as root", f"{', '.join(missing)} is not there to give up being root", fix)
    else:
        yield _ok("running as root", "setpriv, unshare and mount are there to give up being root")
    closed = [str(path) for path in _python_files() if not _others_can_read(path)]
    if closed:
        yield _problem("reading Python", f"others cannot read {', '.join(closed)}", f"chmod -R o+rX {' '.join(closed)}")
    else:
        yield _ok("reading Python", "an unprivileged user can read Python and its packages")


def _python_files() -> list[Path]:
    """What stands for the Python installation: its folder, the interpreter, folders of packages and their inits."""
    folders = [Path(sys.base_prefix).resolve(), *bubblewrap.package_folders()]
    inits = [path for folder in folders[1:] for name in ("torch", "numpy") if (path := folder / name).is_dir()]
    return [*folders, Path(sys.executable).resolve(), *inits, *(path / "__init__.py" for path in inits)]


def _others_can_read(path: Path) -> bool:
    try:
        wanted = 0o005 if path.is_dir() else 0o004
        return path.stat().st_mode & wanted == wanted
    except OSError:
        return False


# the machine


def graphics() -> Finding:
    """Whether there is a GPU, which is not used yet."""
    texts = [_read(path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = [match[1].strip() for text in texts if (match := re.search(r"^Model:(.*)$", text, re.MULTILINE))]
    if not models and Path("/dev/kfd").exists():
        models = ["an AMD GPU"]
    if models:
        return _ok("GPU", f"{', '.join(models)}; grading on a GPU is not supported yet and uses the CPU")
    return _ok("GPU", "none; none is needed, grading uses the CPU")


def disk(root: Path | None) -> Iterator[Finding]:
    """Free space where the sandbox and the course keep their files."""
    folders = {"for the sandbox": Path("/tmp" if os.getuid() == 0 else tempfile.gettempdir())}
    if root is not None:
        folders["for results"] = root
    for purpose, folder in folders.items():
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield _problem(f"disk {purpose}", f"{folder} cannot be looked at: {error.strerror}")
            continue
        text, fix = f"{free / GIB:.1f} GiB free in {folder}", f"delete or move what is not needed from {folder}"
        if not os.access(folder, os.W_OK):
            yield _problem(
                f"disk {purpose}", f"{folder} cannot be written to", f"give yourself the right: ls -ld {folder}"
            )
        elif free < TOO_LITTLE_DISK:
            yield _problem(f"disk {purpose}", text, fix)
        else:
            yield _warning(f"disk {purpose}", text, fix) if free < ENOUGH_DISK else _ok(f"disk {purpose}", text)


def memory() -> Finding:
    """Memory that is free now, on the machine or in the container's share of it."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    if found is None:
        return _warning("memory", "how much is free cannot be told here")
    free = int(found[1]) * 1024
    limit, used = (_read(Path("/sys/fs/cgroup", name)).strip() for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    text = f"{free / GIB:.1f} GiB free"
    if free >= ENOUGH_MEMORY:
        return _ok("memory", text)
    return _warning("memory", f"{text}; grading needs about {ENOUGH_MEMORY / GIB:g}", "close other programs")


# the course


def course_settings(root: Path, asked: subprocess.Popen[str]) -> Iterator[Finding]:
    """Whether the course's settings load and are safe, and whether nbgrader works by them."""
    try:
        course = load_course(root)
    except CourseError as error:
        yield _problem("course_config.py", _one_line(str(error)), "put right what it says")
        return
    count = len(course.assignments)
    yield _ok("course_config.py", f"the course {course.id} with {count} assignment{'s' * (count != 1)}")
    if course.sandbox == "none":
        text = 'sandbox="none" runs what students wrote with all your rights'
        yield _problem("sandbox setting", text, 'sandbox="bubblewrap" in course_config.py')
    if course.device == "cuda":
        yield _gpu_setting()
    yield nbgrader_settings(root, course, asked)


def _gpu_setting() -> Finding:
    """Whether there is a GPU that submissions can run on, as the course asks."""
    try:
        gpu = demand_gpu()
    except GpuUnavailable as error:
        return _problem("device setting", str(error), 'device="auto" in course_config.py')
    return _ok("device setting", f'device="cuda": GPU {gpu.name}, one submission at a time')


# Loads the configuration as each of nbgrader's commands does, and makes nothing.
_NBGRADER_SETTINGS = """
import json, autograder
from nbgrader.apps.baseapp import NbGrader
app = NbGrader()
app.load_config_file()
folder, steps = app.config.CourseDirectory, app.config.Autograde.get("autograde_preprocessors", [])
print(json.dumps([folder.get("course_id", ""), folder.get("root", ""), [str(step) for step in steps]]))
"""


def _ask_nbgrader(root: Path) -> subprocess.Popen[str]:
    """Begin to ask nbgrader what it works by: importing it takes seconds."""
    command = [sys.executable, "-c", _NBGRADER_SETTINGS]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def nbgrader_settings(root: Path, course: Course, asked: subprocess.Popen[str]) -> Finding:
    """Whether nbgrader, started in the course's folder, works on this course with our step of autograding.

    nbgrader only logs an error in its configuration, and goes on with its own defaults.
    """
    subject = "nbgrader's settings"
    fix = f"put the nbgrader_config.py that came with the course into {root}"
    said = ""
    try:
        printed, said = asked.communicate(timeout=COMMAND_SECONDS)
        course_id, folder, steps = json.loads(printed)
    except subprocess.TimeoutExpired:
        asked.kill()
        return _problem(subject, "nbgrader does not say them in time", "run `course doctor` again")
    except ValueError:
        return _problem(subject, f"nbgrader cannot be asked for them: {_last_line(said)}", fix)
    if course_id != course.id or not folder or Path(folder).resolve() != root.resolve():
        found = f"{course_id or 'no course'!r} in {folder or 'no folder'}"
        return _problem(subject, f"nbgrader works on {found} instead of {course.id!r} in {root}", fix)
    if "autograder.gradebook.RunChecks" not in steps:
        return _problem(subject, "nbgrader would run what students wrote itself, with your rights", fix)
    return _ok(subject, f"nbgrader works on {course_id!r} with our step of autograding")


def gradebook(root: Path) -> Finding:
    """Whether marks can be recorded now. Takes the lock that writing needs, gives it back, and writes nothing."""
    with contextlib.suppress(CourseError):  # of settings that do not load, another finding tells
        course = load_course(root)
        if on_postgres(course):
            return _gradebook_on_postgres(course)
    path = root / "gradebook.db"
    if not path.exists():
        return _ok("gradebook", "there is none yet; `course release` makes it")
    if not os.access(path, os.W_OK):
        return _problem("gradebook", f"{path} cannot be written to", f"give yourself the right: ls -l {path}")
    try:
        address = f"file:{quote(str(path))}?mode=rw"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        ) as database:
            database.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        fix = f"end the program that holds it (`fuser {path}` names it); a formgrader that only shows pages does not"
        return _problem("gradebook", f"{path} is in use: {error}", fix)
    except sqlite3.DatabaseError as error:
        return _problem("gradebook", f"{path} is damaged: {error}", "put a backup in its place")
    if tables and "submitted_assignment" not in tables:
        return _problem("gradebook", f"{path} is not a gradebook of nbgrader", "move it away and run `course release`")
    return _ok("gradebook", "free, and can be written to")


def _gradebook_on_postgres(course: Course) -> Finding:
    try:
        ask(course, "SELECT id FROM student LIMIT 1", ())
    except CourseError as error:
        return _problem("gradebook", _one_line(str(error)), "start the server, or put the address right")
    if shutil.which("pg_dump") is None:
        return _problem("gradebook", "there is no pg_dump to make backups with", "apt-get install postgresql-client")
    return _ok("gradebook", f"{course.gradebook} answers")


# the sandbox


def sandbox(root: Path | None) -> Iterator[Finding | Heading]:
    """What the sandbox needs; then start the real one and try to break out of it."""
    bwrap = bubblewrap_version()
    yield bwrap
    yield system_call_filter()
    yield from root_needs()
    if bwrap.level == Level.PROBLEM:
        yield _problem(
            "ways out of a room", "none was tried: there is no sandbox", "put right what is said of bubblewrap"
        )
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(escapes.folder_for_traps())
        forbidden = root or folder
        walls = walls_stand(folder, forbidden)
        yield walls
        if walls.level == Level.PROBLEM:
            return
        traps = stack.enter_context(escapes.Traps.set_in(folder))
        yield from _tried(stack, forbidden, root, traps)


def _tried(
    stack: contextlib.ExitStack, forbidden: Path, root: Path | None, traps: escapes.Traps
) -> Iterator[Finding | Heading]:
    try:
        from autograder.sandbox.room import Sandbox

        started = time.monotonic()
        warm = stack.enter_context(Sandbox("bubblewrap", TRIED_LIMITS, forbidden))
        warm.wait()
    except Exception as error:  # torch may not load, and whatever else goes wrong is what is looked for
        yield _problem(
            "template",
            f"it does not start: {_one_line(str(error))}",
            "put right what it says; `make -B demo` installs the packages anew",
        )
        return
    yield _ok("template", f"it started in {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    try:
        room, other = (stack.enter_context(contextlib.closing(warm.open())) for _ in range(2))
    except Exception as error:
        yield _problem("rooms", f"none can be opened: {_one_line(str(error))}", _namespaces_fix())
        return
    yield nested(warm, (time.monotonic() - started) / 2)
    yield Heading("Ways out of a room, each tried in one and, to prove the attempt, outside")
    for tried in escapes.escapes(root, TRIED_LIMITS, room, other, traps, outside_too=True):
        yield _judged(tried.what, tried.inside, tried.outside)


def walls_stand(folder: Path, forbidden: Path) -> Finding:
    """Whether bubblewrap starts a process behind our walls: user namespaces are allowed, and Python is readable."""
    subject = "user namespaces"
    try:
        room = bubblewrap.write_room(folder)
        walls = bubblewrap.build_walls(room, nested=True, files_bytes=MIB, forbidden=forbidden)
        failure = _start(walls, ["/bin/sh", "-c", ":"], folder)
        if failure:
            return _problem(subject, f"bubblewrap cannot make the sandbox: {failure}", _namespaces_fix())
        failure = _start(walls, [bubblewrap.interpreter(), "-I", "-c", "pass"], folder)
    except bubblewrap.SandboxUnavailable as error:
        return _problem("the sandbox", _one_line(str(error)), "put right what it says")
    if failure:
        return _problem("the sandbox", f"Python does not start in it: {failure}", f"chmod -R o+rX {sys.base_prefix}")
    return _ok(subject, "bubblewrap can make them, and Python starts inside")


def _start(walls: bubblewrap.Walls, program: list[str], folder: Path) -> str:
    """Run a program behind the walls; "" or how it failed."""
    stage = folder / "stage"
    stage.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    try:
        line, options = bubblewrap.command(walls, program, reading, stage)
        process = subprocess.Popen(
            line, pass_fds=(reading,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, env={"PATH": os.environ.get("PATH", os.defpath)}, cwd="/",
        )  # fmt: skip
    finally:
        os.close(reading)
    with process:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(options)
        try:
            _, said = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"it did not end within {COMMAND_SECONDS:g} s"
    return "" if process.returncode == 0 else _last_line(said) or f"exit code {process.returncode}"


def nested(warm: "Sandbox", seconds: float) -> Finding:
    """Whether rooms can have namespaces of their own inside the sandbox."""
    if warm.isolation == "namespaces":
        return _ok("nested namespaces", f"a room opens in {seconds:.2f} s")
    return _warning(
        "nested namespaces",
        f"denied: each submission gets a bubblewrap of its own, as safe, but {seconds:.0f} s slower",
        _namespaces_fix(),
    )


def _namespaces_fix() -> str:
    """What denies namespaces on this machine, by its settings, and what to do about it."""
    if _read(Path("/proc/sys/user/max_user_namespaces")).strip() == "0":
        return "sudo sysctl -w user.max_user_namespaces=10000"
    if _read(Path("/proc/sys/kernel/unprivileged_userns_clone")).strip() == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _read(Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")).strip() not in ("", "0"):
        return (
            "give bubblewrap an AppArmor profile: write `abi <abi/4.0>, include <tunables/global> "
            "profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }` to /etc/apparmor.d/bwrap and run "
            "`sudo apparmor_parser -r /etc/apparmor.d/bwrap`"
        )
    if any(Path(name).exists() for name in ("/.dockerenv", "/run/.containerenv")):
        return (
            "start the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined` and, to grade as root, `--cap-add SYS_ADMIN`"
        )
    return (
        "no setting of the kernel denies them: ask whoever runs this machine what does (SELinux, systemd, a container)"
    )


# Ways out


def _judged(what: str, inside: bool | str, outside: bool | str | None) -> Finding:
    """What an attempt shows; a text in place of an answer says why there is none."""
    if inside is True:
        fix = "look for changes in autograder/sandbox/; on an untouched copy, tell those who keep this package"
        return Finding(Level.PROBLEM, what, "IT WORKED in a room", fix, escape=True)
    if isinstance(inside, str):
        return _problem(
            what, f"could not be tried: {inside}", "run `course doctor` again; grade nothing before it works"
        )
    if outside is True:
        return _ok(what, "failed in a room, as it should; works outside")
    reason = f" ({outside})" if outside else ""
    return _warning(what, f"failed in a room, but outside too{reason}: this machine forbids it anyway")


# text


def _read(path: Path) -> str:
    """A small text file; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
