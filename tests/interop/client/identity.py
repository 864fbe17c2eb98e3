"""Who asks, and whom: what a workload is configured with, from the environment that `portcullis exec` reads too."""

import os
from dataclasses import dataclass

from cryptography import x509

from . import svid


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and who it must be."""

    address: tuple[str, int]
    spiffe_id: str
    bundle: str  # file, PEM: the roots of the broker's trust domain
    timeout: float = 10.0  # seconds for a connection

    @staticmethod
    def from_environment() -> "Broker":
        host, port = os.environ["PORTCULLIS_BROKER"].rsplit(":", 1)
        return Broker((host, int(port)), os.environ["PORTCULLIS_BROKER_ID"], os.environ["PORTCULLIS_BUNDLE"])


@dataclass(frozen=True)
class Identity:
    """The workload's X.509-SVID, and its key. Read anew for each connection, as both rotate."""

    certificate_file: str
    key_file: str
    certificates: bytes
    key: bytes

    @staticmethod
    def from_environment() -> "Identity":
        certificate, key = os.environ["PORTCULLIS_CERT"], os.environ["PORTCULLIS_KEY"]
        with open(certificate, "rb") as first, open(key, "rb") as second:
            return Identity(certificate, key, first.read(), second.read())

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificates)

    @property
    def spiffe_id(self) -> str:
        return svid.spiffe_id(self.leaf)

    @property
    def spki(self) -> bytes:
        return svid.spki(self.leaf)
