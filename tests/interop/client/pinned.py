"""The first way: plain grpcio, which shows no server certificate and reaches no exporter.

A handshake of our own verifies who the broker is; then grpcio trusts that leaf alone. `channel_binding = none`: the evidence
is bound to the client's key and not to the connection, and the broker serves it only where its configuration says so.

Source: protocol.md, "Connection" and "The evidence binding".
"""

import socket
import ssl
from contextlib import contextmanager

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from . import svid
from .identity import Broker, Identity

CHANNEL_BINDING = "none"


@contextmanager
def connected(broker: Broker, identity: Identity):
    """A channel to the broker, and the binding's `channel`, which is empty."""
    channel = trusting(broker, identity, verified_leaf(broker, identity))
    try:
        yield channel, b""
    finally:
        channel.close()


def verified_leaf(broker: Broker, identity: Identity) -> x509.Certificate:
    """The broker's certificate, of a connection that is used for nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # The SPIFFE ID identifies, not a name.
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(broker.bundle)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    try:
        with socket.create_connection(broker.address, broker.timeout) as plain:
            with context.wrap_socket(plain) as tls:
                leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    except ssl.SSLCertVerificationError as error:
        raise svid.NotTheBroker(error.verify_message) from error
    svid.must_be(leaf, broker.spiffe_id)
    return leaf


def trusting(broker: Broker, identity: Identity, leaf: x509.Certificate) -> grpc.Channel:
    """A channel that ends at the holder of that leaf's key, or nowhere. Should the broker's certificate be renewed in between,
    it does not connect, and the caller begins anew."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=leaf.public_bytes(Encoding.PEM),
        private_key=identity.key,
        certificate_chain=identity.certificates,
    )
    host, port = broker.address
    options = [*OPTIONS, ("grpc.ssl_target_name_override", svid.name_of(leaf))]
    return grpc.secure_channel(f"{host}:{port}", credentials, options)


# Nothing of this service is ever tried again by a library.
OPTIONS = [("grpc.enable_retries", 0)]
