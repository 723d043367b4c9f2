"""When a submission was handed in: what `timestamp.txt` beside the notebook says, which whoever collects it writes."""

from datetime import UTC, datetime
from pathlib import Path

from autograder import submission
from autograder.submission import SubmissionFault

_MAX_BYTES = 1000


def timestamp_text(folder: Path) -> str:
    """What the file says; "" where there is none.

    Raises:
        SubmissionFault: It is no plain file of a reasonable size.
    """
    try:
        return submission._read_file(folder, "timestamp.txt", _MAX_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def read_timestamp(folder: Path) -> datetime | None:
    """When a submission was handed in, by its timestamp.txt, which is read as nbgrader reads it.

    Raises:
        ValueError: The file cannot be read as a date.
    """
    from dateutil import parser, tz  # type: ignore[import-untyped]

    try:
        text = timestamp_text(folder)
        if not text:
            return None
        date, _, zone = text.rpartition(" ")
        if date.count(" ") == 1:
            offset = int(zone) if zone.lstrip("+-").isdigit() else tz.gettz(zone)
            when: datetime = parser.parse(f"{date} TZ", tzinfos={"TZ": offset})
        else:
            when = parser.parse(text)
    except (SubmissionFault, OSError, ValueError, OverflowError):
        raise ValueError("timestamp.txt cannot be read as a date") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
