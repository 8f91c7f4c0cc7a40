"""One request, before it takes a protocol's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clients import wire
from clients.client_errors import InvalidRequestError
from contract.models import EnsembleInputs
from contract.parameters import GenerationParameters
from contract.tensors import Value


@dataclass(frozen=True)
class Request:
    """What a transport sends.

    Attributes:
        model: The model that is asked, with the ensemble's inputs and outputs.
        prompt: The text to answer.
        options: How; `GenerationOptions`, or parameters that were checked otherwise.
        stream: A response for every step, not one at the end.
        request_id: Names the request in the server's log and traces; empty for none.
        timeout_s: How long the whole answer may take; None is without end.
        parameters: Request parameters, which reach every model of the ensemble.
        headers: What goes along with the request, over gRPC: trace context, say.
        chat: Messages that are JSON already, in place of the options' own; empty for none.

    Raises:
        InvalidRequestError: The prompt is not text.
    """

    model: str
    prompt: str
    options: GenerationParameters
    stream: bool
    request_id: str
    timeout_s: float | None
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    chat: str = ""

    def __post_init__(self) -> None:
        wire.check({EnsembleInputs.TEXT_INPUT.name: (self.prompt,)})

    @property
    def inputs(self) -> wire.Values:
        """The model's inputs."""
        inputs: dict[str, Sequence[Value]] = {
            EnsembleInputs.TEXT_INPUT.name: (self.prompt,),
            # Nobody expects the question in the answer, but TensorRT-LLM's default is just that.
            EnsembleInputs.EXCLUDE_INPUT_IN_OUTPUT.name: (True,),
            **self.options.inputs(),
        }
        if self.chat:
            inputs[EnsembleInputs.MESSAGES.name] = (self.chat,)
        if self.stream:
            inputs[EnsembleInputs.STREAM.name] = (True,)
        return inputs

    @property
    def num_bytes(self) -> int:
        """About how many bytes there are to send."""
        return len(self.prompt) + len(self.chat)

    @property
    def single(self) -> bool:
        """Whether exactly one response answers it."""
        return not self.stream and (self.options.num_return_sequences or 1) == 1

    def check_single(self) -> None:
        """Raise `InvalidRequestError` where more than one answer is asked for."""
        if not self.single:
            raise InvalidRequestError(
                "generate() returns one answer; generate_all() returns num_return_sequences",
                EnsembleInputs.NUM_RETURN_SEQUENCES.name,
            )
