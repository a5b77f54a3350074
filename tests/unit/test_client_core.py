"""Retries, deadlines, checksums and names: what the SDK does with bad days and bad answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import (
    ArgumentInvalidError,
    AsyncKmsClient,
    ChecksumMismatchError,
    ClientOptions,
    DeadlineExceededError,
    Endpoint,
    EnvelopeClient,
    EnvelopeInvalidError,
    HsmUnavailableError,
    InternalError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsClient,
    NoEndpointError,
    OverloadedError,
    PolicyDeniedError,
    QuotaExceededError,
    ResponseInvalidError,
    ShardUnavailableError,
    StrongroomError,
    TlsFiles,
    UnreachableError,
)
from strongroom_client._core import Call, Reply
from strongroom_client._drivers import AsyncDriver, Driver, Limits
from strongroom_client.testing import FakeKms

TLS_FILES = TlsFiles(Path("cert"), Path("key"), Path("ca"))


def _longest(low: float, high: float) -> float:
    del low
    return high


class Scripted:
    """A transport in front of the fake that alters answers, and time that only sleeps move."""

    def __init__(self, fake: FakeKms, alter: Callable[[Message, int], None] | None = None):
        self.fake = fake
        self.alter = alter
        self.calls: list[Call] = []
        self.timeouts: list[float] = []
        self.sleeps: list[float] = []
        self.now = 1000.0
        self.call_seconds = 0.0
        self.before: Callable[[], None] | None = None

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        self.calls.append(call)
        self.timeouts.append(timeout_seconds)
        self.now += self.call_seconds
        if self.before is not None:
            self.before()
        reply = self.fake.answer(call.region, call.method, call.request)
        if self.alter is not None:
            self.alter(reply.message, len(self.calls))
        return reply

    def close(self) -> None:
        """Nothing to close."""

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def client(self, *, timeout_seconds: float = 5.0, max_attempts: int = 5) -> KmsClient:
        driver = Driver(
            self,
            Limits(timeout_seconds, max_attempts),
            monotonic=lambda: self.now,
            sleep=self.sleep,
            uniform=_longest,
        )
        return KmsClient.over(driver, self.fake.regions)


@pytest.fixture
def fake() -> FakeKms:
    return FakeKms()


@pytest.mark.parametrize(
    "error",
    [
        HsmUnavailableError("x"),
        ShardUnavailableError("x"),
        UnreachableError("x"),
        OverloadedError("x"),
        QuotaExceededError("x"),
    ],
)
def test_what_may_work_again_is_tried_again(fake: FakeKms, error: StrongroomError) -> None:
    """UNAVAILABLE and RESOURCE_EXHAUSTED are repeated, with doubling full-jitter delays."""
    scripted = Scripted(fake)
    fake.fail_next("eu-1", error, times=3)
    scripted.client().create_key("eu-1")
    assert scripted.sleeps == [0.05, 0.1, 0.2]
    assert len({call.request.SerializeToString() for call in scripted.calls}) == 1


@pytest.mark.parametrize(
    "error", [InternalError("x"), DeadlineExceededError("x"), KeyNotFoundError("x")]
)
def test_nothing_else_is_tried_again(fake: FakeKms, error: StrongroomError) -> None:
    """Any other refusal is raised at once."""
    scripted = Scripted(fake)
    fake.fail_next("eu-1", error)
    with pytest.raises(type(error)):
        scripted.client().create_key("eu-1")
    assert scripted.sleeps == []


def test_attempts_are_bounded(fake: FakeKms) -> None:
    """After the last attempt its error is raised; with one attempt there is no repeat."""
    for max_attempts in (1, 4):
        scripted = Scripted(fake)
        fake.fail_next("eu-1", HsmUnavailableError("x"), times=max_attempts)
        with pytest.raises(HsmUnavailableError):
            scripted.client(max_attempts=max_attempts).create_key("eu-1")
        assert len(scripted.calls) == max_attempts


def test_the_deadline_covers_every_attempt(fake: FakeKms) -> None:
    """Attempts get what is left of the time, and no delay goes beyond the deadline."""
    scripted = Scripted(fake)
    scripted.call_seconds = 0.4
    fake.fail_next("eu-1", HsmUnavailableError("x"), times=9)
    with pytest.raises(HsmUnavailableError):
        scripted.client(timeout_seconds=1.0, max_attempts=9).create_key("eu-1")
    assert scripted.timeouts == pytest.approx([1.0, 0.55, 0.075])
    assert scripted.sleeps == pytest.approx([0.05, 0.075])


def test_the_service_says_when_to_come_back(fake: FakeKms) -> None:
    """RetryInfo is the least delay; one that ends after the deadline ends the attempts."""
    for kind in (OverloadedError, QuotaExceededError):
        scripted = Scripted(fake)
        fake.fail_next("eu-1", kind("x", retry_after_seconds=2.0))
        scripted.client().create_key("eu-1")
        assert scripted.sleeps == pytest.approx([2.05])
        fake.fail_next("eu-1", kind("x", retry_after_seconds=5.0))
        with pytest.raises(kind) as refused:
            scripted.client().create_key("eu-1")
        assert refused.value.retry_after_seconds == 5.0
        assert len(scripted.sleeps) == 1


def test_attempts_go_on_until_the_deadline(fake: FakeKms) -> None:
    """With default options an outage of nearly the whole time limit is bridged."""
    options = ClientOptions(TLS_FILES, (Endpoint("eu-1", "localhost:1"),))
    limits = {"timeout_seconds": options.timeout_seconds, "max_attempts": options.max_attempts}
    for outage, bridged in ((19.9, True), (20.1, False)):
        scripted = Scripted(fake)
        began = scripted.now

        def fails(scripted: Scripted = scripted, end: float = began + outage) -> None:
            if scripted.now < end:
                raise UnreachableError("nobody listens")

        scripted.before = fails
        client = scripted.client(**limits)  # type: ignore[arg-type]
        if bridged:
            client.create_key("eu-1")
        else:
            with pytest.raises(UnreachableError):
                client.create_key("eu-1")
        assert max(scripted.sleeps) <= 1.0
        assert len(scripted.sleeps) < 40
        assert scripted.now <= began + 20.0


def test_jitter_is_full(fake: FakeKms) -> None:
    """The delay is drawn from zero up."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    driver = Driver(
        Scripted(fake), Limits(5.0, 5), monotonic=lambda: 0.0, sleep=lambda _: None, uniform=uniform
    )
    fake.fail_next("eu-1", HsmUnavailableError("x"), times=2)
    KmsClient.over(driver, fake.regions).create_key("eu-1")
    assert drawn == [(0.0, 0.05), (0.0, 0.1)]


