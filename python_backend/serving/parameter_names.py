"""Request parameters that were meant to be something else.

Triton's ``generate`` endpoints take whatever is no input for a parameter, and nobody reads one that
nobody knows. So a misspelt input would be dropped in silence, and its default hold.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache

from contract.errors import InvalidRequestError
from contract.models import ENSEMBLE_MODEL, EnsembleInputs
from contract.names import PROBE, REQUEST_PARAMETERS, SHARE

_INPUTS = tuple(ENSEMBLE_MODEL.input_names())
# Triton has a priority and a timeout of its own.
_KNOWN = frozenset((*REQUEST_PARAMETERS, SHARE, PROBE, EnsembleInputs.PRIORITY.name, "timeout"))
_TRITON_S = ("triton_", "sequence_")
_ALIKE = 0.85
_LONGEST = 64
_MOST = 16
"""Names that are looked at: the time that one takes is milliseconds."""


def check_names(names: Iterable[str]) -> None:
    """See whether a parameter is an input, or nearly one.

    Raises:
        InvalidRequestError: It is.
    """
    unknown = [name for name in names if name not in _KNOWN and not name.startswith(_TRITON_S)]
    for name in unknown[:_MOST]:
        if name in _INPUTS:
            raise InvalidRequestError(
                f"{name} is an input, and no request parameter: give it beside the others", name
            )
        meant = _meant(name[:_LONGEST])
        if meant:
            raise InvalidRequestError(
                f"{name[:_LONGEST]!r} is neither an input nor a request parameter: "
                f"did you mean {meant}?"
            )


@lru_cache(1024)
def _meant(name: str) -> str:
    """The name that one is nearly; empty where it isn't like any."""
    known = [*_INPUTS, *REQUEST_PARAMETERS]
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)), "")
