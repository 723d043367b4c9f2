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


def assignment_digests(root: Path, assignment: str) -> dict[str, str]:
    """Hashes of an assignment's hidden checks, of its reference (which sets the pace) and of its release."""
    released = [path for path in (root / "release" / assignment).iterdir() if path.is_file()]
    return {
        "checks": _digest_files([root / "tests" / "checks" / f"test_{assignment}.py"], root),
        "reference": _digest_files([root / "solutions" / f"{assignment}.py"], root),
        "release": _digest_files(sorted(released), root),
    }


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


def deciders(submission: Submission, of_all: dict[str, str]) -> dict[str, str]:
    """What decides a result, part by part, each as a hash or as the value itself.

    Args:
        submission: The canonical submission.
        of_all: What `deciders_of_all` gives.
    """
    return {"submission": submission.digest(), **of_all}


def deciders_of_all(course: Course, assignment: dict[str, str], device: str) -> dict[str, str]:
    """What decides the results of all submissions: everything but the submission itself.

    Args:
        course: Its limits, sandbox and seed.
        assignment: What `assignment_digests` gives.
        device: The device that they run on.
    """
    return {
        **assignment,
        "limits": _digest(course.limits.model_dump()),
        "sandbox": course.sandbox,
        "device": device,
        "versions": _digest(versions()),
        "seed": str(course.seed),
        "package": package_digest(),
    }


def fingerprint(parts: dict[str, str]) -> str:
    """One hash of all that decides a result."""
    return _digest(parts)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
