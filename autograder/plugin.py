"""The pytest plugin of hidden checks: its fixtures, and what it makes of their outcomes.

Under plain `pytest tests/checks` the `student` fixture is the reference solution, through the same encode and decode as
a submission. Under the grader (`autograder.worker`) the same items are collected once and run against one submission
after another; `connect` then says which.
"""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.runner import runtestprotocol

from autograder.authoring import load_solution
from autograder.checks import CheckFailure, CheckInfo, Student, StudentError, TaskInfo
from autograder.remote import standin
from autograder.remote.client import loopback
from autograder.remote.server import UNREADABLE, seed_torch

Connect = Callable[[], Student]
CONNECT = pytest.StashKey[Connect]()
ON_CPU = pytest.StashKey[bool]()
"""Whether a check makes its inputs on the CPU though the run is on a GPU."""
EXCEPTION = pytest.StashKey[BaseException | None]()
CHECKS_FOLDER = ("tests", "checks")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of plain pytest runs."""
    group = parser.getgroup("checks", "hidden checks")
    group.addoption(
        "--checks-device", choices=["cpu", "cuda", "standin"], default="cpu",
        help="device on which hidden checks make their inputs; standin: the stand-in for a GPU (default cpu)",
    )  # fmt: skip
    group.addoption("--checks-seed", type=int, default=0, help="seed of hidden checks (default 0)")


@dataclasses.dataclass(frozen=True)
class Check:
    """One collected check: its pytest item and what its decorators and docstring say."""

    item: pytest.Function
    task: TaskInfo
    info: CheckInfo

    @functools.cached_property
    def title(self) -> str:
        """The docstring's first line, which the student sees."""
        return (inspect.getdoc(self.item.function) or self.item.name).splitlines()[0]

    @property
    def about_devices(self) -> bool:
        """Whether it asks what the code does with inputs on a GPU, wherever the run is."""
        return "elsewhere" in self.item.fixturenames

    @property
    def needs(self) -> tuple[str, ...]:
        """Other tasks that it uses."""
        return tuple(dict.fromkeys((*self.task.needs, *self.info.needs)))


def as_check(item: pytest.Item) -> Check | None:
    """The check that a pytest item is, or None where it is an ordinary test."""
    task = getattr(getattr(item, "cls", None), "task_info", None)
    if task is None or not isinstance(item, pytest.Function):
        return None
    return Check(item, task, getattr(item.function, "check_info", CheckInfo()))


def seed_of(item: pytest.Item, seed: int) -> int:
    """Each check's own seed: it depends on the check's name, not on which checks ran before."""
    return (zlib.crc32(item.name.encode()) + seed) % 2**31


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where checks make their inputs: on the CPU or, where code is to run on a GPU, on the stand-in for one.

    The stand-in's tensors are on the real GPU once they are with the code under check (see `remote.server`): this
    side needs no GPU and takes none of its memory.
    """
    if request.config.getoption("--checks-device") == "cpu" or request.config.stash.get(ON_CPU, False):
        yield torch.device("cpu")
        return
    with standin.in_force():
        yield standin.DEVICE


@pytest.fixture
def elsewhere(device: torch.device) -> Iterator[torch.device]:
    """The device that stands for a GPU. With the code under check it is one, or where there is none a stand-in.

    `student.f(x.to(elsewhere))` then fails for code that makes a tensor of its own on the CPU and mixes it with `x`.
    """
    if device.type != "cpu":
        yield device
        return
    with standin.in_force():
        yield standin.DEVICE


@pytest.fixture
def student(request: pytest.FixtureRequest) -> Iterator[Student]:
    """The code under check: a submission's under the grader, the reference's under plain pytest."""
    connect = request.config.stash.get(CONNECT, None)
    student = connect() if connect else _reference(request.path, request.config.getoption("--checks-device"))
    seed = seed_of(request.node, request.config.getoption("--checks-seed"))
    seed_torch(seed)
    # Another seed over there: noise that student code draws must not equal what the check has drawn.
    student._begin((seed * 2_654_435_761 + 1) % 2**31)
    yield student


def _reference(checks: Path, device: str) -> Student:
    if checks.parent.parts[-2:] != CHECKS_FOLDER:
        raise pytest.UsageError(f"{checks}: hidden checks lie in {'/'.join(CHECKS_FOLDER)}")
    elsewhere = torch.device("cuda", 0) if device == "cuda" else standin.DEVICE
    return _load_reference(checks.parents[2] / "solutions" / f"{checks.stem.removeprefix('test_')}.py", elsewhere)


@functools.cache
def _load_reference(path: Path, elsewhere: torch.device) -> Student:
    return loopback(load_solution(path), elsewhere)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Keep the exception that ended a check: its type decides what the student may read."""
    if call.excinfo is not None:
        item.stash[EXCEPTION] = call.excinfo.value
    return (yield)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one check ended.

    Attributes:
        passed: It held.
        exception: What ended it otherwise; None where it did not even start.
        ran: It ran to its end: it was neither skipped nor stopped in its set-up.
        text: pytest's account of the failure, for instructors.
    """

    passed: bool
    exception: BaseException | None
    ran: bool
    text: str


def run_check(check: Check) -> Outcome:
    """Run one collected item through pytest's own protocol."""
    item = check.item
    item.stash[EXCEPTION] = None
    reports = runtestprotocol(item, log=False, nextitem=None)
    failed = [report for report in reports if report.failed]
    calls = [report for report in reports if report.when == "call"]
    return Outcome(
        passed=not failed and bool(calls) and calls[0].passed,
        exception=item.stash[EXCEPTION],
        ran=bool(calls) and not calls[0].skipped,
        text="\n".join(report.longreprtext for report in failed),
    )


def safe_cause(exception: BaseException | None) -> str:
    """What a student may read about why a check failed; an error of their own code is described by the caller."""
    if isinstance(exception, CheckFailure):
        return exception.cause
    if isinstance(exception, StudentError) and exception.kind == UNREADABLE:
        return "what your code returned cannot be read: it is too large, nested too deeply, or not a value"
    if isinstance(exception, StudentError):
        return f"{exception.kind} was raised in your code"
    if isinstance(exception, AssertionError):
        return "what came is not what the sentence above says"
    if exception is None:
        return ""
    return f"what your code returned could not be used ({type(exception).__name__})"
