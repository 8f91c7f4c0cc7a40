"""Where a gateway is asked, and what its certificate has to do with that."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509

from ops.triton_process import ROOT

_HERE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class GatewayAddress:
    """An address of a gateway on this machine.

    Attributes:
        host: The address that it is bound to, or one that leads there.
        port: Its port.
        certificate: Its certificate, where it speaks TLS.
    """

    host: str
    port: int
    certificate: Path | None = None

    @classmethod
    def of(cls, host: str, port: int, config: Path | None) -> GatewayAddress:
        """The address of a gateway with a configuration, which may name a certificate."""
        return cls(
            "127.0.0.1" if host in ("0.0.0.0", "::") else host,
            port,
            None if config is None else _certificate(config),
        )

    def __str__(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """What a client has to call it, so that the certificate's name is right."""
        names = [] if self.certificate is None else _names(self.certificate)
        fitting = [each for each in names if each == self.host or {each, self.host} <= {*_HERE}]
        return (fitting or names or [self.host])[0]

    @property
    def url(self) -> str:
        """What clients connect to, without a path."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{self.name}:{self.port}"

    @property
    def local_url(self) -> str:
        """The same by its address, for one who doesn't ask for the name."""
        return f"{'http' if self.certificate is None else 'https'}://{self}"

    @property
    def leads_here(self) -> bool:
        """Whether its name is this machine's by itself."""
        return self.name in (*_HERE, self.host)

    def unnamed(self) -> ssl.SSLContext:
        """TLS with a process that we have started ourselves: whose name it has matters not."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def _certificate(config: Path) -> Path | None:
    """The certificate that a configuration names; what is wrong there is the gateway's to say."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        # The gateway runs in this checkout's folder.
        return ROOT / content["listen"]["tls"]["certificate"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def _names(certificate: Path) -> list[str]:
    """The names in a certificate; of one that can't be read there are none."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]
