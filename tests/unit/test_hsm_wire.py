"""The frames between pool and worker: one encoding, and one error for everything else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import handshake, wire
from strongroom_server.hsm.handshake import Report, StartStatus, WorkerSettings
from strongroom_server.hsm.key_kinds import KINDS
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
    WireKey,
)
from strongroom_server.hsm.wire_operations import (
    ORIGIN_EXTERNAL,
    ORIGIN_HSM,
    SPEC_NUMBERS,
    USAGE_NUMBERS,
)

refs = st.binary(min_size=20, max_size=20).filter(lambda ref: ref != NO_KEY.ref)
roots = st.integers(1, 2**32 - 1)
NO_ROOT = st.just(0)
NOTHING = st.just(b"")


def _kinds(*usages: KeyUsage, aes: bool | None = None) -> list[tuple[int, int]]:
    return [
        (SPEC_NUMBERS[spec], USAGE_NUMBERS[usage])
        for spec, usage in KINDS
        if usage in usages and (aes is None or (spec is KeySpec.AES_256) == aes)
    ]


def _keys(
    kinds: list[tuple[int, int]],
    root: st.SearchStrategy[int] = NO_ROOT,
    wrapped: st.SearchStrategy[bytes] = NOTHING,
) -> st.SearchStrategy[WireKey]:
    return st.builds(
        lambda ref, kind, *rest: WireKey(ref, *kind, *rest),
        refs,
        st.sampled_from(kinds),
        root,
        wrapped,
        st.sampled_from([ORIGIN_HSM, ORIGIN_EXTERNAL]),
    )


def _used(kinds: list[tuple[int, int]]) -> st.SearchStrategy[WireKey]:
    return _keys(kinds) | _keys(kinds, roots, st.binary(min_size=1, max_size=72))


AES = _kinds(KeyUsage.ENCRYPT_DECRYPT, aes=True)
RSA = _kinds(KeyUsage.ENCRYPT_DECRYPT, aes=False)
SIGNERS = _kinds(KeyUsage.SIGN_VERIFY)
MACS = _kinds(KeyUsage.GENERATE_VERIFY_MAC)
AGREERS = _kinds(KeyUsage.KEY_AGREEMENT)
WRAPPABLE = [
    (SPEC_NUMBERS[spec], USAGE_NUMBERS[usage])
    for (spec, usage), kind in KINDS.items()
    if kind.is_wrappable
]
ALL = _kinds(*KeyUsage)
keys = _used(AES)
names = st.builds(lambda ref: WireKey(ref, 0, 0, 0, b""), refs)
root_names = st.builds(lambda root: WireKey(NO_KEY.ref, 0, 0, root, b""), roots)
new = _keys(WRAPPABLE, roots)
aads = st.binary(min_size=1, max_size=200)
sealed = st.binary(min_size=29, max_size=200)
GOOD = WireKey(b"k" * 20, *AES[0], 0, b"")
SETTINGS = WorkerSettings("m", "", "t", "p", True, 16, 0)  # noqa: FBT003 - a tuple's field
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
wrapped = st.binary(min_size=1, max_size=72)
messages = st.binary(max_size=200)
digests = st.binary(min_size=32, max_size=64)


def _algorithms(*prefixes: str) -> st.SearchStrategy[int]:
    return st.sampled_from([int(each) for each in Algorithm if each.name.startswith(prefixes)])


signatures = _algorithms("RSASSA", "ECDSA", "ED25519")
digest_signatures = _algorithms("RSASSA", "ECDSA")
macs = _algorithms("HMAC")
oaeps = _algorithms("RSAES")
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
    _request(Operation.CREATE, key=_keys(ALL)),
    _request(Operation.LOAD, key=_keys(ALL)),
    _request(Operation.PING),
    _request(Operation.CREATE_WRAPPED, key=new),
    _request(Operation.CREATE_ROOT, key=root_names),
    _request(Operation.REWRAP, key=_keys(WRAPPABLE, roots, wrapped), key2=root_names),
    _request(Operation.PUBLIC_KEY, key=_keys(SIGNERS + RSA + AGREERS)),
    _request(Operation.SIGN, key=_used(SIGNERS), number=signatures, data=messages),
    _request(Operation.SIGN_DIGEST, key=_used(SIGNERS), number=digest_signatures, data=digests),
    _request(Operation.VERIFY, key=_used(SIGNERS), number=signatures, data=messages, aad=aads),
    _request(
        Operation.VERIFY_DIGEST,
        key=_used(SIGNERS),
        number=digest_signatures,
        data=digests,
        aad=aads,
    ),
    _request(Operation.MAC, key=_used(MACS), number=macs, data=messages),
    _request(Operation.VERIFY_MAC, key=_used(MACS), number=macs, data=messages, aad=digests),
    _request(Operation.AGREE, key=_used(AGREERS), data=st.binary(min_size=1, max_size=600)),
    _request(Operation.RSA_ENCRYPT, key=_used(RSA), number=oaeps, data=st.binary(max_size=470)),
    _request(
        Operation.RSA_DECRYPT,
        key=_used(RSA),
        number=oaeps,
        data=st.binary(min_size=256, max_size=512),
    ),
    _request(
        Operation.MAKE_TRANSFER_KEY,
        key=names,
        number=st.sampled_from([3072, 4096]),
        data=st.binary(max_size=1),
    ),
    _request(Operation.DESTROY_TRANSFER_KEY, key=names),
    _request(Operation.DESTROY, key=_used(ALL)),
    _request(
        Operation.IMPORT_EXTERNAL,
        key=_keys(WRAPPABLE) | new,
        key2=names,
        number=oaeps,
        data=st.binary(min_size=1, max_size=1024),
        aad=st.binary(min_size=1, max_size=65),
    ),
    _request(
        Operation.EXPORT,
        key=_keys(WRAPPABLE, roots, wrapped),
        number=oaeps,
        data=st.binary(min_size=1, max_size=600),
    ),
    _request(
        Operation.IMPORT,
        key=_keys(WRAPPABLE) | new,
        key2=names,
        data=st.binary(min_size=1, max_size=700),
    ),
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
    st.builds(
        WorkerSettings,
        *([texts] * 4),
        st.booleans(),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
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
        {"operation": 27},
        {"operation": 255},
        {"key": NO_KEY},
        {"key": GOOD._replace(ref=NO_KEY.ref)},
        {"key": GOOD._replace(spec=0)},
        {"key": GOOD._replace(spec=2)},
        {"key": GOOD._replace(usage=2)},
        {"key": GOOD._replace(root=1)},
        {"key": GOOD._replace(wrapped=b"x")},
        {"key": GOOD._replace(origin=2)},
        {"key": GOOD._replace(root=1, wrapped=bytes(73))},
        {"key2": GOOD},
        {"number": 1},
        {"data": b""},
        {"data": bytes(4097)},
        {"aad": b""},
        {"aad": bytes(8215)},
        {"aad2": b"x"},
        {"deadline": float("nan")},
        {"deadline": float("inf")},
    ],
    ids=str,
)
def test_fields_out_of_limits_are_refused(changes: dict[str, object]) -> None:
    """Each field beyond its operation's limits is refused by the receiving side."""
    good = Request(1, Operation.ENCRYPT, 1.0, 0, b"x", b"a", b"", GOOD, NO_KEY)
    body = wire.pack_requests([wire.pack_request(good)])[5:]
    assert wire.parse_requests(body) == [good]
    bad = good._replace(**changes)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(WireError):
        wire.parse_requests(wire.pack_requests([wire.pack_request(bad)])[5:])


