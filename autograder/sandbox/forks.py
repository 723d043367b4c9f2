"""Makes forks of a warm process cheap: one that has imported torch and more has forty thousand pages of memory.

A fork copies an entry for each page that is not a file's, and its end takes each away again: 20 ms for a process that
does nothing else. In huge pages the same memory is some eighty entries. The garbage collector, too, would touch, and so
copy, every page in each fork.

This file enters the sandbox: it imports nothing else of ours.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

HUGE = 2 * 2**20
"""Bytes of a huge page on x86-64, and on ARM64 with 4 KiB pages."""
_MADV_COLLAPSE = 25  # since Linux 6.1; whether the system uses huge pages by itself does not matter
_libc = ctypes.CDLL(None, use_errno=True)


def make_forks_cheap() -> None:
    """Take what is in memory now out of the garbage collector's sight, and move it into huge pages where that can be.

    An older kernel, or one without huge pages, refuses: then forks cost what they cost.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):
        for start, size in _heap():
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_COLLAPSE)


def _heap() -> Iterator[tuple[int, int]]:
    """Start and size of this process's writable memory that is no file's, as far as huge pages can hold it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, *_, name = [*line.split(maxsplit=5), ""][:6]
        if permissions == "rw-p" and name in ("", "[heap]"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
            if end > start:
                yield start, end - start
