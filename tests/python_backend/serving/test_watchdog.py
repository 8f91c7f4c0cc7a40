"""A process that stands still ends, says where it stood, and only then."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from python_backend.serving.watchdog import Watchdog


def run(code: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_interpreter_whose_lock_is_never_given_back_ends_and_tells_where() -> None:
    done = run(
        """
        import ctypes
        from python_backend.serving.watchdog import Watchdog

        def hold_the_interpreter():
            ctypes.PyDLL(None).sleep(600)  # unlike CDLL, it keeps the lock

        Watchdog(0.2).alive()
        hold_the_interpreter()
        """
    )
    assert done.returncode == 1
    assert "Timeout (0:00:00.2" in done.stderr
    assert "in hold_the_interpreter" in done.stderr


def test_who_says_in_time_that_it_lives_goes_on() -> None:
    done = run(
        """
        import time
        from python_backend.serving.watchdog import Watchdog

        watchdog = Watchdog(5)
        for _ in range(20):
            watchdog.alive()
            time.sleep(0.01)
        watchdog.alive()
        watchdog.close()
        print("lives")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "lives\n", "")


def test_a_closed_one_ends_nothing() -> None:
    done = run(
        """
        import time
        from python_backend.serving.watchdog import Watchdog

        watchdog = Watchdog(0.1)
        watchdog.alive()
        watchdog.close()
        time.sleep(0.5)
        print("lives")
        """
    )
    assert (done.returncode, done.stdout) == (0, "lives\n")


def test_closing_what_never_watched_is_nothing() -> None:
    Watchdog(1).close()
