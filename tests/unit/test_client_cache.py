"""The data key cache: its bounds, and that keys are wiped neither too late nor too early."""

from __future__ import annotations

import copy
import hmac
import pickle
import threading

import pytest

from strongroom_client import DataKeyCache, EnvelopeClient, SecretBytes, UnreachableError
from strongroom_client._data_key import DataKey
from strongroom_client.testing import FakeKms


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _key(fill: int = 1) -> DataKey:
    return DataKey(SecretBytes(bytes((fill,)) * 32), b"list")


def _is_wiped(key: DataKey) -> bool:
    return bytes(key.key) == bytes(32)


def _put(cache: DataKeyCache, name: bytes, *, message_bytes: int = 10) -> DataKey:
    key = _key()
    cache.put(name, key, message_bytes, made_at=cache.now())
    key.release()
    return key


def test_an_entry_ages_out() -> None:
    """An entry serves until its age and is wiped when it is asked for afterwards."""
    clock = Clock()
    cache = DataKeyCache(max_age_seconds=60, monotonic=clock)
    key = _put(cache, b"a")
    clock.now += 59.9
    taken = cache.take(b"a", 1)
    assert taken is key
    taken.release()
    clock.now += 0.1
    assert cache.take(b"a", 1) is None
    assert _is_wiped(key)
    assert len(cache) == 0


def test_age_counts_from_the_question() -> None:
    """The time that the service took to answer counts as age."""
    clock = Clock()
    cache = DataKeyCache(max_age_seconds=60, monotonic=clock)
    cache.put(b"a", _key(), 1, made_at=clock.now - 60)
    assert cache.take(b"a", 1) is None


def test_messages_are_bounded() -> None:
    """The message that the key was made for counts, and the one beyond the limit gets no key."""
    cache = DataKeyCache(max_messages=3)
    key = _put(cache, b"a")
    for _ in range(2):
        taken = cache.take(b"a", 1)
        assert taken is key
        taken.release()
    assert cache.take(b"a", 1) is None
    assert _is_wiped(key)


def test_bytes_are_bounded() -> None:
    """A message that would go over the bytes of an entry gets no key from it."""
    cache = DataKeyCache(max_bytes=100)
    key = _put(cache, b"a", message_bytes=60)
    taken = cache.take(b"a", 40)
    assert taken is key
    taken.release()
    assert cache.take(b"a", 1) is None
    assert _is_wiped(key)
    assert _is_wiped(_put(cache, b"b", message_bytes=101))


def test_entries_are_bounded() -> None:
    """The entry that was used longest ago leaves first."""
    cache = DataKeyCache(max_entries=2)
    one, two = _put(cache, b"1"), _put(cache, b"2")
    taken = cache.take(b"1", 1)
    assert taken is not None
    taken.release()
    _put(cache, b"3")
    assert len(cache) == 2
    assert _is_wiped(two)
    assert not _is_wiped(one)


def test_one_message_means_no_cache() -> None:
    """With max_messages=1 nothing is kept."""
    cache = DataKeyCache(max_messages=1)
    assert _is_wiped(_put(cache, b"a"))
    assert len(cache) == 0


def test_a_key_in_use_is_wiped_only_afterwards() -> None:
    """A key that leaves the cache while it is used keeps its bytes until its last user leaves."""
    cache = DataKeyCache()
    key = _put(cache, b"a")
    first, second = cache.take(b"a", 1), cache.take(b"a", 1)
    assert first is key
    assert second is key
    cache.clear()
    assert not _is_wiped(key)
    key.release()
    assert not _is_wiped(key)
    key.release()
    assert _is_wiped(key)
    with pytest.raises(RuntimeError, match="wiped"):
        key.acquire()


def test_a_replaced_key_is_wiped() -> None:
    """A second key under one name takes the place of the first."""
    cache = DataKeyCache()
    first = _put(cache, b"a")
    _put(cache, b"a")
    assert _is_wiped(first)
    assert len(cache) == 1


