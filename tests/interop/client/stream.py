"""A call that is spoken in turns, and how it ends.

Source: protocol.md, "Denials on the wire".
"""

import queue

import grpc

from .messages import status_pb2

DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"


class Denied(Exception):
    """The broker's or the attester's answer, which is no. Not to be tried again unless its cause is gone."""

    def __init__(self, code: str, reason: str, decision_id, pushback):
        super().__init__(f"{reason} ({code}), decision {decision_id}")
        self.code, self.reason = code, reason
        self.decision_id, self.pushback = decision_id, pushback


class Lost(Exception):
    """No answer of the broker's: nothing was released, and nothing is known of why."""


class Stream:
    """One bidirectional call, one message at a time."""

    def __init__(self, channel: grpc.Channel, method: str, response, timeout: float):
        self._outgoing = queue.SimpleQueue()
        call = channel.stream_stream(
            method, request_serializer=lambda one: one.SerializeToString(), response_deserializer=response.FromString
        )
        # With `wait_for_ready` a call would wait through a refusal and be sent after it.
        self._call = call(iter(self._outgoing.get, None), timeout=timeout, wait_for_ready=False)

    def send(self, message) -> None:
        self._outgoing.put(message)

    def half_close(self) -> None:
        self._outgoing.put(None)

    def receive(self):
        """The next message; `Denied` or `Lost` where there is none."""
        try:
            return next(self._call)
        except StopIteration:
            raise Lost("the stream ended without an answer") from None
        except grpc.RpcError as error:
            raise ended(error) from None

    def end(self) -> None:
        """Waits for the stream's own end, which must be OK."""
        try:
            for _ in self._call:
                raise Lost("something followed the last answer")
        except grpc.RpcError as error:
            raise ended(error) from None

    def leave(self) -> None:
        """Resets the stream, which is right at any time, and which latches nothing."""
        self._outgoing.put(None)
        self._call.cancel()


def ended(error: grpc.RpcError) -> Exception:
    """What a status says, where it is the broker's own: one ErrorInfo of its domain, and the same code twice."""
    trailers = {key: value for key, value in error.trailing_metadata() or ()}
    status = status_pb2.Status.FromString(trailers.get(DETAILS, b""))
    infos = [info for info in map(error_info, status.details) if info]
    if status.code != error.code().value[0] or len(infos) != 1 or infos[0].domain != "portcullis":
        return Lost(f"{error.code().name}: {error.details()}")
    info = infos[0]
    return Denied(error.code().name, info.reason, info.metadata.get("decision_id"), trailers.get(PUSHBACK))


def error_info(detail):
    if detail.type_url != "type.googleapis.com/google.rpc.ErrorInfo":
        return None
    return status_pb2.ErrorInfo.FromString(detail.value)
