"""Collects an assignment's hidden checks once and hands them over, to be run against one submission after another."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What would look at every check's garbage, warnings or log (0.65 s per submission) or write into the course folder.
_LEFT_OUT = (
    "cacheprovider", "unraisableexception", "threadexception", "logging", "warnings", "stepwise", "faulthandler",
    "doctest",
)  # fmt: skip


class ChecksBroken(RuntimeError):
    """The hidden checks of an assignment cannot be collected."""


def with_checks(
    root: Path, assignment: str, use: Callable[[list[pytest.Item]], None], *, seed: int = 0, device: str = "cpu"
) -> None:
    """Let pytest collect the checks of an assignment and call `use` with its items, within pytest's session.

    Args:
        root: The course folder.
        assignment: Name of the assignment.
        use: What is done with them; `autograder.plugin.run_check` runs one.
        seed: The course's seed.
        device: Where the code under check runs: "cpu", "cuda", or "standin" for the stand-in for a GPU.

    Raises:
        ChecksBroken: They cannot be collected.
        Exception: Whatever `use` raises.
    """
    host = _Host(use)
    file = root / "tests" / "checks" / f"test_{assignment}.py"
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as settings:
        settings.write("[pytest]\n")
        settings.flush()
        arguments = ["-c", settings.name, "--rootdir", str(root), "--noconftest", "--import-mode=importlib"]
        arguments += ["-q", "-s", "--tb=native", "-p", "autograder.plugin", f"--checks-seed={seed}"]
        arguments += [f"--checks-device={device}", str(file)]
        for plugin in _LEFT_OUT:
            arguments += ["-p", f"no:{plugin}"]
        status = pytest.main(arguments, plugins=[host])
    if host.error is not None:
        raise host.error
    if not host.called:
        raise ChecksBroken(f"the checks in {file} cannot be collected (pytest: {status!r})\n{host.complaints}")


class _Host:
    """The pytest plugin that, instead of running the collected items, hands them over."""

    def __init__(self, use: Callable[[list[pytest.Item]], None]) -> None:
        self.use = use
        self.called = False
        self.error: Exception | None = None
        self.complaints = ""

    def pytest_collectreport(self, report: Any) -> None:
        """Keep what stopped the collection."""
        if report.failed:
            self.complaints += f"{report.longreprtext}\n"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Hand the items over."""
        if not session.testsfailed:
            self.called = True
            try:
                self.use(session.items)
            except Exception as error:  # pytest would bury it in its own report
                self.error = error
        return True
