"""``python -m ops.reload``: have a running Triton load the engine that was promoted.

Triton loads the new version beside the old one, sends new requests to it once it is ready, and
unloads the old one when its last request has ended. Where the new one cannot be loaded, the old one
goes on. Only who can read the launcher's token file may ask for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.triton_guard import CONTROL_HEADER
from ops.triton_process import TritonError

MODEL = "tensorrt_llm"
_CACHE = Path(".cache")


@contextmanager
def published(token: str, http_port: int) -> Iterator[None]:
    """Leave a running server's token for :func:`reload`, as long as this lasts.

    Args:
        token: The server's.
        http_port: By which it is found.
    """
    path = _token_file(http_port)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a killed server's
    path.touch(mode=0o600)
    path.write_text(token, encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def reload(address: str, token: str, model: str = MODEL, timeout_s: float = 600) -> list[str]:
    """Have Triton load what lies in the repository.

    Args:
        address: ``host:port`` of its HTTP endpoint.
        token: The server's control token.
        model: The model to load.
        timeout_s: How long loading may take.

    Returns:
        The versions that are served now.

    Raises:
        TritonError: Triton refuses; the version before is served on.
        OSError: Nothing listens there.
    """
    try:
        _request("POST", f"http://{address}/v2/repository/models/{model}/load", token, timeout_s)
        found = json.loads(_request("GET", f"http://{address}/v2/models/{model}", token, timeout_s))
    except urllib.error.HTTPError as error:
        try:
            reason = json.loads(error.read())["error"]
        except (ValueError, LookupError):
            reason = str(error)
        raise TritonError(reason.partition("\n\nAt:")[0]) from None
    versions: list[str] = found["versions"]
    return versions


def main() -> int:
    """Reload, and say what is served; a server that does not run is no error."""
    parser = argparse.ArgumentParser(prog="python -m ops.reload", description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host:port of Triton's HTTP")
    options = parser.parse_args()
    host, _, port = options.url.partition(":")
    address = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    try:
        token = _token_file(int(port)).read_text(encoding="utf-8")
        versions = reload(address, token)
    except TritonError as error:
        print(f"error: Triton goes on with the version before: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError):
        print(f"no Triton of `make serve` listens on {address}: the next one serves it")
        return 0
    print(f"Triton on {address} serves version {', '.join(versions)}")
    return 0


def _token_file(http_port: int) -> Path:
    return _CACHE / f"control-{http_port}"


def _request(method: str, url: str, token: str, timeout_s: float) -> bytes:
    request = urllib.request.Request(url, method=method, headers={CONTROL_HEADER: token})
    # No proxy from the environment: this server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as response:
        body: bytes = response.read()
    return body


if __name__ == "__main__":
    sys.exit(main())
