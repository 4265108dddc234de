"""A child tied to its parent does not outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.lifeline import tied_to_me
from tests.conftest import WaitUntil
from tests.faults.fleet import alive, script

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import subprocess, sys
from service.lifeline import tied_to_me

child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                         preexec_fn=tied_to_me())
print(child.pid, flush=True)
input()
"""


async def test_a_tied_child_dies_with_a_killed_parent(wait_until: WaitUntil) -> None:
    with script(PARENT) as (parent, pid):
        assert alive(pid)
        parent.kill()
    await wait_until(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_a_child_whose_parent_is_already_gone_ends_at_once() -> None:
    code = f"from service.lifeline import die_with_parent; die_with_parent({os.getpid()} + 1)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9


def test_a_tied_child_of_a_living_parent_runs() -> None:
    code = f"from service.lifeline import die_with_parent; die_with_parent({os.getpid()})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, preexec_fn=tied_to_me()
    )
    assert done.returncode == 0
