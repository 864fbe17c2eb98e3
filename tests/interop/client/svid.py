"""Who the other end is: the checks of an X.509-SVID that a TLS library does not make by itself.

Source: protocol.md, "Connection"; SPIFFE X.509-SVID. The library has verified the path to the bundle before.
"""

from cryptography import x509


class NotTheBroker(Exception):
    """Whoever answers is not the broker that the client is configured with. Nothing was asked of it."""


def spiffe_id(leaf: x509.Certificate) -> str:
    """The identity in a leaf: one URI name, of a certificate that is no authority's."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) != 1 or not uris[0].startswith("spiffe://") or len(uris[0]) > 2048:
        raise NotTheBroker(f"its certificate has {len(uris)} SPIFFE IDs")
    constraints = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    if constraints and constraints.ca:
        raise NotTheBroker("its certificate is an authority's")
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise NotTheBroker("its certificate has another key usage")
    return uris[0]


def must_be(leaf: x509.Certificate, expected: str) -> None:
    """Refuses every identity but `expected`, of the same trust domain too; compared as bytes."""
    found = spiffe_id(leaf)
    if found.encode() != expected.encode():
        raise NotTheBroker(f"it is `{found}`, and not `{expected}`")


def name_of(leaf: x509.Certificate) -> str:
    """A DNS name of the leaf, for a stack that verifies names only; it identifies nobody."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    dns = names.get_values_for_type(x509.DNSName) if names else []
    if not dns:
        raise NotTheBroker("its certificate has no DNS name, without which plain grpcio cannot verify it")
    return dns[0]


def spki(leaf: x509.Certificate) -> bytes:
    """The certificate's SubjectPublicKeyInfo: its own bytes, as a library that writes the key anew may write it otherwise.

    Shape: RFC 5280 §4.1, `[version] serial signature issuer validity subject spki …`.
    """
    tbs = leaf.tbs_certificate_bytes
    at, _ = _content(tbs, 0)
    for _ in range(6 if tbs[at] == VERSION else 5):
        _, at = _content(tbs, at)
    _, end = _content(tbs, at)
    return tbs[at:end]


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    begins, length = at + 2, der[at + 1]
    if length >= 0x80:
        begins += length - 0x80
        length = int.from_bytes(der[at + 2 : begins], "big")
    return begins, begins + length


def _extension(leaf: x509.Certificate, kind):
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


VERSION = 0xA0  # [0], which a certificate of version 1 lacks
