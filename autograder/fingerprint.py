"""The hash of everything that decides a result: when it has not changed, there is nothing to grade again."""

import functools
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import autograder
from autograder.course import Course
from autograder.submission import Submission


@functools.cache
def package_digest() -> str:
    """Hash of this package's source."""
    folder = Path(autograder.__file__).parent
    return _digest_files(sorted(folder.rglob("*.py")), folder)


def checks_digest(root: Path, assignment: str) -> str:
    """Hash of an assignment's hidden checks, its reference (which sets the pace) and its release."""
    files = [root / "tests" / "checks" / f"test_{assignment}.py", root / "solutions" / f"{assignment}.py"]
    files += [path for path in (root / "release" / assignment).iterdir() if path.is_file()]
    return _digest_files(sorted(files), root)


def _digest_files(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(json.dumps([path.relative_to(root).as_posix()]).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "ipython", "pytest", "nbgrader", "generative-ai-foundations"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def fingerprint(course: Course, submission: Submission, checks: str, device: str, sandbox: str) -> str:
    """Hash of the canonical submission, checks, limits, sandbox, device, versions, seed and this package."""
    parts = [
        submission.digest(), checks, course.limits.model_dump(), course.seed, device, sandbox, versions(),
        package_digest(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