async def test_the_asyncio_driver_does_the_same(fake: FakeKms) -> None:
    """The asyncio client repeats with the same delays, and a cancelled call stays cancelled."""
    scripted, sleeps = Scripted(fake), []

    class Transport:
        async def call(self, call: Call, *, timeout_seconds: float) -> Reply:
            return scripted.call(call, timeout_seconds=timeout_seconds)

        async def close(self) -> None:
            """Nothing to close."""

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    driver = AsyncDriver(Transport(), Limits(5.0, 5), sleep=sleep, uniform=_longest)
    client = AsyncKmsClient.over(driver, fake.regions)
    fake.fail_next("eu-1", HsmUnavailableError("x"), times=2)
    await client.create_key("eu-1")
    assert sleeps == [0.05, 0.1]
    fake.fail_next("eu-1", HsmUnavailableError("x"))
    slow = client.with_timeout(60)
    slow.driver._sleep = asyncio.sleep
    fake.fail_next("eu-1", HsmUnavailableError("x", retry_after_seconds=30))
    task = asyncio.create_task(slow.create_key("eu-1"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _flip(field: str, *, times: int) -> Callable[[Message, int], None]:
    """Flip a bit of a field of the first `times` answers."""

    def alter(message: Message, number: int) -> None:
        data = getattr(message, field, None)
        if isinstance(data, bytes) and data and number <= times:
            setattr(message, field, bytes((data[0] ^ 1,)) + data[1:])

    return alter


USES: dict[str, tuple[str, Callable[[KmsClient, str, bytes], object]]] = {
    "Encrypt": ("ciphertext", lambda c, k, _: c.encrypt(k, b"x", encryption_context={})),
    "Decrypt": ("plaintext", lambda c, k, b: c.decrypt(k, b, encryption_context={})),
    "ReEncrypt": (
        "ciphertext",
        lambda c, k, b: c.re_encrypt(
            b,
            source_key=k,
            source_encryption_context={},
            destination_key=k,
            destination_encryption_context={},
        ),
    ),
    "GenerateDataKey": (
        "plaintext_data_key",
        lambda c, k, _: c.generate_data_key(k, encryption_context={}),
    ),
    "GenerateDataKey wrapped": (
        "wrapped_data_key",
        lambda c, k, _: c.generate_data_key(k, encryption_context={}),
    ),
    "GenerateDataKeyWithoutPlaintext": (
        "wrapped_data_key",
        lambda c, k, _: c.generate_data_key_without_plaintext(k, encryption_context={}),
    ),
    "GenerateRandom": ("random", lambda c, _k, _b: c.generate_random("eu-1", 16)),
}


@pytest.mark.parametrize("name", USES)
def test_a_flipped_bit_of_an_answer_is_noticed(fake: FakeKms, name: str) -> None:
    """An answer whose bytes do not fit their CRC32C is asked for again, three times in all."""
    field, use = USES[name]
    key = fake.client().create_key("eu-1").name
    blob = fake.client().encrypt(key, b"x", encryption_context={}).ciphertext
    scripted = Scripted(fake, _flip(field, times=2))
    use(scripted.client(), key, blob)
    assert len(scripted.calls) == 3
    scripted = Scripted(fake, _flip(field, times=9))
    with pytest.raises(ChecksumMismatchError):
        use(scripted.client(), key, blob)
    assert len(scripted.calls) == 3


@pytest.mark.parametrize("name", ["Encrypt", "Decrypt", "ReEncrypt"])
def test_a_lost_request_checksum_is_noticed(fake: FakeKms, name: str) -> None:
    """An answer that does not confirm the request's checksum is not believed."""

    def alter(message: Message, _number: int) -> None:
        for field in ("verified_plaintext_crc32c", "verified_ciphertext_crc32c"):
            if hasattr(message, field):
                setattr(message, field, False)

    _, use = USES[name]
    key = fake.client().create_key("eu-1").name
    blob = fake.client().encrypt(key, b"x", encryption_context={}).ciphertext
    with pytest.raises(ChecksumMismatchError):
        use(Scripted(fake, alter).client(), key, blob)


def test_a_request_that_arrives_changed_is_sent_again(fake: FakeKms) -> None:
    """CHECKSUM_MISMATCH of the service is answered with the same request."""
    key = fake.client().create_key("eu-1").name
    scripted = Scripted(fake)
    fake.fail_next("eu-1", ChecksumMismatchError("x"), times=2)
    scripted.client().encrypt(key, b"x", encryption_context={})
    assert len(scripted.calls) == 3


@pytest.mark.parametrize("name", [name for name in USES if name != "GenerateRandom"])
@pytest.mark.parametrize("version", ["", "nonsense", "other key", "other region"])
def test_an_answer_about_another_key_is_not_believed(
    fake: FakeKms, name: str, version: str
) -> None:
    """An answer that names another key than was asked for is ResponseInvalidError."""
    _, use = USES[name]
    key = fake.client().create_key("eu-1").name
    blob = fake.client().encrypt(key, b"x", encryption_context={}).ciphertext
    used = {
        "other key": f"{key[:-12]}000000000000/versions/1",
        "other region": f"{key.replace('eu-1', 'us-1')}/versions/1",
    }.get(version, version)

    def alter(message: Message, _number: int) -> None:
        for field in ("key_version", "destination_key_version"):
            if hasattr(message, field):
                setattr(message, field, used)

    with pytest.raises(ResponseInvalidError):
        use(Scripted(fake, alter).client(), key, blob)


def test_a_short_key_is_not_believed(fake: FakeKms) -> None:
    """A data key or random bytes of another length than asked for is ResponseInvalidError."""
    from strongroom_client._core import crc32c  # noqa: PLC0415 - only here

    def alter(message: Message, _number: int) -> None:
        if isinstance(message, rpc.GenerateRandomResponse):
            message.random = b"short"
            message.random_crc32c = crc32c(b"short")

    with pytest.raises(ResponseInvalidError):
        Scripted(fake, alter).client().generate_random("eu-1", 32)


BAD_ARGUMENTS: list[tuple[str, Callable[[KmsClient, str], object]]] = [
    ("key", lambda c, _: c.encrypt("nonsense", b"x", encryption_context={})),
    ("key", lambda c, k: c.enable_key(k.replace("keys", "aliases"))),
    ("region", lambda c, _: c.create_key("EU")),
    ("region", lambda c, _: c.generate_random("regions/eu-1", 1)),
    ("plaintext", lambda c, k: c.encrypt(k, b"", encryption_context={})),
    ("plaintext", lambda c, k: c.encrypt(k, bytes(4097), encryption_context={})),
    ("ciphertext", lambda c, k: c.decrypt(k, bytes(6145), encryption_context={})),
    ("encryption_context", lambda c, k: c.encrypt(k, b"x", encryption_context={"": "x"})),
    ("encryption_context", lambda c, k: c.encrypt(k, b"x", encryption_context={"a": "\ud800"})),
    ("encryption_context", lambda c, k: c.encrypt(k, b"x", encryption_context={"a": "x" * 8192})),
    ("number_of_bytes", lambda c, _: c.generate_random("eu-1", 1025)),
    (
        "number_of_bytes",
        lambda c, k: c.generate_data_key(k, encryption_context={}, number_of_bytes=0),
    ),
]


@pytest.mark.parametrize(("field", "call"), BAD_ARGUMENTS)
def test_bad_arguments_never_leave_the_process(
    fake: FakeKms, field: str, call: Callable[[KmsClient, str], object]
) -> None:
    """A name, size or context out of its limits is refused before anything is sent."""
    key = fake.client().create_key("eu-1").name
    scripted = Scripted(fake)
    with pytest.raises(ArgumentInvalidError) as refused:
        call(scripted.client(), key)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert scripted.calls == []


def test_envelope_keys_are_checked_at_once(fake: FakeKms) -> None:
    """An envelope client refuses names that are none, too many, or without endpoint."""
    kms = fake.client()
    key = kms.create_key("eu-1").name
    for keys in (["nonsense"], [key] * 17, key):
        with pytest.raises(ArgumentInvalidError):
            EnvelopeClient(kms, keys=keys)
    with pytest.raises(NoEndpointError):
        EnvelopeClient(kms, keys=[key.replace("eu-1", "mars-1")])
    with pytest.raises(ArgumentInvalidError):
        EnvelopeClient(kms, keys=[]).encrypt(b"x", encryption_context={})
    with pytest.raises(ArgumentInvalidError, match="once"):
        EnvelopeClient(kms, keys=[key, key]).encrypt(b"x", encryption_context={})


def _two_region_envelope(fake: FakeKms) -> tuple[list[str], bytes]:
    kms = fake.client()
    keys = [kms.create_key(region).name for region in fake.regions]
    return keys, EnvelopeClient(kms, keys=keys).encrypt(b"x", encryption_context={})


def test_a_region_that_was_down_is_asked_last(fake: FakeKms) -> None:
    """After a failure the other region is asked first, until some seconds have passed."""
    _, envelope = _two_region_envelope(fake)
    scripted = Scripted(fake)
    client = EnvelopeClient(scripted.client(), keys=[])
    client.core._health._monotonic = lambda: scripted.now
    fake.take_down("eu-1")
    client.decrypt(envelope, encryption_context={})
    assert [call.region for call in scripted.calls] == ["eu-1", "eu-1", "us-1"]
    client.decrypt(envelope, encryption_context={})
    assert [call.region for call in scripted.calls][3:] == ["us-1"]
    scripted.now += 10
    fake.bring_up("eu-1")
    client.decrypt(envelope, encryption_context={})
    assert [call.region for call in scripted.calls][4:] == ["eu-1"]


def test_a_region_that_hangs_leaves_time_for_the_other(fake: FakeKms) -> None:
    """The first of two keys gets half of the time, and a deadline goes on to the second."""
    _, envelope = _two_region_envelope(fake)
    scripted = Scripted(fake)
    fake.fail_next("eu-1", DeadlineExceededError("x"))
    client = EnvelopeClient(scripted.client(timeout_seconds=4.0), keys=[])
    assert client.decrypt(envelope, encryption_context={}) == b"x"
    assert scripted.timeouts == [2.0, 4.0]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (PolicyDeniedError("x"), UnreachableError("x"), UnreachableError),
        (KeyNotFoundError("x"), KeyDisabledError("x"), KeyDisabledError),
        (KeyNotFoundError("x"), PolicyDeniedError("x"), PolicyDeniedError),
        (KeyNotFoundError("x"), KeyNotFoundError("y"), KeyNotFoundError),
    ],
)
def test_the_most_telling_error_is_raised(
    fake: FakeKms, first: StrongroomError, second: StrongroomError, told: type[StrongroomError]
) -> None:
    """When no key opens the message, the error says what helps most, with a note for each key."""
    keys, envelope = _two_region_envelope(fake)
    fake.fail_next("eu-1", first, times=5)
    fake.fail_next("us-1", second, times=5)
    with pytest.raises(told) as refused:
        EnvelopeClient(fake.client(), keys=[]).decrypt(envelope, encryption_context={})
    notes: Any = refused.value.__notes__
    assert notes == [f"{keys[0]}: {first.reason}", f"{keys[1]}: {second.reason}"]


