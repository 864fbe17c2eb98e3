#!/usr/bin/env python3
"""Asks a broker for secrets from Python: `release.py pinned|lent PATH…`, configured as `portcullis get` is.

Prints one JSON object: `released`, `denied`, `refused` (not the broker) or `lost`; exits with 0, 77 or 75, 76, 69.
"""

import base64
import json
import os
import sys

from client import lent, pinned
from client.identity import Broker, Identity
from client.release import release
from client.stream import Denied, Lost
from client.svid import NotTheBroker

WAYS = {"pinned": pinned, "lent": lent}


def main() -> int:
    way, *paths = sys.argv[1:]
    try:
        given = release(
            WAYS[way], Broker.from_environment(), Identity.from_environment(), os.environ["PORTCULLIS_ATTESTER_SOCKET"], paths
        )
    except Denied as no:
        said = {"code": no.code, "reason": no.reason, "decision_id": no.decision_id, "pushback": no.pushback}
        return tell(75 if no.code == "FAILED_PRECONDITION" else 77, denied=said)
    except NotTheBroker as why:
        return tell(76, refused=str(why))
    except (Lost, OSError) as why:
        return tell(69, lost=str(why))
    # An example prints what it was given; a workload uses it, and forgets it at `not_after`.
    secrets = {path: {name: base64.b64encode(value).decode() for name, value in fields.items()} for path, fields in given.secrets.items()}
    return tell(0, released={"lease_id": given.lease_id, "not_after": given.not_after.isoformat(), "secrets": secrets})


def tell(code: int, **what) -> int:
    print(json.dumps(what))
    return code


if __name__ == "__main__":
    sys.exit(main())
