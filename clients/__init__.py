"""Talking to a running Trireme: the Python client, its command line, and perf_analyzer runs."""

from clients.client import AsyncClient, Client
from clients.client_errors import (
    ClientError,
    DeadlineExceededError,
    GenerationError,
    InvalidRequestError,
    ServerBrokenError,
    ServerBusyError,
    ServerUnavailableError,
)
from clients.options import GenerationOptions
from clients.results import PerfMetrics, Piece, Result, Verdict
from contract.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceededError",
    "GenerationError",
    "GenerationOptions",
    "InvalidRequestError",
    "PerfMetrics",
    "Piece",
    "Result",
    "ServerBrokenError",
    "ServerBusyError",
    "ServerUnavailableError",
    "Verdict",
    "__version__",
]
