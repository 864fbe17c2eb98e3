"""The second way: TLS made beside gRPC, with pyOpenSSL, and lent to it.

gRPC speaks plain HTTP/2 to a Unix socket in a directory that only this user enters; one thread carries the bytes between
it and the TLS connection. So the server's certificate and the exporter are those of the very connection that carries the
stream: `channel_binding = tls-exporter`.

Source: protocol.md, "Connection"; RFC 9266.
"""

import os
import select
import socket
import struct
import tempfile
import threading
from contextlib import contextmanager

import grpc
from OpenSSL import SSL

from . import svid
from .identity import Broker, Identity

CHANNEL_BINDING = "tls-exporter"


@contextmanager
def connected(broker: Broker, identity: Identity):
    """A channel to the broker, and its connection's exporter."""
    plain = socket.create_connection(broker.address, broker.timeout)
    try:
        tls = handshake(plain, broker, identity)
        exporter = tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        with lent(tls, plain, broker.timeout) as channel:
            yield channel, exporter
    finally:
        plain.close()


def handshake(plain: socket.socket, broker: Broker, identity: Identity) -> SSL.Connection:
    """TLS 1.3 with the broker, verified to be it."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([b"h2"])
    context.load_verify_locations(broker.bundle)
    context.set_verify(SSL.VERIFY_PEER, lambda _connection, _leaf, _error, _depth, fine: bool(fine))
    context.use_certificate_chain_file(identity.certificate_file)
    context.use_privatekey_file(identity.key_file)
    tls = SSL.Connection(context, plain)
    tls.set_connect_state()
    plain.setblocking(True)
    # pyOpenSSL's own blocking calls know no timeout; the kernel's do.
    limit = struct.pack("ll", int(broker.timeout), 0)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        tls.do_handshake()
    except SSL.Error as error:
        raise svid.NotTheBroker(f"the handshake failed: {error.args}") from error
    svid.must_be(tls.get_peer_certificate().to_cryptography(), broker.spiffe_id)
    if tls.get_alpn_proto_negotiated() != b"h2":
        raise svid.NotTheBroker("it does not speak HTTP/2")
    return tls


@contextmanager
def lent(tls: SSL.Connection, plain: socket.socket, timeout: float):
    """A gRPC channel over that connection, and over no other: the socket is gone once gRPC has connected."""
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:  # of mode 0700
        path = os.path.join(directory, "tls")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(timeout)
            # gRPC's own choice of :authority for Unix sockets is one that many HTTP/2 servers reset.
            options = [("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0)]
            channel = grpc.insecure_channel(f"unix:{path}", options)
            try:
                ready = grpc.channel_ready_future(channel)
                near, _ = listener.accept()
                ours(near)
                carrier = threading.Thread(target=carry, args=(tls, plain, near), daemon=True)
                carrier.start()
                ready.result(timeout)
                os.unlink(path)
                yield channel
            finally:
                channel.close()


def ours(near: socket.socket) -> None:
    """Whoever connected must be this very process."""
    pid, _, _ = struct.unpack("3i", near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid != os.getpid():
        near.close()
        raise svid.NotTheBroker("another process took the connection that was meant for gRPC")


def carry(tls: SSL.Connection, plain: socket.socket, near: socket.socket) -> None:
    """Carries bytes both ways until either end closes. One thread, as a TLS connection is not for two."""
    plain.setblocking(False)
    near.setblocking(False)
    to_broker, to_grpc = b"", b""
    try:
        while True:
            reading = [one for one, queue in ((plain, to_grpc), (near, to_broker)) if not queue]
            writing = [one for one, queue in ((plain, to_broker), (near, to_grpc)) if queue]
            # What OpenSSL has decrypted already, no socket tells of.
            wait = 0 if tls.pending() and not to_grpc else None
            readable, writable, _ = select.select(reading, writing, [], wait)
            if near in readable:
                to_broker = near.recv(SIZE)
                if not to_broker:
                    return
            if not to_grpc:
                to_grpc = attempt(lambda: tls.recv(SIZE)) or b""
            if to_broker:
                to_broker = to_broker[attempt(lambda: tls.send(to_broker)) or 0 :]
            if near in writable:
                to_grpc = to_grpc[near.send(to_grpc) :]
    except (SSL.Error, OSError):
        return
    finally:
        near.close()
        plain.close()


def attempt(step):
    """What a non-blocking step gives, or nothing where it has to wait."""
    try:
        return step()
    except (SSL.WantReadError, SSL.WantWriteError):
        return None


SIZE = 64 * 1024
