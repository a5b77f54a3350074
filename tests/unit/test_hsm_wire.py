"""The frames between pool and worker: one encoding, and one error for everything else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.hsm import handshake, wire
from strongroom_server.hsm.handshake import Report, StartStatus, WorkerSettings
from strongroom_server.hsm.wire import (
    MAX_BATCH,
    NO_KEY,
    Answer,
    Frames,
    Kind,
    Operation,
    Request,
    Status,
    WireError,
)

keys = st.binary(min_size=20, max_size=20).filter(lambda key: key != NO_KEY)
aads = st.binary(min_size=1, max_size=200)
sealed = st.binary(min_size=29, max_size=200)
heads = {
    "id": st.integers(0, 2**32 - 1),
    "deadline": st.floats(allow_nan=False, allow_infinity=False),
}
empty = {
    "number": st.just(0),
    "data": st.just(b""),
    "aad": st.just(b""),
    "aad2": st.just(b""),
    "key": st.just(NO_KEY),
    "key2": st.just(NO_KEY),
}
numbers = st.integers(1, 1024)
texts = st.text(max_size=99)


def _request(
    operation: Operation, **fields: st.SearchStrategy[object]
) -> st.SearchStrategy[Request]:
    return st.builds(Request, **(heads | empty | {"operation": st.just(int(operation))} | fields))


requests = st.one_of(
    _request(Operation.ENCRYPT, key=keys, aad=aads, data=st.binary(min_size=1, max_size=200)),
    _request(Operation.DECRYPT, key=keys, aad=aads, data=sealed),
    _request(Operation.REENCRYPT, key=keys, key2=keys, aad=aads, aad2=aads, data=sealed),
    _request(Operation.DATA_KEY, key=keys, aad=aads, number=numbers),
    _request(Operation.SEALED_DATA_KEY, key=keys, aad=aads, number=numbers),
    _request(Operation.RANDOM, number=numbers),
    _request(Operation.CREATE, key=keys),
    _request(Operation.LOAD, key=keys),
    _request(Operation.PING),
)
answers = st.builds(
    Answer,
    id=st.integers(0, 2**32 - 1),
    status=st.sampled_from([int(status) for status in Status]),
    microseconds=st.integers(0, 2**32 - 1),
    first=st.binary(max_size=200),
    second=st.binary(max_size=200),
)


def _body(frame: bytes, kind: Kind) -> bytes:
    ((got, body),) = Frames().feed(frame)
    assert got == kind
    return body


@given(st.lists(requests, min_size=1, max_size=5))
def test_requests_round_trip(batch: list[Request]) -> None:
    """What is packed is what is parsed, whatever the operations of a batch."""
    frame = wire.pack_requests([wire.pack_request(request) for request in batch])
    assert wire.parse_requests(_body(frame, Kind.REQUESTS)) == batch


@given(st.lists(answers, min_size=1, max_size=5))
def test_answers_round_trip(batch: list[Answer]) -> None:
    """What is packed is what is parsed, whatever the answers of a batch."""
    frame = wire.pack_answers([wire.pack_answer(answer) for answer in batch])
    assert wire.parse_answers(_body(frame, Kind.ANSWERS)) == batch


@given(
    st.builds(WorkerSettings, texts, texts, texts, st.booleans()),
    st.builds(Report, st.sampled_from(StartStatus), st.integers(0, 2**32 - 1), texts),
)
def test_handshake_round_trips(settings: WorkerSettings, report: Report) -> None:
    """Settings and report arrive as they were sent."""
    assert (
        handshake.parse_settings(_body(handshake.pack_settings(settings), Kind.SETTINGS))
        == settings
    )
    assert handshake.parse_report(_body(handshake.pack_report(report), Kind.REPORT)) == report


@given(st.lists(st.one_of(requests.map(wire.pack_request)), min_size=1, max_size=4), st.data())
def test_frames_arrive_in_any_pieces(packed: list[bytes], data: st.DataObject) -> None:
    """A stream cut anywhere gives the same frames."""
    stream = wire.pack_requests(packed) + wire.pack_requests(packed[:1])
    frames = Frames()
    got = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        got += frames.feed(stream[at : at + step])
        at += step
    assert got == Frames().feed(stream)
    assert [kind for kind, _ in got] == [Kind.REQUESTS] * 2


@given(requests)
def test_every_cut_and_every_excess_is_refused(request_: Request) -> None:
    """A batch that is short by a byte, or long by one, is refused with the one error."""
    body = wire.pack_requests([wire.pack_request(request_)])[5:]
    for end in range(len(body)):
        with pytest.raises(WireError):
            wire.parse_requests(body[:end])
    with pytest.raises(WireError):
        wire.parse_requests(body + b"\0")


@given(answers)
def test_cut_answers_are_refused(answer: Answer) -> None:
    """An answer that is short by any number of bytes, or long by one, is refused."""
    body = wire.pack_answers([wire.pack_answer(answer)])[5:]
    for end in range(len(body)):
        with pytest.raises(WireError):
            wire.parse_answers(body[:end])
    with pytest.raises(WireError):
        wire.parse_answers(body + b"\0")


@given(st.binary(max_size=300))
def test_noise_gives_one_error(noise: bytes) -> None:
    """Whatever bytes arrive, parsers return or raise WireError, nothing else."""
    for parse in (
        Frames().feed,
        wire.parse_requests,
        wire.parse_answers,
        handshake.parse_settings,
        handshake.parse_report,
    ):
        try:
            parse(noise)
        except WireError:
            continue


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": 0},
        {"operation": 10},
        {"key": NO_KEY},
        {"key2": bytes(19) + b"\1"},
        {"number": 1},
        {"data": b""},
        {"data": bytes(4097)},
        {"aad": b""},
        {"aad": bytes(8215)},
        {"aad2": b"x"},
        {"deadline": float("nan")},
        {"deadline": float("inf")},
    ],
    ids="-".join,
)
def test_fields_out_of_limits_are_refused(changes: dict[str, object]) -> None:
    """Each field beyond its operation's limits is refused by the receiving side."""
    good = Request(1, Operation.ENCRYPT, 1.0, 0, b"x", b"a", b"", b"k" * 20, NO_KEY)
    body = wire.pack_requests([wire.pack_request(good)])[5:]
    assert wire.parse_requests(body) == [good]
    bad = good._replace(**changes)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(WireError):
        wire.parse_requests(wire.pack_requests([wire.pack_request(bad)])[5:])


