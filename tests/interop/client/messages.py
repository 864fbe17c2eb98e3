"""The messages of `proto/`, as protoc makes them for Python: `PORTCULLIS_INTEROP_MESSAGES` names the directory.

    protoc -I proto -I tests/interop --python_out=DIRECTORY \\
        portcullis/v1/broker.proto portcullis/v1/attester.proto status.proto
"""

import os
import sys

sys.path.insert(0, os.environ["PORTCULLIS_INTEROP_MESSAGES"])

import status_pb2  # noqa: E402, F401
from portcullis.v1 import attester_pb2, broker_pb2  # noqa: E402, F401
