"""The grader's own memory while it grades a class of submissions that say as much as they can."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from attacks import exhausting
from course import write_hostile_course

from autograder.authoring import read_script
from autograder.results import load_result, result_path

MIB = 2**20
COORDINATOR, WORKER = 256 * MIB, 640 * MIB
"""Bytes that the command, and each process of the worker, may have had at once: the latter imports torch (250 MiB) and
holds an answer of 64 MiB as a frame, as a tensor, and as what a check makes of it."""
LOUD = [attack for attack in exhausting.ATTACKS if attack.name in (
    "prints_300_mb", "writes_300_mb", "many_outputs", "many_tensors", "largest_answer",
)]  # fmt: skip


@pytest.mark.long
def test_the_graders_memory_is_bounded_while_twenty_loud_submissions_are_graded(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    course = write_hostile_course(tmp_path / "course")
    script = read_script(course.script)
    class_of_20 = [replace(attack, name=f"{attack.name}_{number}") for number in range(4) for attack in LOUD]
    assert len(class_of_20) == 20
    for attack in class_of_20:
        attack.hand_in(course.root / "submitted" / attack.name / "shapes", script, {})
    peaks: dict[str, int] = {}
    with subprocess.Popen(
        ["course", "grade", "shapes", "--jobs", "4"], cwd=course.root, env=environment, stdout=subprocess.DEVNULL
    ) as grading:
        while grading.poll() is None:
            for name, peak in peaks_of_ours(grading.pid):
                peaks[name] = max(peak, peaks.get(name, 0))
            with contextlib.suppress(subprocess.TimeoutExpired):
                grading.wait(0.05)
    with capsys.disabled():
        print({name: f"{peak / MIB:.0f} MiB" for name, peak in peaks.items()})
    assert grading.returncode == 0
    for attack in class_of_20:
        found = load_result(result_path(course.root, "shapes", attack.name))
        assert found is not None and tuple(task.earned for task in found.tasks) == attack.marks
    assert peaks["coordinator"] < COORDINATOR
    assert peaks["worker"] < WORKER


def peaks_of_ours(coordinator: int) -> Iterator[tuple[str, int]]:
    """The most memory that the command and the processes of its worker have had, by what they are."""
    yield "coordinator", peak_of(coordinator)
    for worker in children(coordinator):
        for pid in (worker, *children(worker)):
            with contextlib.suppress(OSError):
                if b"autograder.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield "worker", peak_of(pid)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]
    return []


def peak_of(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return 0
