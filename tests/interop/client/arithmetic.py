"""Everything of the protocol that is bytes and needs no connection: the evidence binding, and what secrets are sealed under.

Source: protocol.md, "The evidence binding" and "Sealing"; RFC 9180 (HPKE, base mode). Debian's `cryptography` has no HPKE
yet, so it is put together here of X25519, HKDF and AES-256-GCM; a newer one's own is as good.
"""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def lp(value: bytes) -> bytes:
    """The value behind its length."""
    return struct.pack(">I", len(value)) + value


def request(opened) -> bytes:
    """An `Open` as it goes into the binding: everything as sent."""
    out = struct.pack(">IBI", opened.ttl_seconds, opened.hold, len(opened.channel_bindings))
    out += b"".join(lp(name.encode()) for name in opened.channel_bindings)
    out += struct.pack(">I", len(opened.secrets))
    for secret in opened.secrets:
        # A key is ASCII, so that text and bytes sort alike.
        parameters = sorted(secret.parameters.items())
        out += lp(secret.path.encode()) + struct.pack(">I", len(parameters))
        out += b"".join(lp(key.encode()) + lp(value) for key, value in parameters)
    return out


def preimage(opened, challenge, channel: bytes, spki: bytes, client_id: str) -> bytes:
    """What the binding is the SHA-512 of. `spki` and `client_id` are the client certificate's own bytes."""
    return (
        lp(b"portcullis.v1 evidence binding")
        + lp(challenge.nonce)
        + struct.pack(">Q", challenge.round)
        + lp(channel)
        + lp(hashlib.sha256(spki).digest())
        + lp(client_id.encode())
        + lp(challenge.audience.encode())
        + lp(opened.recipient_key)
        + lp(hashlib.sha256(request(opened)).digest())
    )


def binding(opened, challenge, channel: bytes, spki: bytes, client_id: str) -> bytes:
    """The 64 bytes that only this request on this connection can have."""
    return hashlib.sha512(preimage(opened, challenge, channel, spki, client_id)).digest()


def sealing_info(first_binding: bytes, path: str, version: int, lease_id: str) -> bytes:
    """The HPKE `info` of one secret."""
    head = lp(b"portcullis.v1 sealed secret") + lp(first_binding) + lp(path.encode())
    return head + struct.pack(">Q", version) + lp(lease_id.encode())


def hpke_open(key: X25519PrivateKey, encapsulated: bytes, ciphertext: bytes, info: bytes) -> bytes:
    """Opens what was sealed to `key`; `cryptography.exceptions.InvalidTag` where it is not that."""
    secret = _decapsulate(key, encapsulated)
    suite = b"HPKE" + struct.pack(">HHH", KEM, KDF, AEAD)
    no_psk = _extract(suite, b"", b"psk_id_hash", b"")
    schedule = b"\x00" + no_psk + _extract(suite, b"", b"info_hash", info)
    shared = _extract(suite, secret, b"secret", b"")
    aead_key = _expand(suite, shared, b"key", schedule, 32)
    nonce = _expand(suite, shared, b"base_nonce", schedule, 12)
    return AESGCM(aead_key).decrypt(nonce, ciphertext, b"")


def _decapsulate(key: X25519PrivateKey, encapsulated: bytes) -> bytes:
    # An all-zero result (a low-order point) is refused by the library itself.
    shared = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    suite = b"KEM" + struct.pack(">H", KEM)
    context = encapsulated + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return _expand(suite, _extract(suite, b"", b"eae_prk", shared), b"shared_secret", context, 32)


def _extract(suite: bytes, salt: bytes, label: bytes, value: bytes) -> bytes:
    return hmac.new(salt, b"HPKE-v1" + suite + label + value, hashlib.sha256).digest()


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labelled).derive(key)


KEM = 0x0020  # DHKEM(X25519, HKDF-SHA256)
KDF = 0x0001  # HKDF-SHA256
AEAD = 0x0002  # AES-256-GCM
