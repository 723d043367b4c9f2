"""nbgrader's settings: all of them follow from `course_config.py`."""

try:
    from autograder.nbgrader_settings import configure_from
except ImportError as error:
    # nbgrader only logs an error here and goes on with its own settings; this ends it.
    raise SystemExit(f"nbgrader runs in a Python where this course is not installed: {error}") from error

configure_from(__file__, get_config())  # type: ignore[name-defined]  # noqa: F821
