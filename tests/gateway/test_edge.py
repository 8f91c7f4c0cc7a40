"""The outermost layer: bounds of bodies and heads, ids, headers, TLS."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api import protocol
from gateway.configuration import ListenSettings, TlsSettings
from tests.gateway.fakes import CHAT, Keys, Ledger, Running, configuration, serving
from tests.gateway.test_dispatch import eventually


@pytest.fixture(scope="module")
def gateway():
    listen = ListenSettings(port=0, max_body_bytes=2048, shutdown_grace_s=0)
    with serving(None, configuration(listen=listen)) as running:
        yield running


def exchange(gateway: Running, data: bytes) -> bytes:
    """Send bytes as they are; return what comes until the connection ends, which it has to."""
    received = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(1 << 16):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def request(headers: str = "", body: bytes = b"") -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return (head + headers + "\r\n").encode() + body


@pytest.mark.parametrize(
    "data",
    [
        request("content-length: 4000\r\n"),
        request("transfer-encoding: chunked\r\n", b"fff\r\n" + b"x" * 0xFFF + b"\r\n"),
    ],
    ids=["announced", "chunked"],
)
def test_a_body_that_is_too_long_is_refused_before_it_is_read(gateway, data):
    answer = exchange(gateway, data)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"request_too_large"' in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_who_sends_all_of_a_body_that_is_too_long_before_reading_gets_its_answer(gateway, chunked):
    data = b"x" * 5_000_000
    if chunked:
        sent = request(
            "transfer-encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        )
    else:
        sent = request(f"content-length: {len(data)}\r\n", data)
    for _ in range(3):
        head, _, body = exchange(gateway, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert json.loads(body)["error"]["code"] == "request_too_large"


def test_a_body_that_does_not_arrive_is_not_waited_for():
    listen = ListenSettings(port=0, body_timeout_s=0.3, shutdown_grace_s=0)
    with serving(None, configuration(listen=listen)) as gateway:
        answer = exchange(gateway, request("content-length: 100\r\n", b"{"))
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_what_is_read_is_taken_apart_in_parts(monkeypatch):
    """A read brings up to 256 KB, and as chunks of one byte that takes a tenth of a second."""
    sizes = []
    real = HttpToolsProtocol.data_received

    def data_received(self, data):
        sizes.append(len(data))
        real(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", data_received)
    body = json.dumps(CHAT).encode() + b" " * 50_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    headers = "transfer-encoding: chunked\r\nconnection: close\r\n"
    with serving() as gateway:
        assert exchange(gateway, request(headers, chunks)).startswith(b"HTTP/1.1 200 ")
    assert sum(sizes) > 6 * len(body)
    assert max(sizes) <= 4096


def test_headers_that_are_too_long(gateway):
    answer = exchange(gateway, request(f"x: {'y' * 20_000}\r\ncontent-length: 0\r\n"))
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_head_that_never_ends_is_cut_off(gateway):
    assert exchange(gateway, b"GET / HTTP/1.1\r\nx: " + b"y" * (2 * protocol.MAX_HEAD_BYTES)) == b""


CHUNKED = "transfer-encoding: chunked\r\n"


@pytest.mark.parametrize("trailers", [b"x: " + b"y" * 2_000_000, b"x: y\r\n" * 300_000])
def test_what_comes_behind_a_body_and_never_ends_is_cut_off(trailers):
    ledger = Ledger()
    with serving(audit=ledger) as gateway:
        head = request(CHUNKED + "authorization: Bearer x\r\n", b"2\r\n{}\r\n0\r\n")
        assert exchange(gateway, head + trailers) == b""
        eventually(lambda: ledger.calls)
    assert [call.status for call in ledger.calls] == [431]


def test_what_comes_behind_a_body_is_no_header():
    body = json.dumps(CHAT).encode()
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    with serving(authenticator=Keys()) as gateway:
        for good, status in ((True, b"200"), (False, b"401")):
            head = CHUNKED + ("authorization: Bearer good\r\n" if good else "")
            trailers = b"authorization: Bearer good\r\nconnection: close\r\n\r\n"
            answer = exchange(gateway, request(head + "connection: close\r\n", chunks + trailers))
            assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_says_that_it_is_json(gateway, kind):
    """A page of another site's may send other kinds without being asked."""
    body = json.dumps(CHAT).encode()
    header = f"content-type: {kind}\r\n" if kind else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{header}content-length: {len(body)}"
    answer = exchange(gateway, f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    said = f"content-type is '{kind}'; it must be 'application/json'"
    assert said in json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"]
    utf8 = {"content-type": "Application/JSON; charset=utf-8"}
    assert gateway.post("/v1/chat/completions", CHAT, headers=utf8).status_code == 200


def test_nobody_is_sent_elsewhere(gateway):
    """Least of all to an address that the request itself says, without TLS."""
    for path in ("/v1/chat/completions/", "/v1/completions/", "/health/ready/"):
        assert gateway.post(path, CHAT, headers={"host": "evil.example"}).status_code == 404


def test_a_head_that_comes_too_slowly_is_cut_off(gateway, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    assert exchange(gateway, b"GET / HT") == b""


def test_what_is_no_http_harms_nobody(gateway):
    assert b"400" in exchange(gateway, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert gateway.post("/v1/chat/completions", CHAT).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)],
)
def test_request_ids(gateway, given, kept):
    headers = {"x-request-id": given}
    answered = gateway.post("/v1/chat/completions", CHAT, headers=headers).headers["x-request-id"]
    assert (answered == given) == kept
    assert len(answered) >= 9


def test_every_answer_has_the_security_headers(gateway):
    with gateway.client() as client:
        answers = [
            client.get("/health/live"),
            client.get("/nowhere"),
            client.post("/v1/chat/completions", json={}),
            client.post("/v1/chat/completions", content=b"x" * 4000),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 413]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
        assert "server" not in answer.headers


def test_tls(tmp_path):
    tls = certificate(tmp_path)
    listen = ListenSettings(port=0, tls=tls, shutdown_grace_s=0)
    with serving(None, configuration(listen=listen)) as gateway:
        trusted = ssl.create_default_context(cafile=str(tls.certificate))
        url = gateway.url.replace("http://127.0.0.1", "https://localhost")
        with httpx.Client(verify=trusted, trust_env=False) as client:
            answer = client.post(f"{url}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"]


def certificate(folder: Path, host: str = "localhost") -> TlsSettings:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder: Any = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    paths = TlsSettings(certificate=folder / "certificate.pem", key=folder / "key.pem")
    paths.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
