"""Keys of origin EXTERNAL: parameters, import, expiry, deletion, and every refusal."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.importing import KNOWN, OTHER, Importing, importing_key
from tests.support.memory_service import ORDERS, STRANGER, VISIBLE_TO_ALL, caller
from tests.support.wrap_material import wrap_material

from strongroom import encryption_context as contexts
from strongroom_server.domain import ciphertext
from strongroom_server.domain.imports import (
    TOKEN_BYTES,
    ImportToken,
    WrappingAlgorithm,
)
from strongroom_server.domain.keys import (
    Key,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersionRef,
)
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    EtagMismatchError,
    ImportTokenExpiredError,
    ImportTokenInvalidError,
    ImportTokenUsedError,
    KeyMaterialMismatchError,
    KeyOriginMismatchError,
    KeySpecUnsupportedError,
    KeyStateInvalidError,
    PolicyDeniedError,
    RequestIdReusedError,
)
from strongroom_server.services.answers import ImportParameters
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.key_import import NewMaterial
from strongroom_server.services.lifecycle import NewKey

STORAGES = pytest.mark.parametrize("storage", list(KeyStorage))


async def test_a_key_of_origin_external_begins_without_material() -> None:
    """CreateKey with EXTERNAL makes nothing in the HSM, and the key cannot be used yet."""
    importing = await importing_key()
    assert importing.state() is KeyState.PENDING_IMPORT
    assert importing.key.origin is KeyOrigin.EXTERNAL
    assert importing.service.eu.token.operations == 0
    with pytest.raises(KeyStateInvalidError, match="waiting for the import"):
        await importing.encrypt()


@STORAGES
async def test_imported_material_is_what_the_key_uses(storage: KeyStorage) -> None:
    """A blob of the service opens with the material that the test brought."""
    importing = await importing_key(storage)
    made = await importing.parameters()
    assert made.material_bytes == len(KNOWN)
    key = await importing.send(made)
    assert key.state is KeyState.ENABLED
    assert key.versions[0].external is not None
    assert key.versions[0].external.import_time is not None
    blob = await importing.encrypt(b"hello")
    parsed = ciphertext.parse(blob)
    aad = ciphertext.header_for(parsed.ref) + contexts.encode({})
    assert AESGCM(KNOWN).decrypt(parsed.sealed[:12], parsed.sealed[12:], aad) == b"hello"
    assert await importing.decrypt(blob) == b"hello"
    assert importing.service.eu.token.wrapping_keys == {}


@STORAGES
async def test_only_the_first_material_comes_again(storage: KeyStorage) -> None:
    """After a deletion other material is refused, and the same makes old blobs readable."""
    importing = await importing_key(storage)
    await importing.send(await importing.parameters())
    blob = await importing.encrypt()
    assert (await importing.delete()).state is KeyState.PENDING_IMPORT
    with pytest.raises(KeyStateInvalidError):
        await importing.decrypt(blob)
    assert importing.service.eu.token.materials == {}
    assert importing.key.versions[0].wrapped is None
    with pytest.raises(KeyMaterialMismatchError):
        await importing.send(await importing.parameters(), OTHER)
    assert importing.state() is KeyState.PENDING_IMPORT
    await importing.send(await importing.parameters())
    assert await importing.decrypt(blob) == b"x"


@STORAGES
async def test_an_import_into_a_key_with_material_changes_its_end(storage: KeyStorage) -> None:
    """The same material again gives another end and leaves the state; other is refused."""
    importing = await importing_key(storage)
    await importing.send(await importing.parameters())
    await importing.service.lifecycle.set_state(
        caller(), importing.name, KeyState.DISABLED, ChangeRequest()
    )
    before = importing.key.versions[0]
    with pytest.raises(KeyMaterialMismatchError):
        await importing.send(await importing.parameters(), OTHER)
    ends = importing.service.clock.now() + timedelta(days=1)
    key = await importing.send(await importing.parameters(), expire_time=ends)
    assert key.state is KeyState.DISABLED
    after = importing.key.versions[0]
    assert after.wrapped == before.wrapped
    assert after.external is not None
    assert after.external.expire_time == ends


@pytest.mark.parametrize("algorithm", list(WrappingAlgorithm))
async def test_each_algorithm(algorithm: WrappingAlgorithm) -> None:
    """What the HSM has works, and what it lacks is refused before there is a token."""
    importing = await importing_key()
    if algorithm.value.endswith("256"):
        with pytest.raises(KeySpecUnsupportedError):
            await importing.parameters(algorithm)
        assert importing.service.eu.store.import_tokens == {}
        return
    made = await importing.parameters(algorithm)
    assert made.algorithm is algorithm
    assert (await importing.send(made)).state is KeyState.ENABLED


async def test_a_token_is_used_once() -> None:
    """After an import, well or not, its token is IMPORT_TOKEN_USED."""
    importing = await importing_key()
    made = await importing.parameters()
    await importing.send(made)
    with pytest.raises(ImportTokenUsedError):
        await importing.send(made)
    for material in (OTHER, KNOWN[:16]):
        failing = await importing.parameters()
        with pytest.raises((KeyMaterialMismatchError, CiphertextInvalidError)):
            await importing.send(failing, material)
        with pytest.raises(ImportTokenUsedError):
            await importing.send(failing)
        assert importing.service.eu.token.wrapping_keys == {}


async def test_wrong_tokens_are_refused() -> None:
    """Not a token, an altered one, another key's and a replaced one are IMPORT_TOKEN_INVALID."""
    importing = await importing_key()
    made = await importing.parameters()
    assert len(made.token) == TOKEN_BYTES
    assert made.algorithm is not None
    encrypted = wrap_material(made.public_key, made.algorithm, KNOWN)
    bad = [b"x", made.token[:-1], made.token + b"\0", bytes(TOKEN_BYTES)]
    bad += [
        made.token[:at] + bytes([made.token[at] ^ 1]) + made.token[at + 1 :]
        for at in range(TOKEN_BYTES)
    ]
    for token in bad:
        with pytest.raises(ImportTokenInvalidError):
            await importing.send_wrapped(token, encrypted)
    new = NewKey(
        "eu-1",
        "",
        KeySpec.AES_256,
        KeyUsage.ENCRYPT_DECRYPT,
        "",
        origin=KeyOrigin.EXTERNAL,
    )
    other, _ = await importing.service.lifecycle.create_key(caller(), new, ChangeRequest())
    theirs = Importing(importing.service, other)
    with pytest.raises(ImportTokenInvalidError):
        await theirs.send(made)
    again = await importing.parameters()
    with pytest.raises(ImportTokenInvalidError):
        await importing.send(made)
    assert (await importing.send(again)).state is KeyState.ENABLED


