"""The fake service passes the acceptance suites, in-process and in both server layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.suites.envelope_suite import EnvelopeSuite
from tests.suites.kms_suite import KmsSuite
from tests.suites.under_test import KmsUnderTest

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
