"""In processes of their own: the one that runs the tests has children that others wait for."""

import signal
import subprocess
import sys

import pytest

ENDS = """
import os, signal, sys
from dragoman.server.first_process import end_at_sigterm
end_at_sigterm(int(sys.argv[1]))
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""

HAS_ORPHANS = """
import os, subprocess, sys
from dragoman.core.child_process import orphans_adopted
from dragoman.server.first_process import orphan_reaper

reap = orphan_reaper(int(sys.argv[1]))
with orphans_adopted() as can_adopt:
    assert can_adopt
    shells = [subprocess.run(["sh", "-c", "sleep 0 & echo $!"], stdout=subprocess.PIPE) for _ in range(3)]
orphans = [int(shell.stdout) for shell in shells]
for orphan in orphans:
    os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
left = []
for _ in range(5):
    reap()
    left.append(sum(os.path.exists(f"/proc/{orphan}") for orphan in orphans))
print(*left)
"""


def _run(script: str, process_id: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, str(process_id)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("process_id", "status"), [(1, 128 + signal.SIGTERM), (2, -signal.SIGTERM)])
def test_the_first_process_ends_at_sigterm_as_others_do(process_id: int, status: int) -> None:
    assert _run(ENDS, process_id).returncode == status


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux adopts children of others")
@pytest.mark.parametrize(("process_id", "left"), [(1, "3 2 1 0 0"), (2, "3 3 3 3 3")])
def test_the_first_process_reaps_an_orphan_that_it_has_seen_before(process_id: int, left: str) -> None:
    run = _run(HAS_ORPHANS, process_id)
    assert run.stdout == f"{left}\n", run.stderr
