"""Running perf_analyzer, Triton's own load generator, for one concurrency at a time."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.perf.profile import Level, ProfileError, measure
from clients.perf_analyzer import locate
from contract.models import ENSEMBLE_MODEL
from contract.models import EnsembleInputs as Inputs

_WINDOWS = 3  # as many as perf_analyzer compares before it calls a measurement stable
_ATTEMPTS = 3
_GRACE_S = 60


class LoadError(Exception):
    """perf_analyzer could not measure. The message is its own, or says what to change."""


@dataclass(frozen=True)
class Load:
    """What perf_analyzer does to the server.

    Attributes:
        url: ``host:port`` of Triton's gRPC endpoint.
        model: The model that is asked.
        prompts: Rows of perf_analyzer's input data, as `read_prompts` makes them.
        measurement_s: How long each concurrency is measured.
        request_count: Send so many requests instead; None goes by time.
    """

    url: str
    model: str
    prompts: tuple[dict[str, Any], ...]
    measurement_s: float
    request_count: int | None

    def run(self, concurrency: int) -> Level:
        """Keep so many requests under way, and measure.

        Raises:
            LoadError: perf_analyzer failed, or had too little time for its requests.
            PerfAnalyzerNotFoundError: There is none on this machine.
        """
        program = locate()
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix="trireme-perf-") as folder:
                export = self._run(program, concurrency, Path(folder))
            try:
                return measure(json.loads(export))
            except json.JSONDecodeError:
                # perf_analyzer reads outputs that a response does not have from memory that is not
                # its own, and writes an empty export where that happens to be no number. Where the
                # system puts the next process, it is likely to be one.
                continue
            except ProfileError as error:
                raise LoadError(f"at concurrency {concurrency}: {error}") from None
        raise LoadError(f"at concurrency {concurrency}: perf_analyzer wrote no readable export")

    def _run(self, program: Path, concurrency: int, folder: Path) -> str:
        data, export = folder / "prompts.json", folder / "export.json"
        data.write_text(json.dumps({"data": self.prompts}))
        command = [
            *(str(program), "-m", self.model, "-u", self.url, "-i", "grpc", "--streaming"),
            *("--async", "--input-data", str(data), "--concurrency-range", str(concurrency)),
            *("--profile-export-file", str(export), *self._extent(concurrency)),
        ]
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=self._timeout_s(), check=False
            )
        except subprocess.TimeoutExpired:
            raise LoadError(f"at concurrency {concurrency}: perf_analyzer did not end") from None
        if not export.exists():
            raise LoadError(
                f"at concurrency {concurrency}: {_reason(finished.stdout + finished.stderr)}"
            )
        return export.read_text()

    def _extent(self, concurrency: int) -> tuple[str, ...]:
        """perf_analyzer's options for how long to measure."""
        if self.request_count is not None:
            return ("--request-count", str(max(self.request_count, concurrency)))
        window_ms = round(self.measurement_s * 1000 / _WINDOWS)
        # Whether the windows agree is not asked: the percentiles tell, and time is bounded.
        return (
            *("--measurement-interval", str(window_ms)),
            *("--max-trials", str(_WINDOWS), "--stability-percentage", "999"),
        )

    def _timeout_s(self) -> float | None:
        return None if self.request_count is not None else 2 * self.measurement_s + _GRACE_S


def read_prompts(path: Path, max_tokens: int | None = None) -> tuple[dict[str, Any], ...]:
    """Read a file of perf_analyzer's input data and see that its answers can be measured.

    Args:
        path: JSON, ``{"data": [{"text_input": ["…"], "max_tokens": [64], …}, …]}``.
        max_tokens: Ask for exactly so many tokens in place of what the file says.

    Returns:
        The rows, each asking for a stream and for the count of its tokens.

    Raises:
        LoadError: The file cannot be read or a row is none for the ensemble.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["data"]
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} is no input data of perf_analyzer: {error!r}") from None
    if not rows:
        raise LoadError(f"{path} has no rows")
    exact = {}
    if max_tokens is not None:
        exact = {each.name: [max_tokens] for each in (Inputs.MAX_TOKENS, Inputs.MIN_TOKENS)}
    text = Inputs.TEXT_INPUT.name
    known = ENSEMBLE_MODEL.input_names()
    for number, row in enumerate(rows, start=1):
        unknown = [name for name in row if name not in known]
        if unknown or text not in row:
            raise LoadError(
                f"{path}, row {number}: "
                + (f"the ensemble has no input {unknown[0]}" if unknown else f"no {text}")
            )
    asked = {each.name: [True] for each in (Inputs.STREAM, Inputs.RETURN_NUM_OUTPUT_TOKENS)}
    return tuple({**row, **exact, **asked} for row in rows)


def _reason(output: str) -> str:
    """What perf_analyzer says went wrong: its last words, without the usage that may follow."""
    lines = [line.strip() for line in output.partition("Usage:")[0].splitlines() if line.strip()]
    if any("measurement" in line.lower() and "fail" in line.lower() for line in lines):
        return "too few answers in the time given: raise --measurement-s"
    return lines[-1] if lines else "perf_analyzer said nothing"
