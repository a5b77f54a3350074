"""The fake service passes the acceptance suites, in-process and in both server layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.suites.envelope_suite import EnvelopeSuite
from tests.suites.kms_suite import KmsSuite
from tests.suites.under_test import KmsUnderTest

from strongroom_client import KeyState, KeyStateInvalidError, KeyVersionState
from strongroom_client.testing import FakeKms


def under_test(*, separate_servers: bool) -> KmsUnderTest:
    """Return a fresh fake."""
    fake = FakeKms(separate_servers=separate_servers)

    @contextlib.contextmanager
    def down(region: str) -> Iterator[None]:
        fake.take_down(region)
        try:
            yield
        finally:
            fake.bring_up(region)

    return KmsUnderTest(
        client=fake.client(),
        regions=("eu-1", "us-1"),
        down=down,
        one_server=not separate_servers,
    )


class TestFakeKms(KmsSuite):
    """One server for both regions."""

    @pytest.fixture
    def kms(self) -> KmsUnderTest:
        return under_test(separate_servers=False)


class TestFakeKmsOfSeparateServers(KmsSuite):
    """A server for each region."""

    @pytest.fixture
    def kms(self) -> KmsUnderTest:
        return under_test(separate_servers=True)


class TestFakeEnvelopes(EnvelopeSuite):
    """Envelopes over the fake."""

    @pytest.fixture
    def kms(self) -> KmsUnderTest:
        return under_test(separate_servers=True)


def test_what_is_due_by_the_fakes_clock_is_destroyed() -> None:
    """Keys and versions go when the clock that the fake was given says so, and stay tombstones."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    client = FakeKms(now=lambda: now[0]).client()
    key, other = client.create_key("eu-1"), client.create_key("eu-1")
    old = client.encrypt(other.name, b"x", encryption_context={})
    client.rotate_key(other.name)
    client.create_alias("eu-1", alias_id="orders", key=key.name)
    client.schedule_key_deletion(key.name, pending_days=7)
    client.schedule_key_version_deletion(old.key_version, pending_days=8)
    now[0] += timedelta(days=7)
    assert client.get_key(key.name).state is KeyState.DESTROYED
    assert [each.name for each in client.list_keys("eu-1")] == [other.name]
    destroyed = client.list_keys("eu-1", states=[KeyState.DESTROYED])
    assert [each.name for each in destroyed] == [key.name]
    versions = client.list_key_versions(key.name)
    assert [each.state for each in versions] == [KeyVersionState.DESTROYED]
    alias = "regions/eu-1/aliases/orders"
    for call in (
        lambda: client.cancel_key_deletion(key.name),
        lambda: client.encrypt(alias, b"x", encryption_context={}),
        lambda: client.update_alias(alias, key=other.name),
    ):
        with pytest.raises(KeyStateInvalidError):
            call()
    client.delete_alias(alias)
    now[0] += timedelta(days=1)
    with pytest.raises(KeyStateInvalidError):
        client.decrypt(other.name, old.ciphertext, encryption_context={})
    assert client.get_key_version(old.key_version).destroy_time == now[0]


def test_records_say_what_was_called() -> None:
    """The fake keeps a record of every call, refused ones with their reason."""
    fake = FakeKms()
    key = fake.client().create_key("eu-1")
    with pytest.raises(Exception, match="no key"):
        fake.client().get_key(key.name.replace(key.name[-12:], "0" * 12))
    assert [(record.method, record.outcome) for record in fake.records] == [
        ("CreateKey", "OK"),
        ("GetKey", "KEY_NOT_FOUND"),
    ]
