"""The scan of the lock files: the real pip-audit, before the test's own advisory service."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ops.dependencies import ROOT, Report
from ops.triton_process import Ports

PYTHON = ROOT / os.environ.get("AUDIT_VENV", ".venv-audit") / "bin" / "python"


class _Advisories(BaseHTTPRequestHandler):
    """Knows one vulnerability of one version of one package, as OSV tells it."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = asked["package"]["name"] == "jinja2" and asked["version"] == "3.1.4"
        package = {"name": "jinja2", "ecosystem": "PyPI"}
        mended = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.5"}]}]
        vulnerability = {
            "id": "GHSA-q2x7-8rv6-6q7h",
            "aliases": ["CVE-2024-56326"],
            "summary": "a sandbox that can be left",
            "affected": [{"package": package, "ranges": mended}],
        }
        body = json.dumps({"vulns": [vulnerability]} if known else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def advisories() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    server.server_close()


def scan(lock: Path, url: str, *arguments: str) -> tuple[int, str]:
    command = [str(PYTHON), "-m", "ops.dependencies", "--osv-url", url, *arguments, str(lock)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


pip_audit = pytest.mark.skipif(not PYTHON.exists(), reason="needs `make .venv-audit/.installed`")


@pip_audit
def test_a_known_vulnerability_fails(tmp_path, advisories):
    lock = tmp_path / "lock.txt"
    lock.write_text("jinja2==3.1.4\nnumpy==1.26.4\n")
    status, output = scan(lock, advisories)
    assert status == 1
    assert "lock.txt: 2 checked, 1 known vulnerability" in output
    assert "VULNERABLE jinja2 3.1.4: CVE-2024-56326 (GHSA-q2x7-8rv6-6q7h)" in output
    assert "3.1.5" in output


@pip_audit
def test_none_is_no_failure(tmp_path, advisories):
    lock = tmp_path / "lock.txt"
    lock.write_text("jinja2==3.1.6\n")
    assert scan(lock, advisories) == (0, "lock.txt: 1 checked, 0 known vulnerabilities\n")


@pip_audit
def test_what_was_not_checked_is_never_called_well(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("jinja2==3.1.4\n")
    nobody = f"http://127.0.0.1:{Ports.free().http}/v1/query"
    status, output = scan(lock, nobody)
    assert status == 0
    assert "lock.txt: NOT CHECKED: " in output
    assert scan(lock, nobody, "--strict")[0] == 1


def test_a_skipped_package_is_not_a_checked_one():
    skipped = {"name": "a", "skip_reason": "not found: a (1)"}
    found = {"name": "b", "version": "1", "vulns": []}
    report = Report.from_json(json.dumps({"dependencies": [skipped, found]}))
    assert (report.checked, report.unchecked) == (1, ("not found: a (1)",))
