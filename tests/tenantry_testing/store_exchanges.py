"""Exchanges with a Milvus: `store_transcript() >> call("Query", key=KEY) >> message(query()) << Forward`."""

from google.protobuf.message import Message
from tenantry.core.events import Header, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from tenantry.core.session import Gate, Snapshot
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import StoreOf
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.milvus import SERVICE
from tenantry.core.vector.stores import open_call

from tenantry_testing.documents import snapshot
from tenantry_testing.exchanges import Transcript, headers

STORES = {
    "docs": {
        "kind": "milvus",
        "endpoints": ["127.0.0.1:19530"],
        "isolation": "partition",
        "collections": {"notes": {}},
    }
}
GRPC: Header = ("content-type", b"application/grpc")


def with_stores(**sections: object) -> Snapshot:
    """The usual document with one Milvus."""
    return snapshot(**{"stores": STORES} | sections)


WITH_STORES = with_stores()


def opened(_store: StoreOf) -> None:
    """Let every store be used."""


def store_transcript(shot: Snapshot = WITH_STORES, *, gate: Gate = opened) -> Transcript:
    return Transcript(shot, gate=gate, open_call=open_call)


def call(method: str, *more: Header, key: str | None, end_stream: bool = False) -> RequestHeaders:
    """The headers of a gRPC call to Milvus."""
    return headers(GRPC, ("te", b"trailers"), *more, path=SERVICE + method, key=key, end_stream=end_stream)


def message(sent: Message) -> RequestBody:
    return RequestBody(body=write_message(sent.SerializeToString()), end_stream=True)


def greeting(*more: Header, key: str | None) -> RequestHeaders:
    """The smallest call."""
    return call("GetVersion", *more, key=key)


def greeting_body() -> RequestBody:
    return message(pb.EmptyRequest())


def answer(*more: Header, status: bytes = b"200", end_stream: bool = False) -> ResponseHeaders:
    return ResponseHeaders(headers=((":status", status), GRPC, *more), end_stream=end_stream)


def answer_body(sent: Message) -> ResponseBody:
    return ResponseBody(body=write_message(sent.SerializeToString()), end_stream=False)
