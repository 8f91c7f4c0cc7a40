"""The policies in force: read again when their file changes, kept when the new ones are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from python_backend.safety.policy import Policies, PolicyError, load_policies

_Signature = tuple[tuple[int, int, int] | None, ...]


class PolicyStore:
    """Owns the policies of one file and the thread that watches it.

    A request keeps the policy that it began with. A file that is wrong is reported once and changes
    nothing; so does one that is gone.
    """

    def __init__(
        self,
        path: Path,
        check_period_s: float,
        on_reload: Callable[[PolicyError | None], None],
    ) -> None:
        """Read the file and begin to watch it.

        Args:
            path: The policy file.
            check_period_s: How often to look.
            on_reload: Told of each new file, with what is wrong with it.

        Raises:
            PolicyError: The file is wrong: there is nothing else to serve with.
        """
        self._path = path
        self._period_s = check_period_s
        self._on_reload = on_reload
        self.current = load_policies(path)
        self._signature = _signature(self.current.files)
        self._closed = Event()
        self._thread = Thread(target=self._watch, name="policies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._period_s):
            signature = _signature(self.current.files)
            if signature == self._signature:
                continue
            self._signature = signature
            try:
                policies: Policies = load_policies(self._path)
            except PolicyError as error:
                self._on_reload(error)
            else:
                self.current = policies
                self._signature = _signature(policies.files)
                self._on_reload(None)


def _signature(files: tuple[Path, ...]) -> _Signature:
    """Tells one state of some files from another."""
    return tuple(_state(file) for file in files)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