def test_expired_entries_can_be_dropped() -> None:
    """`drop_expired` wipes the old entries and leaves the others."""
    clock = Clock()
    cache = DataKeyCache(max_age_seconds=60, monotonic=clock)
    old = _put(cache, b"old")
    clock.now += 30
    young = _put(cache, b"young")
    clock.now += 40
    cache.drop_expired()
    assert _is_wiped(old)
    assert not _is_wiped(young)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_age_seconds": 0},
        {"max_age_seconds": float("inf")},
        {"max_age_seconds": float("nan")},
        {"max_messages": 0},
        {"max_messages": 2**32 + 1},
        {"max_bytes": 0},
        {"max_entries": 0},
    ],
)
def test_senseless_limits_are_refused(limits: dict[str, float]) -> None:
    """A limit of nothing, or of infinity, is ValueError."""
    with pytest.raises(ValueError, match="max_"):
        DataKeyCache(**limits)  # type: ignore[arg-type] # whole numbers where they must be


def test_threads_never_meet_a_wiped_key() -> None:
    """Threads that take, use and evict at once never see a key of zeros."""
    cache = DataKeyCache(max_entries=2, max_messages=5)
    failures: list[str] = []

    def work(name: bytes) -> None:
        for _ in range(500):
            key = cache.take(name, 1)
            if key is None:
                key = _key()
                cache.put(name, key, 1, made_at=cache.now())
            with key:
                if _is_wiped(key):
                    failures.append("wiped in use")

    threads = [threading.Thread(target=work, args=(b"%d" % (n % 3),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_cache_saves_calls() -> None:
    """A hundred messages cost one data key, and opening them one Decrypt."""
    fake = FakeKms()
    kms = fake.client()
    key = kms.create_key("eu-1").name
    client = EnvelopeClient(kms, keys=[key], cache=DataKeyCache())
    envelopes = [client.encrypt(b"x", encryption_context={"a": "b"}) for _ in range(100)]
    assert len(set(envelopes)) == 100
    for envelope in envelopes:
        client.decrypt(envelope, encryption_context={"a": "b"})
    methods = [record.method for record in fake.records]
    assert methods == ["CreateKey", "GenerateDataKey", "Decrypt"]


def test_another_context_is_another_data_key() -> None:
    """Messages of two contexts never share a data key."""
    fake = FakeKms()
    kms = fake.client()
    client = EnvelopeClient(kms, keys=[kms.create_key("eu-1").name], cache=DataKeyCache())
    client.encrypt(b"x", encryption_context={"a": "b"})
    fake.take_down("eu-1")
    client.encrypt(b"x", encryption_context={"a": "b"})
    with pytest.raises(UnreachableError):
        client.encrypt(b"x", encryption_context={"a": "c"})


def test_a_key_for_encryption_does_not_decrypt() -> None:
    """Having made messages is no permission to open them: Decrypt is asked for."""
    fake = FakeKms()
    kms = fake.client()
    client = EnvelopeClient(kms, keys=[kms.create_key("eu-1").name], cache=DataKeyCache())
    envelope = client.encrypt(b"x", encryption_context={})
    fake.take_down("eu-1")
    with pytest.raises(UnreachableError):
        client.decrypt(envelope, encryption_context={})


def test_secret_bytes_hide_and_wipe() -> None:
    """SecretBytes are masked, compare by identity, refuse copies, and wipe in place."""
    secret = SecretBytes(b"\x07sesame")
    view = memoryview(secret)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert "sesame" not in text
    assert secret != SecretBytes(b"\x07sesame")
    assert secret == secret  # noqa: PLR0124 - identity is the point
    assert hmac.compare_digest(secret, b"\x07sesame")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            attempt(secret)
    secret.wipe()
    assert bytes(view) == bytes(7)
    with SecretBytes(b"sesame") as other:
        pass
    assert bytes(other) == bytes(6)
    SecretBytes().wipe()


def test_no_key_is_in_a_repr() -> None:
    """Data keys, caches and results show nothing of their bytes."""
    kms = FakeKms().client()
    made = kms.generate_data_key(kms.create_key("eu-1").name, encryption_context={})
    secret = bytes(made.plaintext_data_key)
    for thing in (made, DataKey(made.plaintext_data_key), DataKeyCache(), kms):
        assert repr(secret)[2:-1] not in repr(thing)
        assert secret.hex() not in repr(thing)
