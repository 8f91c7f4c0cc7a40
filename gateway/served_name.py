"""The model of a gateway before one Triton, as a file says it.

Who promotes another version there writes the file anew, and the gateway calls the model by its own
name without being started again. The former name is gone then: it was another model's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pydantic
from pydantic import BaseModel, ConfigDict

from gateway.configuration import ModelSettings, local_model
from gateway.routing import Router

_log = logging.getLogger("gateway.served_name")
_LOOK_EVERY_S = 1.0


class ServedModel(BaseModel):
    """What the file holds, as JSON.

    Attributes:
        name: What the model is called.
        created_s: When it was made, in seconds since 1970.
        context_length: Most tokens of its sequences.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    created_s: int | None = None
    context_length: int | None = None

    def models(self) -> Mapping[str, ModelSettings]:
        """It alone, as a configuration has models."""
        return {self.name: local_model(self.name, self.created_s or 0, self.context_length)}


async def follow(path: Path, router: Router, every_s: float = _LOOK_EVERY_S) -> None:
    """Have a router serve what a file says, whenever it says something else.

    A file that is not there, or is no such file, changes nothing.
    """
    known: bytes | None = None
    while True:
        try:
            content = await asyncio.to_thread(path.read_bytes)
            if content != known:
                known = content
                served = ServedModel.model_validate_json(content)
                router.serve(served.models())
                _log.info("serving", extra={"model": served.name})
        except FileNotFoundError:
            pass
        except (OSError, pydantic.ValidationError) as error:
            _log.warning("what is served can't be read", extra={"error": str(error)})
        await asyncio.sleep(every_s)
