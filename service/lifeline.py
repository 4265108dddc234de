"""Ties a process's life to its parent's, so that a killed parent leaves no orphans."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when `parent_pid` dies (Linux; elsewhere a no-op).

    The kernel watches the *thread* that started this process: start children from the main thread.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before the line above could see it
        os.kill(os.getpid(), signal.SIGKILL)


def tied_to_me() -> Callable[[], None]:
    """A `preexec_fn` that ties the started process to the calling one."""
    parent_pid = os.getpid()
    return lambda: die_with_parent(parent_pid)
