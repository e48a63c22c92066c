"""Memory that a training frees and needs again in its next step."""

from __future__ import annotations

import ctypes
import os
from functools import cache

LARGEST = 256 * 2**20
"""Blocks up to this size come from the heap, which reuses them: the tables of 2**20 nodes and 64 floats."""
KEPT = 2**30
"""Free bytes at the end of the heap beyond which they go back to the system."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Lets this process keep freed blocks for its next allocations, where the C library is glibc.

    A training allocates tables of megabytes in every step. glibc gives the larger ones back to the system
    when they are freed, and the system zeroes their pages again for the next step, which can take as long
    as the rest of it (python -m experiments.bench.freed_memory). Where the environment has settings of the
    allocator, ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` or ``GLIBC_TUNABLES``, nothing is done.

    Returns:
        Whether the settings were made.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
