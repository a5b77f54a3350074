"""Keys and aliases: every RPC, its limits and its refusals."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client import (
    AliasExistsError,
    ArgumentInvalidError,
    AuditMode,
    EtagMismatchError,
    Key,
    KeyDisabledError,
    KeyManager,
    KeyNotFoundError,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    RequestIdReusedError,
    WrongRegionError,
)

__all__ = ["KeySuite"]

CONTEXT = {"order": "17", "tenant": "acme"}
MISSING_KEY = "00000000-0000-4000-8000-000000000000"


def _new_key(kms: KmsUnderTest, region: int = 0) -> Key:
    return kms.client.create_key(kms.regions[region], description="acceptance")


def _encrypt_request(key: str, **fields: Any) -> rpc.EncryptRequest:
    return rpc.EncryptRequest(**({"key": key, "plaintext": b"x"} | fields))


class KeySuite:
    """Keys and aliases: every RPC, its limits and its refusals."""

    def test_a_new_key_is_as_it_was_asked_for(self, kms: KmsUnderTest) -> None:
        """CreateKey returns an enabled AES-256 key of the region, and GetKey the same."""
        key = kms.client.create_key(kms.regions[0], description="for cards")
        assert key.name.startswith(f"regions/{kms.regions[0]}/keys/")
        assert (key.spec, key.usage) == (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)
        assert (key.state, key.key_manager) == (KeyState.ENABLED, KeyManager.CUSTOMER)
        assert key.description == "for cards"
        assert key.primary_version == f"{key.name}/versions/1"
        assert key.creator.startswith("spiffe://")
        assert key.create_time == key.update_time
        assert kms.client.get_key(key.name) == key

    def test_a_key_is_kept_where_it_was_asked_to_be(self, kms: KmsUnderTest) -> None:
        """Resident and wrapped keys say so, rotate, and decrypt with all their versions."""
        region = kms.regions[0]
        for storage in (KeyStorage.RESIDENT, KeyStorage.WRAPPED):
            request_id = str(uuid.uuid4())
            key = kms.client.create_key(region, storage=storage, request_id=request_id)
            assert key.storage is storage
            assert kms.client.get_key(key.name).storage is storage
            again = kms.client.create_key(region, storage=storage, request_id=request_id)
            assert again == key
            first = kms.client.encrypt(key.name, b"one", encryption_context=CONTEXT)
            assert kms.client.rotate_key(key.name).key.storage is storage
            second = kms.client.encrypt(key.name, b"two", encryption_context=CONTEXT)
            for sealed, plaintext in ((first, b"one"), (second, b"two")):
                opened = kms.client.decrypt(key.name, sealed.ciphertext, encryption_context=CONTEXT)
                assert (opened.plaintext, opened.key_version) == (plaintext, sealed.key_version)

    def test_storage_is_the_default_unless_said(self, kms: KmsUnderTest) -> None:
        """A key made without a word on storage is resident, the default of these shards."""
        assert _new_key(kms).storage is KeyStorage.RESIDENT

    def test_the_storage_of_a_request_id_cannot_change(self, kms: KmsUnderTest) -> None:
        """The same request id with another storage is another request."""
        region, request_id = kms.regions[0], str(uuid.uuid4())
        kms.client.create_key(region, storage=KeyStorage.RESIDENT, request_id=request_id)
        with pytest.raises(RequestIdReusedError):
            kms.client.create_key(region, storage=KeyStorage.WRAPPED, request_id=request_id)

    def test_unknown_storage_is_refused(self, kms: KmsUnderTest) -> None:
        """A number that no storage has is ARGUMENT_INVALID, and so is UNKNOWN in the SDK."""
        region = kms.regions[0]
        request = rpc.CreateKeyRequest(parent=f"regions/{region}")
        request.ParseFromString(request.SerializeToString() + b"\x40\x63")  # field 8 = 99
        with pytest.raises(ArgumentInvalidError):
            kms.raw(region, "CreateKey", request)
        with pytest.raises(ArgumentInvalidError):
            kms.client.create_key(region, storage=KeyStorage.UNKNOWN)

    def test_a_key_has_the_audit_mode_it_was_made_with(self, kms: KmsUnderTest) -> None:
        """REQUIRED unless asked otherwise; it is part of the request, and no mode is refused."""
        region, request_id = kms.regions[0], str(uuid.uuid4())
        assert _new_key(kms).audit_mode is AuditMode.REQUIRED
        key = kms.client.create_key(region, audit_mode=AuditMode.BUFFERED, request_id=request_id)
        assert key.audit_mode is AuditMode.BUFFERED
        assert kms.client.get_key(key.name).audit_mode is AuditMode.BUFFERED
        assert kms.client.rotate_key(key.name).key.audit_mode is AuditMode.BUFFERED
        with pytest.raises(RequestIdReusedError):
            kms.client.create_key(region, request_id=request_id)
        with pytest.raises(ArgumentInvalidError):
            kms.client.create_key(region, audit_mode=AuditMode.UNKNOWN)
        for _ in range(3):
            made = kms.client.encrypt(key.name, b"often", encryption_context={})
            opened = kms.client.decrypt(key.name, made.ciphertext, encryption_context={})
            assert opened.plaintext == b"often"
            assert len(made.receipts) == 1

    def test_every_answer_carries_its_receipt(self, kms: KmsUnderTest) -> None:
        """One receipt per record: one for a call, two for ReEncrypt, one for a refusal."""
        key = _new_key(kms)
        assert len(key.receipts) == 1
        blob = kms.client.encrypt(key.name, b"x", encryption_context={})
        again = kms.client.re_encrypt(
            blob.ciphertext,
            source_key=key.name,
            source_encryption_context={},
            destination_key=key.name,
            destination_encryption_context=CONTEXT,
        )
        assert len(blob.receipts) == 1
        assert len(again.receipts) == 2
        sequences = [r.sequence for r in (*key.receipts, *blob.receipts, *again.receipts)]
        assert sequences == sorted(set(sequences))
        assert all(r.region == kms.regions[0] for r in again.receipts)
        refusal = refusal_of(
            lambda: kms.client.decrypt(key.name, blob.ciphertext, encryption_context=CONTEXT)
        )
        assert len(refusal.receipts) == 1

    def test_a_disabled_key_is_not_used_until_it_is_enabled(self, kms: KmsUnderTest) -> None:
        """Every use of a disabled key is KEY_DISABLED, and works again afterwards."""
        client, key = kms.client, _new_key(kms)
        blob = client.encrypt(key.name, b"x", encryption_context={}).ciphertext
        disabled = client.disable_key(key.name)
        assert disabled.state is KeyState.DISABLED
        assert disabled.etag != key.etag
        uses: list[Callable[[], object]] = [
            lambda: client.encrypt(key.name, b"x", encryption_context={}),
            lambda: client.decrypt(key.name, blob, encryption_context={}),
            lambda: client.decrypt_with_any_key(kms.regions[0], blob, encryption_context={}),
            lambda: client.generate_data_key(key.name, encryption_context={}),
            lambda: client.generate_data_key_without_plaintext(key.name, encryption_context={}),
            lambda: client.rotate_key(key.name),
            lambda: client.re_encrypt(
                blob,
                source_key=key.name,
                source_encryption_context={},
                destination_key=key.name,
                destination_encryption_context={},
            ),
        ]
        for use in uses:
            assert isinstance(refusal_of(use), KeyDisabledError)
        assert client.get_key(key.name).state is KeyState.DISABLED
        assert client.enable_key(key.name).state is KeyState.ENABLED
        assert client.decrypt(key.name, blob, encryption_context={}).plaintext == b"x"

    def test_setting_the_state_that_is_changes_nothing(self, kms: KmsUnderTest) -> None:
        """EnableKey of an enabled key succeeds and leaves its etag."""
        key = _new_key(kms)
        assert kms.client.enable_key(key.name) == key

    def test_a_stale_etag_is_refused(self, kms: KmsUnderTest) -> None:
        """An etag from before another change is ETAG_MISMATCH, the newest one works."""
        key = _new_key(kms)
        changed = kms.client.disable_key(key.name, etag=key.etag)
        with pytest.raises(EtagMismatchError):
            kms.client.enable_key(key.name, etag=key.etag)
        assert kms.client.get_key(key.name) == changed
        enabled = kms.client.enable_key(key.name, etag=changed.etag)
        with pytest.raises(EtagMismatchError):
            kms.client.rotate_key(key.name, etag=changed.etag)
        assert kms.client.rotate_key(key.name, etag=enabled.etag).key_version.number == 2

    def test_old_versions_decrypt_after_a_rotation(self, kms: KmsUnderTest) -> None:
        """After RotateKey the new version encrypts, the old one decrypts and is not primary."""
        client, key = kms.client, _new_key(kms)
        old = client.encrypt(key.name, b"old", encryption_context=CONTEXT)
        rotated = client.rotate_key(key.name)
        assert rotated.key_version.number == 2
        assert rotated.key_version.is_primary
        assert rotated.key.primary_version == rotated.key_version.name
        new = client.encrypt(key.name, b"new", encryption_context=CONTEXT)
        assert (old.key_version, new.key_version) == (
            f"{key.name}/versions/1",
            f"{key.name}/versions/2",
        )
        opened = client.decrypt(key.name, old.ciphertext, encryption_context=CONTEXT)
        assert (opened.plaintext, opened.used_primary) == (b"old", False)
        assert opened.key_version == old.key_version
        assert client.decrypt(key.name, new.ciphertext, encryption_context=CONTEXT).used_primary

    def test_versions_are_listed_page_by_page(self, kms: KmsUnderTest) -> None:
        """ListKeyVersions yields every version once, oldest first, whatever the page size."""
        key = _new_key(kms)
        for _ in range(4):
            kms.client.rotate_key(key.name)
        for page_size in (1, 2, 5, 1000):
            versions = list(kms.client.list_key_versions(key.name, page_size=page_size))
            assert [version.number for version in versions] == [1, 2, 3, 4, 5]
            assert [version.is_primary for version in versions] == [False] * 4 + [True]

    def test_keys_are_listed_page_by_page(self, kms: KmsUnderTest) -> None:
        """ListKeys yields every key of its region once, in order of age, and of no other."""
        made = [_new_key(kms).name for _ in range(5)]
        other = _new_key(kms, 1).name
        for page_size in (2, 1000):
            names = [key.name for key in kms.client.list_keys(kms.regions[0], page_size=page_size)]
            assert len(set(names)) == len(names)
            assert [name for name in names if name in made] == made
            assert other not in names

    def test_a_bad_page_is_refused(self, kms: KmsUnderTest) -> None:
        """A token that the service never gave, and a page of 1,001, are ARGUMENT_INVALID."""
        parent = f"regions/{kms.regions[0]}"
        for request in (
            rpc.ListKeysRequest(parent=parent, page_token="bogus!"),  # noqa: S106 - not a password
            rpc.ListKeysRequest(parent=parent, page_size=1001),
        ):
            with pytest.raises(ArgumentInvalidError):
                kms.raw(kms.regions[0], "ListKeys", request)

    def test_an_alias_stands_for_its_key(self, kms: KmsUnderTest) -> None:
        """Calls that use a key take its alias, and the answer names the key."""
        client, key = kms.client, _new_key(kms)
        alias_id = f"cards/{uuid.uuid4()}"
        alias = client.create_alias(kms.regions[0], alias_id=alias_id, key=key.name)
        assert alias.name == f"regions/{kms.regions[0]}/aliases/{alias_id}"
        assert alias.key == key.name
        assert client.get_key(alias.name) == client.get_key(key.name)
        made = client.encrypt(alias.name, b"x", encryption_context=CONTEXT)
        assert made.key_version == f"{key.name}/versions/1"
        opened = client.decrypt(alias.name, made.ciphertext, encryption_context=CONTEXT)
        assert opened.plaintext == b"x"
        with pytest.raises(AliasExistsError):
            client.create_alias(kms.regions[0], alias_id=alias_id, key=key.name)

    def test_a_bad_alias_is_refused(self, kms: KmsUnderTest) -> None:
        """Reserved, malformed and foreign aliases are ARGUMENT_INVALID, of no key KEY_NOT_FOUND."""
        client, key = kms.client, _new_key(kms)
        for alias_id in ("service/x", "a//b", "/a", "a b", "a" * 257):
            with pytest.raises(ArgumentInvalidError):
                client.create_alias(kms.regions[0], alias_id=alias_id, key=key.name)
        foreign = _new_key(kms, 1)
        with pytest.raises((ArgumentInvalidError, WrongRegionError)):
            client.create_alias(kms.regions[0], alias_id="foreign", key=foreign.name)
        missing = f"regions/{kms.regions[0]}/keys/{MISSING_KEY}"
        with pytest.raises(KeyNotFoundError):
            client.create_alias(kms.regions[0], alias_id="missing", key=missing)

    def test_a_repeat_with_the_request_id_returns_the_first_answer(self, kms: KmsUnderTest) -> None:
        """The same request with the same id changes nothing again, another is REQUEST_ID_REUSED."""
        client, request_id = kms.client, str(uuid.uuid4())
        first = client.create_key(kms.regions[0], description="one", request_id=request_id)
        again = client.create_key(kms.regions[0], description="one", request_id=request_id)
        assert again == first
        with pytest.raises(RequestIdReusedError):
            client.create_key(kms.regions[0], description="two", request_id=request_id)
        request_id = str(uuid.uuid4())
        rotated = client.rotate_key(first.name, request_id=request_id)
        client.rotate_key(first.name)
        assert client.rotate_key(first.name, request_id=request_id) == rotated
        assert len(list(client.list_key_versions(first.name))) == 3

    def test_validate_only_changes_and_uses_nothing(self, kms: KmsUnderTest) -> None:
        """A call with validate_only answers without content, leaves no trace and still refuses."""
        client, key = kms.client, _new_key(kms)
        region, parent = kms.regions[0], f"regions/{kms.regions[0]}"
        before = len(list(client.list_keys(region)))
        rehearsals: list[tuple[str, Message]] = [
            ("CreateKey", rpc.CreateKeyRequest(parent=parent, validate_only=True)),
            ("DisableKey", rpc.DisableKeyRequest(name=key.name, validate_only=True)),
            ("RotateKey", rpc.RotateKeyRequest(name=key.name, validate_only=True)),
            (
                "CreateAlias",
                rpc.CreateAliasRequest(
                    parent=parent, alias_id="rehearsal", key=key.name, validate_only=True
                ),
            ),
        ]
        for method, request in rehearsals:
            kms.raw(region, method, request)
        answer = kms.raw(region, "Encrypt", _encrypt_request(key.name, validate_only=True)).message
        assert isinstance(answer, rpc.EncryptResponse)
        assert answer.ciphertext == b""
        assert len(list(client.list_keys(region))) == before
        assert client.get_key(key.name) == key
        with pytest.raises(KeyNotFoundError):
            client.get_key(f"{parent}/aliases/rehearsal")
        client.disable_key(key.name)
        with pytest.raises(KeyDisabledError):
            kms.raw(region, "Encrypt", _encrypt_request(key.name, validate_only=True))

    def test_an_unknown_key_is_not_found(self, kms: KmsUnderTest) -> None:
        """Every call with a key or alias that is not there is KEY_NOT_FOUND."""
        client, region = kms.client, kms.regions[0]
        missing = f"regions/{region}/keys/{MISSING_KEY}"
        blob = client.encrypt(_new_key(kms).name, b"x", encryption_context={}).ciphertext
        calls: list[Callable[[], object]] = [
            lambda: client.get_key(missing),
            lambda: client.get_key(f"regions/{region}/aliases/nobody"),
            lambda: client.enable_key(missing),
            lambda: client.disable_key(missing),
            lambda: client.rotate_key(missing),
            lambda: list(client.list_key_versions(missing)),
            lambda: client.encrypt(missing, b"x", encryption_context={}),
            lambda: client.decrypt(missing, blob, encryption_context={}),
            lambda: client.generate_data_key(missing, encryption_context={}),
        ]
        for call in calls:
            assert isinstance(refusal_of(call), KeyNotFoundError)

    def test_a_malformed_name_is_refused(self, kms: KmsUnderTest) -> None:
        """A name that is not canonical is ARGUMENT_INVALID on the wire, and says which field."""
        key, region = _new_key(kms).name, kms.regions[0]
        for name in (
            "",
            "x",
            key.upper(),
            key + "/",
            key + "/versions/1",
            "/" + key,
            key.replace("keys", "key"),
            f"regions/{region}/keys/{{{MISSING_KEY}}}",
            f"regions/{region}/aliases/",
            f"regions/{region}/aliases/a//b",
            key + "\n",
        ):
            with pytest.raises(ArgumentInvalidError) as refused:
                kms.raw(region, "Encrypt", _encrypt_request(name))
            assert [violation.field for violation in refused.value.violations] == ["key"]
        for parent in ("", "regions/", "regions/EU", f"regions/{region}/"):
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, "CreateKey", rpc.CreateKeyRequest(parent=parent))

    def test_an_unknown_region_is_named(self, kms: KmsUnderTest) -> None:
        """A name in a region that the server does not host is WRONG_REGION, with metadata."""
        request = _encrypt_request(f"regions/nowhere/keys/{MISSING_KEY}")
        with pytest.raises(WrongRegionError) as refused:
            kms.raw(kms.regions[0], "Encrypt", request)
        assert refused.value.metadata["region"] == "nowhere"
        assert kms.regions[0] in refused.value.metadata["hostedRegions"].split(",")

    def test_a_long_description_is_refused(self, kms: KmsUnderTest) -> None:
        """8,192 characters describe a key, 8,193 are ARGUMENT_INVALID."""
        region = kms.regions[0]
        assert len(kms.client.create_key(region, description="é" * 8192).description) == 8192
        with pytest.raises(ArgumentInvalidError):
            kms.client.create_key(region, description="é" * 8193)

    def test_states_are_told_by_the_wire_names(self, kms: KmsUnderTest) -> None:
        """GetKey on the wire says ENABLED and never an unspecified value."""
        key = _new_key(kms)
        answer = kms.raw(kms.regions[0], "GetKey", rpc.GetKeyRequest(name=key.name)).message
        assert isinstance(answer, rpc.GetKeyResponse)
        assert answer.key.state == pb.KEY_STATE_ENABLED
        assert answer.key.spec == pb.KEY_SPEC_AES_256
