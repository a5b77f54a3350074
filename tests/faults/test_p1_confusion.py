"""P1: names, contexts and principals that could be taken for one another are not."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
import pytest
from tests.suites.under_test import refusal_of
from tests.support.callers import TRUST_DOMAIN
from tests.support.deployment import Deployment

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import permission_calls_pb2 as calls
from strongroom_client import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    ConstraintKind,
    GrantConstraint,
    Key,
    KeyNotFoundError,
    KmsClient,
    StrongroomError,
    WrongKeyError,
)
from strongroom_client._core import Call

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]

EU, US = "eu-1", "us-1"
PAYMENTS = f"{TRUST_DOMAIN}/payments"
CONTEXT = {"tenant": "7"}
NFC, NFD = "r\u00e9gion", "re\u0301gion"
RACES = 60


@pytest.fixture
def orders(shared_deployment: Deployment) -> Iterator[KmsClient]:
    """Give a client that makes keys."""
    with shared_deployment.client("orders") as client:
        yield client


@pytest.fixture
def payments(shared_deployment: Deployment) -> Iterator[KmsClient]:
    """Give a client of another principal, which those keys are not for."""
    with shared_deployment.client("payments") as client:
        yield client


def _alias(client: KmsClient, key: Key) -> str:
    alias_id = f"confusion/{uuid.uuid4()}"
    return client.create_alias(EU, alias_id=alias_id, key=key.name).name


def _send(client: KmsClient, method: str, request: object) -> None:
    client.driver.transport.call(Call(EU, method, request), timeout_seconds=5.0)  # type: ignore[arg-type] # any request


def _point(client: KmsClient, alias: str, key: Key) -> None:
    _send(client, "UpdateAlias", rpc.UpdateAliasRequest(name=alias, key=key.name))


def test_an_alias_that_moves_leads_to_one_key_or_the_other(
    shared_deployment: Deployment,
    orders: KmsClient,
    payments: KmsClient,
    figures: Callable[..., None],
) -> None:
    """Under a race, each use is of one key: authorised for it, made with it, recorded as it."""
    mine, other = orders.create_key(EU), orders.create_key(EU)
    alias = _alias(orders, mine)
    orders.create_grant(mine.name, grantee_principal=PAYMENTS, operations=["Encrypt", "Decrypt"])
    sealed_by_other = orders.encrypt(other.name, b"theirs", encryption_context=CONTEXT)
    done, moves, tally = threading.Event(), Counter[str](), Counter[str]()

    def move() -> None:
        while not done.is_set():
            for key in (other, mine):
                _point(orders, alias, key)
                moves[key.name] += 1

    mover = threading.Thread(target=move)
    mover.start()
    receipts = []
    try:
        while tally.total() < RACES or min(moves.values(), default=0) < 3:
            try:
                sealed = payments.encrypt(alias, b"mine", encryption_context=CONTEXT)
            except KeyNotFoundError:
                tally["refused"] += 1
            else:
                # Never the key that no policy and no grant allows.
                assert sealed.key_version.startswith(f"{mine.name}/")
                assert uuid.UUID(bytes=sealed.ciphertext[2:18]) == uuid.UUID(mine.name[-36:])
                receipts.append(sealed.receipts[0])
                tally["made"] += 1
            refused = refusal_of(
                lambda: payments.decrypt(
                    alias, sealed_by_other.ciphertext, encryption_context=CONTEXT
                )
            )
            assert isinstance(refused, KeyNotFoundError | WrongKeyError)
    finally:
        done.set()
        mover.join()
    for record in shared_deployment.records_of(receipts):
        assert record["key"] == mine.name
        assert record["policy"].startswith("grant/")
    figures(moves=moves.total(), **tally)


def test_a_ciphertext_stays_in_its_region_and_with_its_key(
    orders: KmsClient, payments: KmsClient
) -> None:
    """Another region's key, another tenant's key, a header that names them: all refused."""
    here, there, theirs = (
        orders.create_key(EU),
        orders.create_key(US),
        payments.create_key(EU),
    )
    sealed = orders.encrypt(here.name, b"secret", encryption_context=CONTEXT).ciphertext
    with pytest.raises(WrongKeyError):
        orders.decrypt(there.name, sealed, encryption_context=CONTEXT)
    with pytest.raises(KeyNotFoundError):
        orders.decrypt_with_any_key(US, sealed, encryption_context=CONTEXT)
    with pytest.raises(WrongKeyError):
        payments.decrypt(theirs.name, sealed, encryption_context=CONTEXT)
    with pytest.raises(KeyNotFoundError):
        payments.decrypt_with_any_key(EU, sealed, encryption_context=CONTEXT)
    with pytest.raises(KeyNotFoundError):
        payments.decrypt(here.name, sealed, encryption_context=CONTEXT)
    for client, key in ((orders, there), (payments, theirs)):
        renamed = sealed[:2] + uuid.UUID(key.name[-36:]).bytes + sealed[18:]
        with pytest.raises(CiphertextInvalidError):
            client.decrypt(key.name, renamed, encryption_context=CONTEXT)


def test_a_tenants_grant_is_for_the_tenants_context(orders: KmsClient, payments: KmsClient) -> None:
    """A ciphertext of another tenant is refused under any context, before the HSM is asked."""
    key = orders.create_key(EU)
    orders.create_grant(
        key.name,
        grantee_principal=PAYMENTS,
        operations=["Decrypt"],
        constraint=GrantConstraint(ConstraintKind.SUBSET, {"tenant": "7"}),
    )
    mine = orders.encrypt(key.name, b"7", encryption_context={"tenant": "7"}).ciphertext
    theirs = orders.encrypt(key.name, b"8", encryption_context={"tenant": "8"}).ciphertext
    assert payments.decrypt(key.name, mine, encryption_context=CONTEXT).plaintext == b"7"
    with pytest.raises(CiphertextInvalidError):
        payments.decrypt(key.name, theirs, encryption_context=CONTEXT)
    contexts: list[dict[str, str]] = [
        {"tenant": "8"},
        {"Tenant": "7"},
        {"tenant": "7 "},
        {"7": "tenant"},
        {},
    ]
    for context in contexts:
        with pytest.raises(KeyNotFoundError):
            payments.decrypt(key.name, theirs, encryption_context=context)


def test_one_context_has_one_meaning(orders: KmsClient, payments: KmsClient) -> None:
    """The order of its pairs says nothing; Unicode forms are different texts, for grants too."""
    key = orders.create_key(EU)
    ordered = {"a": "1", "b": "2", "c": NFC}
    sealed = orders.encrypt(key.name, b"x", encryption_context=ordered).ciphertext
    reverse = dict(reversed(ordered.items()))
    assert orders.decrypt(key.name, sealed, encryption_context=reverse).plaintext == b"x"
    with pytest.raises(CiphertextInvalidError):
        orders.decrypt(key.name, sealed, encryption_context=ordered | {"c": NFD})
    for kind in (ConstraintKind.EQUALS, ConstraintKind.SUBSET):
        grant = orders.create_grant(
            key.name,
            grantee_principal=PAYMENTS,
            operations=["Encrypt"],
            constraint=GrantConstraint(kind, {"name": NFC}),
        )
        payments.encrypt(key.name, b"x", encryption_context={"name": NFC})
        with pytest.raises(KeyNotFoundError):
            payments.encrypt(key.name, b"x", encryption_context={"name": NFD})
        orders.revoke_grant(grant.name)


def test_a_pair_that_comes_twice_is_one_pair_everywhere(
    shared_deployment: Deployment, orders: KmsClient
) -> None:
    """What is decided upon, what is authenticated and what is recorded is the same value."""
    key = orders.create_key(EU)
    orders.create_grant(
        key.name,
        grantee_principal=PAYMENTS,
        operations=["Encrypt"],
        constraint=GrantConstraint(ConstraintKind.EQUALS, {"tenant": "7"}),
    )
    with shared_deployment.channel(EU, shared_deployment.tls_of("payments")) as channel:
        encrypt = channel.unary_unary(
            "/strongroom.kms.v1.KeyService/Encrypt",
            request_serializer=lambda data: data,
            response_deserializer=rpc.EncryptResponse.FromString,
        )
        for first, last, allowed in (("8", "7", True), ("7", "8", False)):
            # Bytes of two messages are their merger: the pair is on the wire twice.
            twice = b"".join(
                rpc.EncryptRequest(
                    key=key.name, plaintext=b"x", encryption_context={"tenant": value}
                ).SerializeToString()
                for value in (first, last)
            )
            if allowed:
                sealed = encrypt(twice, timeout=10).ciphertext
                opened = orders.decrypt(key.name, sealed, encryption_context={"tenant": last})
                assert opened.plaintext == b"x"
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    encrypt(twice, timeout=10)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_another_spelling_is_another_name_or_none(orders: KmsClient, payments: KmsClient) -> None:
    """Case of ids and principals, wildcards: nothing is folded, nothing stands for others."""
    key = orders.create_key(EU)
    region, _, key_id = key.name.rpartition("/keys/")
    for spelling in (
        f"{region}/keys/{key_id.upper()}",
        f"{region}/keys/{{{key_id}}}",
        f"{region}/keys/*",
        f"{region}/keys/{key_id.replace('-', '')}",
        f"{region.upper()}/keys/{key_id}",
        f"{key.name}/",
        f"{key.name}/grants/{key_id}",
    ):
        for method, request in (
            ("GetKeyPolicy", calls.GetKeyPolicyRequest(key=spelling)),
            ("ListGrants", calls.ListGrantsRequest(parent=spelling)),
            ("Encrypt", rpc.EncryptRequest(key=spelling, plaintext=b"x")),
            ("ExplainAccess", calls.ExplainAccessRequest(key=spelling, operation="Decrypt")),
        ):
            refused = refusal_of(lambda: _send(orders, method, request))  # noqa: B023 - called at once
            assert isinstance(refused, ArgumentInvalidError), (spelling, method)
    for principal in (
        f"{TRUST_DOMAIN}/*",
        "spiffe://*/payments",
        f"{TRUST_DOMAIN}/Payments",
        f"{TRUST_DOMAIN}/payments/",
        f"{TRUST_DOMAIN}/payments%20",
        f"{TRUST_DOMAIN}/payment",
    ):
        orders.create_grant(key.name, grantee_principal=principal, operations=["Encrypt"])
    first = orders.get_key_policy(key.name).policy
    wild = "".join(
        f'permit (principal == Principal::"{principal}", action, resource);\n'
        for principal in (f"{TRUST_DOMAIN}/*", "*", f"{TRUST_DOMAIN}/Payments")
    )
    orders.put_key_policy(key.name, first + wild)
    with pytest.raises(KeyNotFoundError):
        payments.encrypt(key.name, b"x", encryption_context={})
    assert not orders.explain_access(
        key.name, "Encrypt", encryption_context={}, principal=PAYMENTS
    ).allowed


def test_a_name_that_is_used_again_brings_nothing_along(
    orders: KmsClient, payments: KmsClient
) -> None:
    """An alias or a grant that was deleted and made again: no old permission, no old data."""
    old, new = orders.create_key(EU), orders.create_key(EU)
    alias = _alias(orders, old)
    grant = orders.create_grant(
        old.name, grantee_principal=PAYMENTS, operations=["Encrypt", "Decrypt"], grant_name="job"
    )
    sealed = payments.encrypt(alias, b"old", encryption_context={}).ciphertext
    _send(orders, "DeleteAlias", rpc.DeleteAliasRequest(name=alias))
    with pytest.raises(KeyNotFoundError):
        payments.encrypt(alias, b"x", encryption_context={})
    orders.create_alias(EU, alias_id=alias.partition("/aliases/")[2], key=new.name)
    for call in (
        lambda: payments.encrypt(alias, b"x", encryption_context={}),
        lambda: payments.decrypt(alias, sealed, encryption_context={}),
    ):
        assert isinstance(refusal_of(call), KeyNotFoundError)
    with pytest.raises(WrongKeyError):
        orders.decrypt(alias, sealed, encryption_context={})
    assert payments.decrypt(old.name, sealed, encryption_context={}).plaintext == b"old"
    orders.revoke_grant(grant.name)
    with pytest.raises(KeyNotFoundError):
        payments.decrypt(old.name, sealed, encryption_context={})
    again = orders.create_grant(
        old.name, grantee_principal=PAYMENTS, operations=["Encrypt", "Decrypt"], grant_name="job"
    )
    assert again.name != grant.name
    assert payments.decrypt(old.name, sealed, encryption_context={}).plaintext == b"old"
    with pytest.raises(StrongroomError, match="no grant"):
        orders.revoke_grant(grant.name)
    assert [each.name for each in orders.list_grants(old.name)] == [again.name]
