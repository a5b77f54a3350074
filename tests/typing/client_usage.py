"""How programs use the SDK: `mypy --strict` must accept every line and infer these types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import assert_type

from strongroom_client import (
    ANY_CONTEXT,
    Algorithm,
    Alias,
    AsyncEnvelopeClient,
    AsyncKmsClient,
    AuditMode,
    CheckpointStore,
    DataKeyCache,
    DataKeyPairSpec,
    DecryptResult,
    EncryptResult,
    EnvelopeClient,
    GeneratedDataKeyPair,
    Key,
    KeyDisabledError,
    KeySpec,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    KmsClient,
    OpenedEnvelope,
    Receipt,
    ReceiptLog,
    SecretBytes,
    SignResult,
    UnavailableError,
    VerifiedRecord,
    VerifyResult,
    async_stream,
    load_options,
    stream,
)
from strongroom_client.testing import FakeKms


def use_pairs(kms: KmsClient) -> None:
    key = kms.create_key("eu-1", spec=KeySpec.RSA_2048, usage=KeyUsage.SIGN_VERIFY).name
    made = kms.sign(key, b"x", algorithm=Algorithm.RSASSA_PSS_SHA_256)
    assert_type(made, SignResult)
    assert_type(made.algorithm, Algorithm)
    verified = kms.verify(key, b"x", made.signature, algorithm=made.algorithm)
    assert_type(verified, VerifyResult)
    assert_type(kms.get_public_key(key).pem, str)
    pair = kms.generate_data_key_pair(key, DataKeyPairSpec.EC_P256, encryption_context={})
    assert_type(pair, GeneratedDataKeyPair)
    assert_type(pair.plaintext_private_key, SecretBytes)


def use_keys(path: Path) -> None:
    with KmsClient(load_options(path)) as kms:
        key = kms.create_key("eu-1", description="orders")
        assert_type(key, Key)
        assert_type(key.receipts, tuple[Receipt, ...])
        assert_type(kms.create_key("eu-1", storage=KeyStorage.WRAPPED).storage, KeyStorage)
        assert_type(kms.create_key("eu-1", audit_mode=AuditMode.BUFFERED).audit_mode, AuditMode)
        for version in kms.list_key_versions(key.name):
            assert_type(version, KeyVersion)
            assert_type(kms.schedule_key_version_deletion(version.name), KeyVersion)
        assert_type(
            kms.schedule_key_deletion(key.name, pending_days=7).deletion_time, datetime | None
        )
        assert_type(kms.cancel_key_deletion(key.name, etag=key.etag), Key)
        assert_type(kms.tag_key(key.name, {"team": "orders"}).tags, Mapping[str, str])
        assert_type(next(kms.list_aliases("eu-1", key=key.name)), Alias)
        made = kms.encrypt(key.name, b"secret", encryption_context={"order": "17"})
        assert_type(made, EncryptResult)
        try:
            opened = kms.decrypt(key.name, made.ciphertext, encryption_context={"order": "17"})
        except KeyDisabledError as error:
            assert_type(error.metadata, Mapping[str, str])
        except UnavailableError as error:
            assert_type(error.retry_after_seconds, float | None)
        else:
            assert_type(opened, DecryptResult)
        with kms.generate_data_key(key.name, encryption_context={}).plaintext_data_key as secret:
            assert_type(secret, SecretBytes)


def use_envelopes(kms: KmsClient, key: str, path: Path) -> None:
    envelopes = EnvelopeClient(kms, keys=[key], cache=DataKeyCache(max_age_seconds=60))
    envelope = envelopes.encrypt(bytearray(b"x"), encryption_context={})
    assert_type(envelope, bytes)
    assert_type(envelopes.decrypt(memoryview(envelope), encryption_context={}), bytes)
    assert_type(envelopes.decrypt_returning_context(envelope), OpenedEnvelope)
    report = stream.decrypt_file(envelopes, path, path, encryption_context=ANY_CONTEXT)
    assert_type(report, stream.StreamReport)


async def use_asyncio(path: Path) -> None:
    async with AsyncKmsClient(load_options(path)) as kms:
        async for key in kms.list_keys("eu-1"):
            assert_type(key, Key)
        envelopes = AsyncEnvelopeClient(kms, keys=[])
        assert_type(await envelopes.decrypt(b"", encryption_context={}), bytes)
        await async_stream.encrypt_file(envelopes, path, path, encryption_context={})


def use_the_audit_log(path: Path, receipt: Receipt) -> None:
    with ReceiptLog(path) as kept, KmsClient(load_options(path), receipt_log=kept) as kms:
        checkpoints = CheckpointStore(path)
        verified = kms.audit.verify(receipt, verifier_key="x", checkpoints=checkpoints)
        assert_type(verified, VerifiedRecord)
        assert_type(verified.record, bytes)
        assert_type(kms.audit.prove(receipt), str)
        kms.audit.verify(receipt)  # type: ignore[call-arg] # the key is never optional


def use_the_fake() -> None:
    fake = FakeKms(regions=("eu-1",))
    assert_type(fake.client(), KmsClient)
    assert_type(fake.async_client(), AsyncKmsClient)


def refused_by_the_types(envelopes: EnvelopeClient, kms: KmsClient) -> None:
    envelopes.encrypt(b"x")  # type: ignore[call-arg] # the context is never optional
    envelopes.decrypt(b"x", {})  # type: ignore[call-arg] # and never positional
    envelopes.decrypt(b"x", encryption_context=ANY_CONTEXT)  # type: ignore[arg-type] # it would be lost
    kms.create_key("eu-1", storage="wrapped")  # type: ignore[arg-type] # the enum, not its text
    kms.encrypt("key", "text", encryption_context={})  # type: ignore[arg-type] # bytes, not text