def test_envelopes_of_foreign_regions_are_named(fake: FakeKms) -> None:
    """An envelope whose regions all lack an endpoint is NoEndpointError, not invalid."""
    _, envelope = _two_region_envelope(fake)
    other = FakeKms(regions=("mars-1",))
    with pytest.raises(NoEndpointError, match=r"eu-1, us-1"):
        EnvelopeClient(other.client(), keys=[]).decrypt(envelope, encryption_context={})


def test_all_bad_envelopes_get_one_text(fake: FakeKms) -> None:
    """Format, context, commitment, tag and length failures cannot be told apart."""
    _, envelope = _two_region_envelope(fake)
    client = EnvelopeClient(fake.client(), keys=[])
    bad = [b"", envelope[:-1], envelope[:-1] + bytes((envelope[-1] ^ 1,)), b"x" + envelope[1:]]
    errors = []
    for each in bad:
        with pytest.raises(EnvelopeInvalidError) as refused:
            client.decrypt(each, encryption_context={})
        errors.append(refused.value)
    with pytest.raises(EnvelopeInvalidError) as refused:
        client.decrypt(envelope, encryption_context={"a": "b"})
    errors.append(refused.value)
    assert len({(str(error), error.code, error.__cause__) for error in errors}) == 1


def test_any_view_of_bytes_is_taken(fake: FakeKms) -> None:
    """bytes, bytearray and memoryview, also of wider items, are encrypted as bytes."""
    kms = fake.client()
    client = EnvelopeClient(kms, keys=[kms.create_key("eu-1").name])
    data = bytes(range(256)) * 100
    for view in (bytearray(data), memoryview(data), memoryview(data).cast("I")):
        envelope = client.encrypt(view, encryption_context={})
        assert client.decrypt(memoryview(envelope), encryption_context={}) == data
