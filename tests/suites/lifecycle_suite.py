"""Deletion, descriptions, tags, aliases and filtered lists: every RPC and its refusals."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client import (
    ArgumentInvalidError,
    EtagMismatchError,
    Key,
    KeyDisabledError,
    KeyNotFoundError,
    KeySpec,
    KeyState,
    KeyStateInvalidError,
    KeyUsage,
    KeyVersionState,
    RequestIdReusedError,
)

__all__ = ["LifecycleSuite"]

MISSING = "keys/00000000-0000-4000-8000-000000000000"


def _new_key(kms: KmsUnderTest, region: int = 0) -> Key:
    return kms.client.create_key(kms.regions[region])


class LifecycleSuite:
    """What happens to a key after it was made."""

    def test_a_scheduled_key_is_of_no_use_until_it_is_taken_back(self, kms: KmsUnderTest) -> None:
        """Uses and changes are KEY_STATE_INVALID; after CancelKeyDeletion it is disabled."""
        client, key = kms.client, _new_key(kms)
        blob = client.encrypt(key.name, b"x", encryption_context={}).ciphertext
        waiting = client.schedule_key_deletion(key.name, pending_days=7)
        assert waiting.state is KeyState.PENDING_DELETION
        assert waiting.deletion_time is not None
        assert waiting.deletion_time - waiting.update_time > timedelta(days=6, hours=23)
        assert waiting.destroy_time is None
        calls: list[Callable[[], object]] = [
            lambda: client.encrypt(key.name, b"x", encryption_context={}),
            lambda: client.decrypt(key.name, blob, encryption_context={}),
            lambda: client.generate_data_key(key.name, encryption_context={}),
            lambda: client.rotate_key(key.name),
            lambda: client.enable_key(key.name),
            lambda: client.disable_key(key.name),
            lambda: client.update_key(key.name, description="new"),
            lambda: client.tag_key(key.name, {"a": "b"}),
            lambda: client.untag_key(key.name, ["a"]),
            lambda: client.schedule_key_deletion(key.name),
            lambda: client.create_alias(kms.regions[0], alias_id=str(uuid.uuid4()), key=key.name),
        ]
        for call in calls:
            assert isinstance(refusal_of(call), KeyStateInvalidError)
        assert client.get_key(key.name) == waiting
        assert [v.number for v in client.list_key_versions(key.name)] == [1]
        back = client.cancel_key_deletion(key.name)
        assert (back.state, back.deletion_time) == (KeyState.DISABLED, None)
        assert isinstance(
            refusal_of(lambda: client.cancel_key_deletion(key.name)), KeyStateInvalidError
        )
        with pytest.raises(KeyDisabledError):
            client.decrypt(key.name, blob, encryption_context={})
        client.enable_key(key.name)
        assert client.decrypt(key.name, blob, encryption_context={}).plaintext == b"x"

    def test_the_waiting_time_has_limits(self, kms: KmsUnderTest) -> None:
        """7 and 30 days are taken, 6 and 31 are ARGUMENT_INVALID, nothing is 30."""
        client, key = kms.client, _new_key(kms)
        for days in (6, 31):
            with pytest.raises(ArgumentInvalidError):
                client.schedule_key_deletion(key.name, pending_days=days)
        for days, expected in ((7, 7), (30, 30), (0, 30)):
            waiting = client.schedule_key_deletion(key.name, pending_days=days)
            assert waiting.deletion_time is not None
            ahead = waiting.deletion_time - waiting.update_time
            assert abs(ahead - timedelta(days=expected)) < timedelta(minutes=1)
            client.cancel_key_deletion(key.name)

    def test_a_version_is_scheduled_alone(self, kms: KmsUnderTest) -> None:
        """It decrypts no more, the primary one goes on; taken back, it decrypts again."""
        client, key = kms.client, _new_key(kms)
        old = client.encrypt(key.name, b"old", encryption_context={})
        client.rotate_key(key.name)
        new = client.encrypt(key.name, b"new", encryption_context={})
        waiting = client.schedule_key_version_deletion(old.key_version, pending_days=7)
        assert waiting.state is KeyVersionState.PENDING_DELETION
        assert waiting.deletion_time is not None
        assert client.get_key_version(old.key_version) == waiting
        with pytest.raises(KeyStateInvalidError):
            client.decrypt(key.name, old.ciphertext, encryption_context={})
        opened = client.decrypt(key.name, new.ciphertext, encryption_context={})
        assert opened.plaintext == b"new"
        for name in (old.key_version, new.key_version):
            with pytest.raises(KeyStateInvalidError):
                client.schedule_key_version_deletion(name)
        back = client.cancel_key_version_deletion(old.key_version)
        assert (back.state, back.deletion_time) == (KeyVersionState.ENABLED, None)
        with pytest.raises(KeyStateInvalidError):
            client.cancel_key_version_deletion(old.key_version)
        opened = client.decrypt(key.name, old.ciphertext, encryption_context={})
        assert opened.plaintext == b"old"

    def test_a_version_shows_its_uses(self, kms: KmsUnderTest) -> None:
        """GetKeyVersion and ListKeyVersions say the same, with an upper bound of the uses."""
        client, key = kms.client, _new_key(kms)
        client.encrypt(key.name, b"x", encryption_context={})
        client.rotate_key(key.name)
        listed = list(client.list_key_versions(key.name))
        assert [client.get_key_version(version.name) for version in listed] == listed
        assert listed[0].reserved_uses >= 1
        assert listed[1].reserved_uses == 0
        for name in (f"{key.name}/versions/3", f"regions/{kms.regions[0]}/{MISSING}/versions/1"):
            with pytest.raises(KeyNotFoundError):
                client.get_key_version(name)
        for name in (key.name, f"{key.name}/versions/0", f"{key.name}/versions/01"):
            with pytest.raises(ArgumentInvalidError):
                kms.raw(kms.regions[0], "GetKeyVersion", rpc.GetKeyVersionRequest(name=name))

    def test_a_description_is_changed(self, kms: KmsUnderTest) -> None:
        """UpdateKey changes what its mask names; the etag tells of changes in between."""
        client, key = kms.client, _new_key(kms)
        changed = client.update_key(key.name, description="new", etag=key.etag)
        assert (changed.description, changed.state) == ("new", KeyState.ENABLED)
        assert changed.etag != key.etag
        assert client.update_key(key.name, description="new") == changed
        with pytest.raises(EtagMismatchError):
            client.update_key(key.name, description="other", etag=key.etag)
        with pytest.raises(ArgumentInvalidError):
            client.update_key(key.name, description="é" * 8193)
        for paths in ([], ["state"], ["description", "state"], ["*"]):
            request = rpc.UpdateKeyRequest(
                key=pb.Key(name=key.name, description="x"), update_mask=FieldMask(paths=paths)
            )
            with pytest.raises(ArgumentInvalidError):
                kms.raw(kms.regions[0], "UpdateKey", request)
        assert client.get_key(key.name) == changed

    def test_tags_are_set_and_taken_away(self, kms: KmsUnderTest) -> None:
        """Others stay, a value is replaced, one that is not there is no error."""
        client = kms.client
        key = client.create_key(kms.regions[0], tags={"team": "payments", "größe": "x"})
        assert key.tags == {"team": "payments", "größe": "x"}
        changed = client.tag_key(key.name, {"team": "orders", "cost": ""})
        assert changed.tags == {"team": "orders", "größe": "x", "cost": ""}
        assert client.get_key(key.name).tags == changed.tags
        assert client.tag_key(key.name, {"cost": ""}) == changed
        fewer = client.untag_key(key.name, ["team", "nothing"])
        assert fewer.tags == {"größe": "x", "cost": ""}

    def test_tags_have_limits(self, kms: KmsUnderTest) -> None:
        """50 tags, names of 128 and values of 256 characters are taken, one more is refused."""
        client, key = kms.client, _new_key(kms)
        full = {f"{n:0128}": "v" * 256 for n in range(50)}
        assert client.tag_key(key.name, full).tags == full
        for tags in (
            {"one more": ""},
            {"n" * 129: ""},
            {"": "v"},
            {f"{0:0128}": "v" * 257},
            {f"{n:03}": "" for n in range(51)},
            {"strongroom:x": "v"},
            {"line\nbreak": "v"},
        ):
            with pytest.raises(ArgumentInvalidError):
                client.tag_key(key.name, tags)
            if len(tags) == 1 and "one more" not in tags:
                with pytest.raises(ArgumentInvalidError):
                    client.create_key(kms.regions[0], tags=tags)
        for names in ([], ["n" * 129], [f"{n}" for n in range(51)]):
            with pytest.raises(ArgumentInvalidError):
                client.untag_key(key.name, names)
        assert client.get_key(key.name).tags == full

    def test_lists_are_filtered_and_ordered(self, kms: KmsUnderTest) -> None:
        """By state and by tags, in both orders, whatever the size of the pages."""
        client, region, team = kms.client, kms.regions[0], str(uuid.uuid4())
        keys = [client.create_key(region, tags={"team": team, "n": f"{n}"}).name for n in range(5)]
        client.disable_key(keys[1])
        client.schedule_key_deletion(keys[3])

        def names(page_size: int = 100, **wanted: object) -> list[str]:
            found = client.list_keys(
                region,
                page_size=page_size,
                tags={"team": team},
                **wanted,  # type: ignore[arg-type]
            )
            return [key.name for key in found]

        for size in (1, 2, 100):
            assert names(size) == keys
            assert names(size, newest_first=True) == keys[::-1]
            assert names(size, states=[KeyState.DISABLED]) == [keys[1]]
            both = names(size, states={KeyState.DISABLED, KeyState.PENDING_DELETION})
            assert both == [keys[1], keys[3]]
        assert names(states=[KeyState.DESTROYED]) == []
        assert [k.name for k in client.list_keys(region, tags={"team": team, "n": "4"})] == [
            keys[4]
        ]
        with pytest.raises(ArgumentInvalidError):
            names(states=[KeyState.UNKNOWN])

    def test_pages_survive_concurrent_changes(self, kms: KmsUnderTest) -> None:
        """Keys made and changed between two pages make no other come twice or be left out."""
        client, region, team = kms.client, kms.regions[0], str(uuid.uuid4())
        keys = [client.create_key(region, tags={"team": team}).name for _ in range(6)]
        found = []
        for number, key in enumerate(client.list_keys(region, page_size=2, tags={"team": team})):
            found.append(key.name)
            if number in {1, 3}:
                client.update_key(keys[0], description=f"changed {number}")
                client.create_key(region)
        assert found == keys

    def test_an_alias_is_pointed_elsewhere(self, kms: KmsUnderTest) -> None:
        """The name stays, its key changes; only to a key of the same region, spec and usage."""
        client, region = kms.client, kms.regions[0]
        first, second = _new_key(kms), _new_key(kms)
        alias = client.create_alias(region, alias_id=f"a/{uuid.uuid4()}", key=first.name)
        assert alias.update_time == alias.create_time
        moved = client.update_alias(alias.name, key=second.name)
        assert (moved.name, moved.key, moved.create_time) == (
            alias.name,
            second.name,
            alias.create_time,
        )
        assert client.get_key(alias.name).name == second.name
        made = client.encrypt(alias.name, b"x", encryption_context={})
        assert made.key_version == f"{second.name}/versions/1"
        assert client.update_alias(alias.name, key=second.name) == moved
        signer = client.create_key(region, spec=KeySpec.EC_P256, usage=KeyUsage.SIGN_VERIFY)
        with pytest.raises(ArgumentInvalidError):
            client.update_alias(alias.name, key=signer.name)
        with pytest.raises(KeyNotFoundError):
            client.update_alias(alias.name, key=f"regions/{region}/{MISSING}")
        with pytest.raises(KeyNotFoundError):
            client.update_alias(f"regions/{region}/aliases/nobody", key=second.name)
        client.schedule_key_deletion(first.name)
        with pytest.raises(KeyStateInvalidError):
            client.update_alias(alias.name, key=first.name)
        client.schedule_key_deletion(second.name)
        third = _new_key(kms)
        assert client.update_alias(alias.name, key=third.name).key == third.name

    def test_an_alias_is_deleted_and_made_again(self, kms: KmsUnderTest) -> None:
        """The name is free for another key; the reserved ones are nobody's to touch."""
        client, region = kms.client, kms.regions[0]
        first, second, alias_id = _new_key(kms), _new_key(kms), f"a/{uuid.uuid4()}"
        alias = client.create_alias(region, alias_id=alias_id, key=first.name)
        assert client.delete_alias(alias.name) == alias
        for call in (
            lambda: client.get_key(alias.name),
            lambda: client.delete_alias(alias.name),
            lambda: client.encrypt(alias.name, b"x", encryption_context={}),
        ):
            assert isinstance(refusal_of(call), KeyNotFoundError)
        again = client.create_alias(region, alias_id=alias_id, key=second.name)
        assert client.get_key(again.name).name == second.name
        for call in (
            lambda: client.delete_alias(f"regions/{region}/aliases/service/x"),
            lambda: client.update_alias(f"regions/{region}/aliases/service/x", key=first.name),
        ):
            assert isinstance(refusal_of(call), ArgumentInvalidError)

    def test_aliases_are_listed_by_name(self, kms: KmsUnderTest) -> None:
        """Those of a key or all, page by page, also when one goes between two pages."""
        client, region, key = kms.client, kms.regions[0], _new_key(kms)
        prefix = str(uuid.uuid4())
        made = [
            client.create_alias(region, alias_id=f"{prefix}/{n}", key=key.name).name
            for n in (3, 1, 0, 2)
        ]
        other = client.create_alias(region, alias_id=f"{prefix}/9", key=_new_key(kms).name).name
        for size in (1, 3, 100):
            found = client.list_aliases(region, key=key.name, page_size=size)
            assert [alias.name for alias in found] == sorted(made)
            every = [alias.name for alias in client.list_aliases(region, page_size=size)]
            assert [name for name in every if prefix in name] == [*sorted(made), other]
        rest = []
        for alias in client.list_aliases(region, key=key.name, page_size=2):
            rest.append(alias.name)
            if len(rest) == 2:
                client.delete_alias(sorted(made)[2])
        # Whether the one that went is still seen depends on how far ahead the client reads.
        assert [name for name in rest if name != sorted(made)[2]] == [
            name for name in sorted(made) if name != sorted(made)[2]
        ]
        with pytest.raises(KeyNotFoundError):
            list(client.list_aliases(region, key=f"regions/{region}/{MISSING}"))

    def test_changes_are_made_once_and_rehearsed(self, kms: KmsUnderTest) -> None:
        """Every change takes request_id and validate_only."""
        client, key, request_id = kms.client, _new_key(kms), str(uuid.uuid4())
        alias = client.create_alias(kms.regions[0], alias_id=f"a/{uuid.uuid4()}", key=key.name)
        client.update_key(key.name, description="x", validate_only=True)
        client.tag_key(key.name, {"a": "b"}, validate_only=True)
        client.schedule_key_deletion(key.name, validate_only=True)
        client.delete_alias(alias.name, validate_only=True)
        assert client.get_key(alias.name) == key
        first = client.tag_key(key.name, {"a": "1"}, request_id=request_id)
        client.tag_key(key.name, {"a": "2"})
        assert client.tag_key(key.name, {"a": "1"}, request_id=request_id) == first
        assert client.get_key(key.name).tags == {"a": "2"}
        with pytest.raises(RequestIdReusedError):
            client.tag_key(key.name, {"a": "3"}, request_id=request_id)

    def test_a_call_that_changes_nothing_is_remembered(self, kms: KmsUnderTest) -> None:
        """A late repeat of EnableKey does not undo somebody's DisableKey."""
        client, key, request_id = kms.client, _new_key(kms), str(uuid.uuid4())
        assert client.enable_key(key.name, request_id=request_id) == key
        client.disable_key(key.name)
        assert client.enable_key(key.name, request_id=request_id) == key
        assert client.get_key(key.name).state is KeyState.DISABLED
