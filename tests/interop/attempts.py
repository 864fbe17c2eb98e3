#!/usr/bin/env python3
"""What must not work: `attempts.py another-leaf FILE PATH`, `attempts.py another-connection PATH`. Prints how it ended."""

import json
import os
import sys
from contextlib import contextmanager

from cryptography import x509

from client import lent, pinned
from client.identity import Broker, Identity
from client.release import release
from client.stream import Denied, Lost


class AnotherLeaf:
    """A channel that trusts a leaf of the same authority and identity, and not the broker's."""

    CHANNEL_BINDING = pinned.CHANNEL_BINDING

    @staticmethod
    @contextmanager
    def connected(broker, identity):
        with open(sys.argv[2], "rb") as file:
            leaf = x509.load_pem_x509_certificate(file.read())
        with pinned.trusting(broker, identity, leaf) as channel:
            yield channel, b""


class AnotherConnection:
    """The exporter of one connection, the stream of another."""

    CHANNEL_BINDING = lent.CHANNEL_BINDING

    @staticmethod
    @contextmanager
    def connected(broker, identity):
        with lent.connected(broker, identity) as (_, exporter), lent.connected(broker, identity) as (channel, own):
            assert exporter != own
            yield channel, exporter


def main() -> None:
    way = {"another-leaf": AnotherLeaf, "another-connection": AnotherConnection}[sys.argv[1]]
    socket = os.environ["PORTCULLIS_ATTESTER_SOCKET"]
    try:
        release(way, Broker.from_environment(), Identity.from_environment(), socket, [sys.argv[-1]])
        print(json.dumps({"released": True}))
    except Denied as no:
        print(json.dumps({"denied": {"reason": no.reason, "decision_id": no.decision_id}}))
    except Lost as why:
        print(json.dumps({"lost": str(why)}))


if __name__ == "__main__":
    main()
