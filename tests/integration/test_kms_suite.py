"""The real service passes the acceptance suites that the SDK's fake passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.suites.envelope_suite import EnvelopeSuite
from tests.suites.kms_suite import KmsSuite
from tests.suites.under_test import KmsUnderTest
from tests.support.deployment import Deployment, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.hsm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("softhsm"),
]

# Each bit costs a call over TLS and one to the HSM; test_bad_input.py flips every one.
BIT_STEP = 7
# Most mutations are refused by the parser; one in some hundred costs a call.
MUTATIONS = 800


class TestSeparateServers(KmsSuite):
    """A server for each region."""

    @pytest.fixture(scope="class")
    @classmethod
    def kms(cls, shared_deployment: Deployment) -> Iterator[KmsUnderTest]:
        with shared_deployment.client() as client:
            yield KmsUnderTest(
                client,
                ("eu-1", "us-1"),
                bit_step=BIT_STEP,
                one_server=False,
                oaep_sha1_only=True,
            )


class TestOneServer(KmsSuite):
    """One server for both regions."""

    @pytest.fixture(scope="class")
    @classmethod
    def kms(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsUnderTest]:
        deployment = Deployment.create(tmp_path_factory.mktemp("one-server") / "dev")
        deployment.host_all_in_first()
        with running(deployment), deployment.client() as client:
            yield KmsUnderTest(client, ("eu-1", "us-1"), bit_step=BIT_STEP, oaep_sha1_only=True)


class TestEnvelopes(EnvelopeSuite):
    """Envelopes over two servers, which are ended and started for the outages."""

    @pytest.fixture(scope="class")
    @classmethod
    def kms(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsUnderTest]:
        deployment = Deployment.create(tmp_path_factory.mktemp("envelopes") / "dev")
        # A region that is down is to be noticed soon.
        with running(deployment), deployment.client(max_attempts=5) as client:

            @contextlib.contextmanager
            def down(region: str) -> Iterator[None]:
                deployment.kill(f"server-{region}")
                try:
                    yield
                finally:
                    deployment.start(f"server-{region}")
                    deployment.wait_ready()
                    # The channel may still be pausing between two attempts to connect.
                    deployment.wait_answers(client, region)

            yield KmsUnderTest(
                client, ("eu-1", "us-1"), down=down, mutations=MUTATIONS, one_server=False
            )


def test_every_record_of_the_suite_verifies(shared_deployment: Deployment) -> None:
    """After whatever ran before, the log verifies and holds what both shards recorded."""
    with shared_deployment.client() as client:
        receipts = [client.create_key(region).receipts[0] for region in client.regions]
    shared_deployment.wait_drained()
    verified = shared_deployment.verify(receipts)
    assert set(verified.shards) == {"eu-1", "us-1"}