@given(requests, st.data())
def test_a_changed_byte_is_refused_or_another_request(
    request_: Request, data: st.DataObject
) -> None:
    """A byte changed anywhere gives the one error or a request within its limits, no other."""
    body = bytearray(wire.pack_requests([wire.pack_request(request_)])[5:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        (parsed,) = wire.parse_requests(bytes(body))
    except WireError:
        return
    assert wire.pack_requests([wire.pack_request(parsed)])[5:] == bytes(body)


def test_every_operation_has_limits() -> None:
    """No operation is without a rule, and none takes an empty request but PING."""
    for operation in Operation:
        empty = (operation, 0, b"", b"", b"", NO_KEY, NO_KEY)
        if operation is Operation.PING:
            wire.check_request(*empty)
            continue
        with pytest.raises(WireError):
            wire.check_request(*empty)


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
    for kind in (0, 6, 255):
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
        GOOD._replace(root=1, wrapped=bytes(72)),
        GOOD._replace(root=2, wrapped=bytes(72)),
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
    flagged = bytearray(handshake.pack_settings(SETTINGS)[5:])
    flagged[0] = 4
    with pytest.raises(WireError):
        handshake.parse_settings(bytes(flagged))


def test_long_texts() -> None:
    """A report's text is cut, never in the middle of a character; settings are refused."""
    report = Report(StartStatus.FAULT, 0, "x" + "é" * 4000)
    (_, body) = Frames().feed(handshake.pack_report(report))[0]
    assert handshake.parse_report(body).text == "x" + "é" * 2047
    with pytest.raises(WireError):
        handshake.pack_settings(SETTINGS._replace(module="m" * 4097))