def test_batches_are_bounded() -> None:
    """A batch holds 1 to 64 operations."""
    one = wire.pack_request(Request(1, Operation.PING, 1.0, 0, b"", b"", b"", NO_KEY, NO_KEY))
    assert len(wire.parse_requests(wire.pack_requests([one] * MAX_BATCH)[5:])) == MAX_BATCH
    for count in (0, MAX_BATCH + 1):
        with pytest.raises(WireError):
            wire.parse_requests(wire.pack_requests([one] * count)[5:])


def test_frames_are_bounded() -> None:
    """A length beyond the limit is refused before anything is kept."""
    frames = Frames()
    assert frames.feed((4 * 2**20).to_bytes(4, "big") + b"\3") == []
    with pytest.raises(WireError):
        Frames().feed((4 * 2**20 + 1).to_bytes(4, "big") + b"\3")
    for kind in (0, 5, 255):
        with pytest.raises(WireError):
            Frames().feed(bytes(4) + bytes([kind]))


def test_largest_batch_fits() -> None:
    """64 of the largest requests make a frame that the other side takes."""
    largest = Request(
        1,
        Operation.REENCRYPT,
        1.0,
        0,
        os.urandom(4124),
        os.urandom(8214),
        os.urandom(8214),
        b"k" * 20,
        b"q" * 20,
    )
    frame = wire.pack_requests([wire.pack_request(largest)] * MAX_BATCH)
    assert wire.parse_requests(_body(frame, Kind.REQUESTS)) == [largest] * MAX_BATCH


def test_unknown_statuses_are_refused() -> None:
    """An answer or a report with a status that nobody knows is refused."""
    for status in (len(Status), 255):
        frame = wire.pack_answers([wire.pack_answer(Answer(1, status, 0, b"", b""))])
        with pytest.raises(WireError):
            wire.parse_answers(frame[5:])
    body = bytearray(handshake.pack_report(Report(StartStatus.READY, 1, ""))[5:])
    body[0] = 99
    with pytest.raises(WireError):
        handshake.parse_report(bytes(body))
    flagged = bytearray(handshake.pack_settings(WorkerSettings("m", "t", "p", True))[5:])  # noqa: FBT003 - a tuple's field
    flagged[0] = 2
    with pytest.raises(WireError):
        handshake.parse_settings(bytes(flagged))


def test_long_texts() -> None:
    """A report's text is cut, never in the middle of a character; settings are refused."""
    report = Report(StartStatus.FAULT, 0, "x" + "é" * 4000)
    (_, body) = Frames().feed(handshake.pack_report(report))[0]
    assert handshake.parse_report(body).text == "x" + "é" * 2047
    with pytest.raises(WireError):
        handshake.pack_settings(WorkerSettings("m" * 4097, "t", "p", True))  # noqa: FBT003 - a tuple's field
