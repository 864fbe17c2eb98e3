"""A release, from `Open` to the opened secrets. The same over either way of connecting.

Source: protocol.md, "`rpc Release`", "The node's attester" and "Sealing".
"""

from dataclasses import dataclass
from datetime import datetime, timezone

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import arithmetic
from .identity import Broker, Identity
from .messages import attester_pb2, broker_pb2
from .stream import Lost, Stream
from .svid import NotTheBroker

ATTEST = "/portcullis.v1.Attester/Attest"
RELEASE = "/portcullis.v1.Broker/Release"


@dataclass(frozen=True)
class Released:
    """Secrets, and when to have forgotten them."""

    lease_id: str
    not_after: datetime
    secrets: dict  # path to fields, each of bytes


def release(way, broker: Broker, identity: Identity, attester: str, paths, ttl=0, timeout=30.0) -> Released:
    """One request over one new connection. `way` is the module `pinned` or `lent`; `attester` the node's socket."""
    with way.connected(broker, identity) as (channel, exporter):
        stream = Stream(channel, RELEASE, broker_pb2.ReleaseResponse, timeout)
        try:
            return exchange(stream, way.CHANNEL_BINDING, exporter, broker, identity, attester, paths, ttl)
        finally:
            stream.leave()


def exchange(stream, channel_binding, exporter, broker, identity, attester, paths, ttl) -> Released:
    key = X25519PrivateKey.generate()
    opened = broker_pb2.Open(
        secrets=[broker_pb2.SecretRequest(path=path) for path in paths],
        recipient_key=key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
        ttl_seconds=ttl,
        channel_bindings=[channel_binding],
    )
    stream.send(broker_pb2.ReleaseRequest(open=opened))
    challenge = step(stream.receive(), "challenge")
    acceptable(challenge, broker, channel_binding)
    binding = arithmetic.binding(opened, challenge, exporter, identity.spki, identity.spiffe_id)
    evidence = attest(attester, binding, challenge.formats, challenge.answer_within_ms / 1000)
    stream.send(broker_pb2.ReleaseRequest(evidence=evidence))
    stream.half_close()
    released = step(stream.receive(), "released")
    stream.end()
    return unsealed(key, binding, paths, released)


def acceptable(challenge, broker: Broker, channel_binding: str) -> None:
    """A challenge that may be answered: of the configured broker, for this connection. The client leaves any other."""
    if challenge.audience.encode() != broker.spiffe_id.encode():
        raise NotTheBroker(f"its challenge is for `{challenge.audience}`")
    if len(challenge.nonce) != 32 or challenge.round != 0 or not challenge.formats:
        raise NotTheBroker("its challenge is not one")
    if challenge.channel_binding != channel_binding:
        raise NotTheBroker(f"it wants the channel binding `{challenge.channel_binding}`")


def attest(socket: str, binding: bytes, formats, timeout: float):
    """Evidence about this process, from its own node."""
    options = [("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"unix:{socket}", options) as channel:
        stream = Stream(channel, ATTEST, attester_pb2.AttestResponse, timeout)
        try:
            start = attester_pb2.Start(binding=binding, formats=formats)
            stream.send(attester_pb2.AttestRequest(start=start))
            nonce = step(stream.receive(), "prove").nonce
            stream.send(attester_pb2.AttestRequest(proof=attester_pb2.Proof(nonce=nonce)))
            return step(stream.receive(), "evidence")
        finally:
            stream.leave()


def unsealed(key: X25519PrivateKey, binding: bytes, paths, released) -> Released:
    """All of them, in the order asked, or nothing."""
    if [sealed.path for sealed in released.secrets] != list(paths):
        raise Lost("other secrets came than were asked for")
    secrets = {}
    for sealed in released.secrets:
        info = arithmetic.sealing_info(binding, sealed.path, sealed.version, released.lease_id)
        plain = arithmetic.hpke_open(key, sealed.encapsulated_key, sealed.ciphertext, info)
        secrets[sealed.path] = dict(broker_pb2.SecretValue.FromString(plain).fields)
    ends = released.not_after.ToDatetime().replace(tzinfo=timezone.utc)
    return Released(released.lease_id, ends, secrets)


def step(message, expected: str):
    """The one step that may come now."""
    found = message.WhichOneof("step")
    if found != expected:
        raise Lost(f"`{found}` came instead of `{expected}`")
    return getattr(message, expected)
