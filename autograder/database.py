"""How nbgrader's API reaches the gradebook in this process: patiently, and with each statement compiled once.

nbgrader opens the gradebook a dozen times to record one submission, each time with an engine of its own, and an engine
compiles SQLAlchemy's statements for itself: that alone is a third of what recording takes.
"""

import contextlib
import functools
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbgrader.api
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SAWarning

from autograder.safekeeping import PATIENCE_SECONDS


@functools.cache
def shared_engine(url: str, **options: Any) -> Engine:
    """The one engine of this process for a gradebook. Closing a `Gradebook` closes its connections, and no more."""
    engine = create_engine(url, **options)
    _remember_tables(engine)
    return engine


def _remember_tables(engine: Engine) -> None:
    """Look once for each table in a gradebook's file: each `Gradebook` would look for all thirteen."""
    seen: set[tuple[object, ...]] = set()
    look: Callable[..., bool] = engine.dialect.has_table

    def has_table(connection: Any, table_name: str, *arguments: Any, **options: Any) -> bool:
        key = (_file_behind(engine), table_name)
        if key not in seen and look(connection, table_name, *arguments, **options):
            seen.add(key)
        return key in seen

    engine.dialect.has_table = has_table  # type: ignore[method-assign]


def _file_behind(engine: Engine) -> object:
    """Which file the gradebook is just now: another one may have been put in its place. None for a server."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    status = Path(engine.url.database).stat()
    return status.st_dev, status.st_ino, status.st_size == 0


nbgrader.api.create_engine = shared_engine


@event.listens_for(Engine, "connect")
def _be_patient(connection: Any, _: object) -> None:
    """Wait for a gradebook that another program has locked, for longer than the five seconds that are usual."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {1000 * PATIENCE_SECONDS:.0f}")


@contextlib.contextmanager
def quiet_queries() -> Iterator[None]:
    """Keep back what nbgrader's own queries warn about, which says nothing to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)
        yield
