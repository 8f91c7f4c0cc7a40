"""A small OpenID Connect provider on loopback, with keys that rotate and faults on demand."""

from __future__ import annotations

import json
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa


@cache
def _private_key(name: str, kind: str) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


class IdentityProvider:
    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.published: list[str] = []
        self.requests: list[str] = []
        self.discovery: dict[str, Any] = {}
        self.broken = False
        self.go = threading.Event()
        self.go.set()
        self.add_key("first")
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests.append(self.path)
                provider.go.wait()
                document = provider.document(self.path)
                self.send_response(503 if provider.broken else 200 if document else 404)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}/realm"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.go.set()
        self.server.shutdown()
        self.server.server_close()

    def add_key(self, name: str, kind: str = "RSA") -> None:
        self.keys[name] = _private_key(name, kind)
        self.published.append(name)

    def document(self, path: str) -> dict[str, Any] | None:
        if path == "/realm/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **self.discovery}
        if path == "/realm/keys":
            return {"keys": [self._public(name) for name in self.published]}
        return None

    def token(self, key: str = "first", header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": self.issuer,
            "aud": "trireme",
            "sub": "somebody",
            "iat": now,
            "exp": now + 60,
            "tenant": "acme",
            "azp": "assistant",
            **claims,
        }
        private = self.keys[key]
        algorithm = "RS256" if isinstance(private, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            private,
            algorithm,
            headers={"kid": key, **(header or {})},
        )

    def _public(self, name: str) -> dict[str, Any]:
        public = self.keys[name].public_key()
        algorithm = (
            jwt.algorithms.RSAAlgorithm
            if isinstance(public, rsa.RSAPublicKey)
            else jwt.algorithms.ECAlgorithm
        )
        return {**algorithm.to_jwk(public, as_dict=True), "kid": name, "use": "sig"}
