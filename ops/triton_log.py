"""What of a Triton's log says why it failed."""

from __future__ import annotations

import json
import re

# A line of Triton's own log: level, month and day, time, process, file and line, message.
_LOG_LINE = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ \S+\] *(.*)")
# What protobuf says about a config.pbtxt that does not parse.
_PROTOBUF_ERROR = re.compile(r"^\[libprotobuf ERROR [^]]*\] *(.*)")
# What a machine without a GPU makes Triton complain about, to no effect.
_NO_GPU = (
    "CudaDriverHelper has not been initialized",
    "CUDA driver version is insufficient for CUDA runtime version",
    "Error: Failed to initialize NVML",
)
# How the rows of the tables begin that it prints when it starts.
_TABLE = "+|"
# What the C++ runtime says when a program ends by an exception, and the trace behind it.
_TERMINATED = "terminate called"
_TRACE = re.compile(r"^ *\d+# ")
# An exception whose name doesn't say what happened.
_LOCKED = "boost::interprocess::lock_exception"
_WAS_STOPPED = (
    "A model's process was stopped for longer than Triton waits for its lock "
    "(SIGSTOP, a frozen container)."
)
# What follows from another error, which says more.
_CONSEQUENCES = ("error: creating server", "ERROR: Failed to create instance")


def failure(log: str) -> str:
    """Return the part of a Triton log that says what went wrong: its errors, else its last lines.

    Where a model's process died without an error of Triton's, what it printed comes first.
    """
    errors: list[str] = []
    printed: list[str] = []
    in_error = False
    lines = [line for line in log.splitlines() if not _TRACE.match(line)]
    for line in lines:
        if entry := _LOG_LINE.match(line):
            in_error = entry[1] in "EF"
            if in_error:
                errors.append(_unquoted(entry[2]))
        elif entry := _PROTOBUF_ERROR.match(line):
            errors.append(entry[1])
        elif line.startswith(_TERMINATED):
            in_error = True
            errors.append(line)
        elif line.lower().startswith("error:"):
            errors.append(line)
        elif in_error and line:
            errors[-1] += f"\n{line}"
        elif line and line[0] not in _TABLE:
            printed.append(line)
    errors = [error for error in errors if not any(noise in error for noise in _NO_GPU)]
    causes = [error for error in errors if not error.startswith(_CONSEQUENCES)] or errors
    if any("is not healthy" in cause for cause in causes):
        causes = [*printed[-20:], *causes]
    if any(_LOCKED in cause for cause in causes):
        causes.append(_WAS_STOPPED)
    last = [line for line in lines if line and line[0] not in _TABLE][-20:]
    return "\n".join(dict.fromkeys(causes or last))


def _unquoted(message: str) -> str:
    """Triton writes a message as a JSON string, its line ends escaped, or plain."""
    try:
        return str(json.loads(message)).strip()
    except ValueError:
        return message.strip()
