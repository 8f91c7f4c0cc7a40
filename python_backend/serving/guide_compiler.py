"""Guides of requests are compiled off Triton's thread and the engine's, while the request waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

from llguidance import LLMatcher

from contract.errors import InvalidRequestError
from contract.guides import Guide
from contract.nvidia import EngineInputs
from python_backend.engine.sequence import SamplingParams
from python_backend.guidance.grammars import Grammars
from python_backend.guidance.guided import Guided

NewGuide = Callable[[Guide | None, SamplingParams], Guided | None]
"""Makes a sequence's own way through a guide that was compiled; None where it has none."""


def no_guide(_: Guide | None, __: SamplingParams) -> None:
    """What begins a request without guides."""


class GuideCompiler:
    """Compiles guides, one request's after another's.

    Attributes:
        num_pending: Requests whose guides are not compiled yet.
    """

    def __init__(self, grammars: Grammars | None) -> None:
        """Make one.

        Args:
            grammars: What compiles; None where the engine's texts can't be guided.
        """
        self._grammars = grammars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._lock = Lock()
        self.num_pending = 0

    def compile(
        self,
        guides: Iterable[Guide],
        begin: Callable[[NewGuide], None],
        refuse: Callable[[Exception], None],
    ) -> None:
        """Compile the guides of a request, then begin it or refuse it, from another thread.

        Raises:
            InvalidRequestError: The engine's texts can't be guided.
        """
        grammars = self._grammars
        if grammars is None:
            name = EngineInputs.GUIDED_DECODING_GUIDE_TYPE.name
            raise InvalidRequestError(
                f"{name}: guided decoding is not supported by this engine", name
            )
        wanted = frozenset(guides)

        def work() -> None:
            try:
                compiled = {guide: grammars.compile(guide) for guide in wanted}
                begin(partial(_begin, grammars, compiled))
            except Exception as error:  # one request's trouble is not another's
                refuse(error)
            finally:
                self._count(-1)

        self._count(1)
        self._thread.submit(work)

    def close(self) -> None:
        """Begin or refuse what was taken, and end."""
        self._thread.shutdown()
        if self._grammars is not None:
            self._grammars.close()

    def _count(self, change: int) -> None:
        with self._lock:
            self.num_pending += change


def _begin(
    grammars: Grammars,
    compiled: Mapping[Guide, LLMatcher],
    guide: Guide | None,
    params: SamplingParams,
) -> Guided | None:
    return None if guide is None else grammars.begin(compiled[guide], params.end_ids)
