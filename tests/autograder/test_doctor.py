"""What `course doctor` says: on this machine as it is, and on real sandboxes whose walls were weakened on purpose."""

import contextlib
import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyCourse

from autograder import doctor, escapes
from autograder.doctor import Finding, Level, examine, verdict
from autograder.sandbox import bubblewrap, room

ATTEMPTS = {
    "read the course folder", "read the home folder of whoever grades", "read files of this machine",
    "read the grader's environment", "see processes of this machine", "write outside its folders", "reach a network",
    "write kernel settings", "make new namespaces", "mount", "trace a process", "take more memory than its limit",
    "start more processes than its limit", "see another submission", "leave a process behind",
}  # fmt: skip


def start(folder: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    """`course doctor` as an instructor types it, under way."""
    command = [sys.executable, "-c", "from autograder.cli import main; main()", "doctor", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """`course doctor` as an instructor types it."""
    process = start(folder, environment, *options)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and the time of its last change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def left_behind(pid: int) -> set[str]:
    """What a process that tried ways out might leave: folders, and processes by their command lines."""
    mark = f"course-doctor-{pid}-"
    found = {str(path) for place in ("/tmp", "/dev/shm") for path in Path(place).glob(f"{mark}*")}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found |= {path.parent.name} if mark.encode() in path.read_bytes() else set()
    return found


def tried(root: Path | None) -> list[Finding]:
    """What trying the sandbox finds."""
    return [step for step in doctor.sandbox(root) if isinstance(step, Finding)]


def escapes_of(findings: list[Finding]) -> set[str]:
    assert {finding.subject for finding in findings} >= ATTEMPTS
    return {finding.subject for finding in findings if finding.escape}


def test_all_is_well_here(released: TinyCourse, environment: dict[str, str]) -> None:
    before = files_of(released.root)
    process = start(released.root, environment, "--json")
    stdout, stderr = process.communicate()
    found = json.loads(stdout)
    by_subject = {finding["subject"]: finding for finding in found["findings"]}
    assert [finding for finding in found["findings"] if finding["level"] == "problem"] == []
    assert (process.returncode, found["safe"]) == (0, True)
    assert found["verdict"].startswith("Grading is safe here")
    for attempt in ATTEMPTS:
        assert by_subject[attempt]["level"] == "ok", by_subject[attempt]
        assert by_subject[attempt]["text"] == "failed in a room, as it should; works outside"
    assert by_subject["course_config.py"]["text"] == "the course tiny with 1 assignment"
    assert by_subject["gradebook"]["text"] == "free, and can be written to"
    assert {"Python", "bubblewrap", "user namespaces", "nested namespaces", "template", "memory", "GPU"} <= {
        *by_subject
    }
    assert "Ways out of a room" in stderr
    assert files_of(released.root) == before
    assert left_behind(process.pid) == set()


def test_without_bubblewrap_it_says_how_to_install_it(tmp_path: Path, environment: dict[str, str]) -> None:
    """Outside a course, too."""
    done = run(tmp_path, {**environment, "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "problem  bubblewrap: bubblewrap is not installed\n           Fix: install it with `sudo apt" in done.stdout
    assert "problem  ways out of a room: none was tried" in done.stdout
    assert done.stdout.endswith(" problems to put right before anything is graded here.\n")
    assert done.stderr == "Not in a course's folder: only the machine is looked at.\n"
    assert "The course" not in done.stdout


def test_without_walls_every_attempt_works_and_nothing_should_be_graded(
    tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So none of them fails elsewhere for a reason of its own."""
    real = room.Sandbox
    monkeypatch.setattr(room, "Sandbox", lambda kind, *arguments: real("none", *arguments))
    found = tried(tiny_course.root)
    for_root = set() if os.getuid() == 0 else {"write kernel settings", "mount"}
    assert escapes_of(found) == ATTEMPTS - for_root
    assert verdict(found).startswith("NOTHING SHOULD BE GRADED HERE: student code can read the course folder, ")
    assert left_behind(os.getpid()) == set()


def edit_room(monkeypatch: pytest.MonkeyPatch, edits: dict[str, tuple[str, str]]) -> None:
    """Change what enters the sandbox: file -> (text that it holds once, text in its place)."""
    write = bubblewrap.write_room

    def write_edited(folder: Path) -> Path:
        written = write(folder)
        for name, (old, new) in edits.items():
            path = written / "autograder" / "sandbox" / name
            text = path.read_text()
            assert text.count(old) == 1, old
            path.write_text(text.replace(old, new))
        return written

    monkeypatch.setattr(bubblewrap, "write_room", write_edited)


def edit_arguments(monkeypatch: pytest.MonkeyPatch, edit: Callable[[list[str]], list[str]]) -> None:
    """Change what bubblewrap is started with."""
    made = bubblewrap.arguments
    monkeypatch.setattr(bubblewrap, "arguments", lambda walls, sources: edit(made(walls, sources)))


def test_walls_that_show_and_connect_too_much_are_found_out(
    tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = bubblewrap.build_walls

    def show_the_course(*arguments: Any, **options: Any) -> bubblewrap.Walls:
        walls = build(*arguments, **options)
        return replace(walls, folders=(*walls.folders, (tiny_course.root, "/srv/elsewhere")))

    monkeypatch.setattr(bubblewrap, "build_walls", show_the_course)
    edit_arguments(
        monkeypatch,
        lambda given: [*given[: given.index("--remount-ro")], "--share-net", "--chdir", bubblewrap.HOME],
    )
    edit_room(monkeypatch, {"template.py": (" | lockdown.CLONE_NEWNET)", ")")})
    found = tried(tiny_course.root)
    assert escapes_of(found) == {"read the course folder", "reach a network", "write outside its folders"}
    assert verdict(found).startswith("NOTHING SHOULD BE GRADED HERE")


@pytest.mark.long
def test_rooms_that_are_not_locked_down_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_room(monkeypatch, {
        "lockdown.py": ("    resource.setrlimit(kind, (value, value))", "    pass"),
        "template.py": ("        lockdown.filter_system_calls(all_threads=gpu is not None)\n", ""),
    })  # fmt: skip
    assert escapes_of([*tried(None), Finding(Level.OK, "read the course folder", "")]) == {
        "make new namespaces", "trace a process", "take more memory than its limit",
        "start more processes than its limit",
    }  # fmt: skip


@pytest.mark.long
def test_rooms_that_share_folders_or_are_not_ended_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    edit_room(monkeypatch, {
        "template.py": ("    for folder in (HOME, SHARED_MEMORY, TEMPORARY):", "    for folder in (HOME,):"),
    })  # fmt: skip
    monkeypatch.setattr(room.Room, "close", lambda room: None)
    monkeypatch.setattr(escapes, "GONE_SECONDS", 0.5)
    found = [*tried(None), Finding(Level.OK, "read the course folder", "")]
    assert escapes_of(found) == {"see another submission", "leave a process behind"}
    assert left_behind(os.getpid()) == set()


@pytest.mark.long
def test_where_nested_namespaces_are_denied_grading_is_slower_and_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "Sandbox", functools.partial(room.Sandbox, nested=False))
    found = {finding.subject: finding for finding in tried(None)}
    assert found["nested namespaces"].level == Level.WARNING
    assert "a bubblewrap of its own, as safe, but" in found["nested namespaces"].text
    assert {subject for subject, finding in found.items() if finding.level != Level.OK} == {"nested namespaces"}


def test_a_template_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    edit_room(
        monkeypatch,
        {"template.py": ("        cells = warm_up(", '        raise ImportError("no torch")\n        warm_up(')},
    )
    found = tried(None)[-1]
    assert (found.level, found.subject) == (Level.PROBLEM, "template")
    assert "ImportError: no torch" in found.text


def test_a_course_that_student_code_could_read_is_a_problem() -> None:
    found = tried(Path("/usr/share"))[-1]
    assert found.level == Level.PROBLEM
    assert "/usr/share lies inside /usr" in found.text


def test_where_bubblewrap_can_make_no_namespaces_its_words_and_a_fix_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    edit_arguments(monkeypatch, lambda given: [*given, "--userns", "99"])
    found = tried(None)[-1]
    assert (found.level, found.subject) == (Level.PROBLEM, "user namespaces")
    assert "bubblewrap cannot make the sandbox: bwrap: " in found.text
    assert found.fix


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"user/max_user_namespaces": "0\n"}, "sysctl -w user.max_user_namespaces"),
        ({"kernel/unprivileged_userns_clone": "0\n"}, "sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "/etc/apparmor.d/bwrap"),
    ],
)
def test_the_fix_for_namespaces_follows_the_settings_of_the_kernel(
    settings: dict[str, str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = {"user/max_user_namespaces": "100", "kernel/unprivileged_userns_clone": "1"}
    values = {Path("/proc/sys", name): value for name, value in {**allowed, **settings}.items()}
    monkeypatch.setattr(doctor, "_read", lambda path: values.get(path, ""))
    assert fix in doctor._namespaces_fix()


def test_an_attempt_that_fails_outside_too_proves_nothing() -> None:
    assert doctor._judged("mount", False, True).level == Level.OK
    assert doctor._judged("mount", False, False).level == Level.WARNING
    assert doctor._judged("mount", False, "it was refused").text.startswith("failed in a room, but outside too")
    unclear = doctor._judged("mount", "the process ended", True)
    assert (unclear.level, unclear.escape) == (Level.PROBLEM, False)


def course_findings(course: TinyCourse) -> dict[str, Finding]:
    with doctor._ask_nbgrader(course.root) as asked:
        return {finding.subject: finding for finding in doctor.course_settings(course.root, asked)}


def test_a_course_that_does_not_load_is_a_problem(tiny_course: TinyCourse) -> None:
    tiny_course.edit(tiny_course.config, 'title="Shapes"', 'titel="Shapes"')
    (found,) = course_findings(tiny_course).values()
    assert found.level == Level.PROBLEM
    assert "titel is no setting; did you mean title?" in found.text


def test_nbgrader_must_work_on_this_course(tiny_course: TinyCourse, environment: dict[str, str]) -> None:
    (tiny_course.root / "nbgrader_config.py").unlink()
    found = course_findings(tiny_course)["nbgrader's settings"]
    assert found.level == Level.PROBLEM
    assert "instead of 'tiny'" in found.text


def test_settings_that_are_not_safe_are_problems(tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    tiny_course.edit(tiny_course.config, 'id="tiny",', 'id="tiny", sandbox="none", device="cuda",')
    found = course_findings(tiny_course)
    assert {subject for subject, finding in found.items() if finding.level == Level.PROBLEM} == {
        "sandbox setting", "device setting",
    }  # fmt: skip


def test_the_gradebook_is_tried_without_changing_it(released: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BUSY_SECONDS", 0.2)
    path = released.root / "gradebook.db"
    before = path.read_bytes(), files_of(released.root)
    assert doctor.gradebook(released.root).level == Level.OK
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = doctor.gradebook(released.root)
        other.execute("ROLLBACK")
    assert locked.level == Level.PROBLEM and "is in use: database is locked" in locked.text
    assert (path.read_bytes(), files_of(released.root)) == before
    for content, told in ((b"no database" * 200, "is damaged"), (sqlite_with("other"), "is not a gradebook")):
        path.write_bytes(content)
        found = doctor.gradebook(released.root)
        assert found.level == Level.PROBLEM and told in found.text
    path.unlink()
    assert doctor.gradebook(released.root).level == Level.OK
    assert not path.exists()


def sqlite_with(table: str) -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE {table} (x)")
        return database.serialize()


def test_versions_that_were_not_tested_together_are_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# proven\nclick==0.1\nno-such-package==1\n")
    (found,) = doctor.package_versions(tmp_path)
    assert found.level == Level.WARNING
    assert found.text.startswith("not those that were tested: click is ") and found.text.endswith("instead of 0.1")
    assert f"--constraint {tmp_path / 'constraints.txt'}" in found.fix


def test_a_machine_without_a_filter_of_system_calls_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    found = doctor.system_call_filter()
    assert found.level == Level.PROBLEM
    assert found.fix == "grade on one of x86_64, aarch64"


def test_too_little_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=100 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert {finding.level for finding in doctor.disk(tmp_path)} == {Level.PROBLEM}


def test_everything_that_is_not_ok_comes_with_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "constraints.txt").write_text("click==0.1\n")
    findings = [step for step in examine(tmp_path) if isinstance(step, Finding)]
    bad = [finding for finding in findings if finding.level != Level.OK]
    assert {"package versions", "bubblewrap", "ways out of a room", "course_config.py"} <= {one.subject for one in bad}
    assert [finding for finding in bad if not finding.fix] == []