async def test_an_expired_token_is_refused() -> None:
    """After 24 hours a token is IMPORT_TOKEN_EXPIRED, and its wrapping key goes."""
    importing = await importing_key()
    made = await importing.parameters()
    importing.service.clock.jump(timedelta(hours=24))
    with pytest.raises(ImportTokenExpiredError):
        await importing.send(made)
    await importing.upkeep.look()
    assert importing.service.eu.token.wrapping_keys == {}
    with pytest.raises(ImportTokenExpiredError):
        await importing.send(made)


async def test_deleting_what_is_not_there_changes_nothing() -> None:
    """DeleteImportedKeyMaterial of a key without material succeeds and leaves its etag."""
    importing = await importing_key()
    before = importing.key
    assert await importing.delete() == before
    assert importing.key == before


async def test_keys_made_in_the_hsm_take_no_part() -> None:
    """The calls of imports are KEY_ORIGIN_MISMATCH for other keys, and RotateKey for these."""
    importing = await importing_key()
    service = importing.service
    await importing.send(await importing.parameters())
    with pytest.raises(KeyOriginMismatchError):
        await service.lifecycle.rotate_key(caller(), importing.name, ChangeRequest())
    made = Importing(service, await service.create_key())
    calls: list[Callable[[], object]] = [
        made.parameters,
        lambda: made.send_wrapped(bytes(TOKEN_BYTES), b"x"),
        made.delete,
    ]
    for call in calls:
        with pytest.raises(KeyOriginMismatchError):
            await call()  # type: ignore[misc]  # all three are coroutine functions
        assert service.records()[-1].reason == "KEY_ORIGIN_MISMATCH"


