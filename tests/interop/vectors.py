#!/usr/bin/env python3
"""Holds the client's arithmetic against the published vectors: `vectors.py DIRECTORY`, which is `tests/vectors/binding`."""

import json
import pathlib
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client import arithmetic
from client.messages import broker_pb2


def opened(given):
    secrets = [
        broker_pb2.SecretRequest(
            path=one["path"], parameters={each["key"]: bytes.fromhex(each["value"]) for each in one["parameters"]}
        )
        for one in given["secrets"]
    ]
    return broker_pb2.Open(
        secrets=secrets,
        recipient_key=bytes.fromhex(given["recipient_key"]),
        ttl_seconds=given["ttl_seconds"],
        hold=given["hold"],
        channel_bindings=given["channel_bindings"],
    )


def bindings(cases) -> int:
    for case in cases:
        given, gives = case["given"], case["gives"]
        challenge = broker_pb2.Challenge(
            nonce=bytes.fromhex(given["nonce"]), round=int(given["round"]), audience=given["audience"]
        )
        rest = (challenge, bytes.fromhex(given["channel"]), bytes.fromhex(given["client_spki"]), given["client_id"])
        found = {
            "request": arithmetic.request(opened(given)).hex(),
            "preimage": arithmetic.preimage(opened(given), *rest).hex(),
            "binding": arithmetic.binding(opened(given), *rest).hex(),
        }
        assert found == gives, case["name"]
    return len(cases)


def sealed(case) -> bytes:
    given = case["given"]
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(given["recipient_private_key"]))
    info = arithmetic.sealing_info(
        bytes.fromhex(given["binding"]), given["path"], int(given["version"]), given["lease_id"]
    )
    if "info" in case.get("gives", {}):
        assert info.hex() == case["gives"]["info"], case["name"]
    source = {**given, **case.get("gives", {})}
    return arithmetic.hpke_open(
        key, bytes.fromhex(source["encapsulated_key"]), bytes.fromhex(source["ciphertext"]), info
    )


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    count = bindings(json.loads((folder / "binding.json").read_text())["cases"])
    sealing = json.loads((folder / "sealing.json").read_text())
    for case in sealing["opens"]:
        assert sealed(case).hex() == case["given"].get("plaintext", case.get("gives", {}).get("plaintext")), case["name"]
        count += 1
    for case in sealing["does_not_open"]:
        try:
            sealed(case)
        except (InvalidTag, ValueError):
            count += 1
            continue
        raise AssertionError(case["name"])
    print(f"{count} vectors")


if __name__ == "__main__":
    main()