async def test_what_cannot_be_brought() -> None:
    """Key pairs and HMAC_224 of origin EXTERNAL are ARGUMENT_INVALID."""
    for spec, usage in (
        (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
        (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC),
    ):
        with pytest.raises(ArgumentInvalidError, match="EXTERNAL is for"):
            await importing_key(spec=spec, usage=usage)


async def test_permission_is_asked_for() -> None:
    """Who may see the key and nothing else gets POLICY_DENIED, whatever they bring."""
    importing = await importing_key(policy=VISIBLE_TO_ALL)
    made = await importing.parameters()
    imports, who = importing.service.imports, caller(STRANGER)
    for call in (
        imports.get_parameters(who, importing.name, None, ChangeRequest()),
        imports.import_material(
            who, importing.name, NewMaterial(made.token, b"x", None), ChangeRequest()
        ),
        imports.delete_material(who, importing.name, ChangeRequest()),
    ):
        with pytest.raises(PolicyDeniedError):
            await call
    assert (await importing.send(made)).state is KeyState.ENABLED


async def test_a_rehearsal_changes_nothing() -> None:
    """With validate_only nothing is made, used or destroyed, and the answer says what would be."""
    importing = await importing_key()
    service, rehearsal = importing.service, ChangeRequest(validate_only=True)
    made, _ = await service.imports.get_parameters(caller(), importing.name, None, rehearsal)
    assert (made.public_key, made.token) == (b"", b"")
    assert service.eu.store.import_tokens == {}
    real = await importing.parameters()
    operations = service.eu.token.operations
    would = await importing.send(real, request=rehearsal)
    assert would.state is KeyState.ENABLED
    assert importing.state() is KeyState.PENDING_IMPORT
    with pytest.raises(ImportTokenInvalidError):
        await importing.send_wrapped(b"x", b"x", request=rehearsal)
    assert service.eu.token.operations == operations
    await importing.send(real)
    assert (await importing.delete(rehearsal)).state is KeyState.PENDING_IMPORT
    assert importing.state() is KeyState.ENABLED
    assert [r.validate_only for r in service.records()[-1:]] == [True]


async def test_a_repeat_returns_the_first_answer() -> None:
    """Under one request id each call is made once; another body is refused."""
    importing = await importing_key()
    service = importing.service
    request = ChangeRequest(request_id=str(uuid.uuid4()))

    async def ask(algorithm: WrappingAlgorithm | None = None) -> ImportParameters:
        made, _ = await service.imports.get_parameters(caller(), importing.name, algorithm, request)
        return made

    first = await ask()
    assert await ask() == first
    assert len(service.eu.token.wrapping_keys) == 1
    with pytest.raises(RequestIdReusedError):
        await ask(WrappingAlgorithm.RSAES_OAEP_SHA_1)
    assert first.algorithm is not None
    encrypted = wrap_material(first.public_key, first.algorithm, KNOWN)
    key = await importing.send_wrapped(first.token, encrypted, request=request)
    again = await importing.send_wrapped(first.token, encrypted, request=request)
    assert dataclasses.replace(again, policy=key.policy) == _without_check(key)
    gone = await importing.delete(request)
    assert (await importing.delete(request)).revision == gone.revision
    await importing.send(await importing.parameters())
    assert (await importing.delete(request)).revision == gone.revision
    assert importing.state() is KeyState.ENABLED


def _without_check(key: Key) -> Key:
    (version,) = key.versions
    assert version.external is not None
    external = dataclasses.replace(version.external, check=b"")
    return dataclasses.replace(key, versions=(dataclasses.replace(version, external=external),))


async def test_an_etag_that_is_not_the_keys() -> None:
    """An import or deletion of a key that changed since is ETAG_MISMATCH, and uses no token."""
    importing = await importing_key()
    made = await importing.parameters()
    stale = ChangeRequest(etag="r999")
    with pytest.raises(EtagMismatchError):
        await importing.send(made, request=stale)
    await importing.send(made)
    with pytest.raises(EtagMismatchError):
        await importing.delete(stale)


async def test_no_record_holds_token_or_material() -> None:
    """Records name the algorithm, and hold neither the token nor what came with it."""
    importing = await importing_key()
    made = await importing.parameters()
    await importing.send(made)
    text = repr(importing.service.records())
    assert "RSA_AES_KW_SHA_1" in text
    assert made.token.hex() not in text
    assert repr(made.token)[2:-1] not in text
    assert ORDERS in text


def test_a_token_has_one_encoding() -> None:
    """What to_bytes makes parse takes, and nothing of another length or version."""
    ref = KeyVersionRef(uuid.uuid4(), 1)
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    for algorithm in WrappingAlgorithm:
        token = ImportToken(algorithm, ref, uuid.uuid4(), ends, bytes(32))
        data = token.to_bytes()
        assert ImportToken.parse(data) == token
        for bad in (b"", data[:-1], data + b"\0", b"\2" + data[1:], data[:1] + b"\5" + data[2:]):
            with pytest.raises(ImportTokenInvalidError):
                ImportToken.parse(bad)
