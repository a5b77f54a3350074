"""The Strongroom SDK: keys in an HSM, data encrypted where it is.

    options = load_options("client.toml")
    with KmsClient(options) as kms:
        envelopes = EnvelopeClient(kms, keys=["regions/eu-1/aliases/payments/card-data"])
        envelope = envelopes.encrypt(b"4111 1111 1111 1111", encryption_context={"order": "17"})
        plaintext = envelopes.decrypt(envelope, encryption_context={"order": "17"})

Files and streams: `strongroom_client.stream` and, for asyncio, `strongroom_client.async_stream`.
Receipts and the audit log: `KmsClient.audit`, `strongroom_client.receipt_log`.
A fake service for tests: `strongroom_client.testing`. Errors: `strongroom_client.errors`.
What Python cannot promise: docs/limitations.md.
"""

from strongroom.receipts import Receipt
from strongroom_client.async_client import AsyncKmsClient
from strongroom_client.audit import VerifiedRecord
from strongroom_client.checkpoints import CheckpointStore
from strongroom_client.client import KmsClient
from strongroom_client.data_key_cache import DataKeyCache
from strongroom_client.envelope import (
    ANY_CONTEXT,
    AsyncEnvelopeClient,
    EnvelopeClient,
    EnvelopeInfo,
    OpenedEnvelope,
    read_envelope_info,
)
from strongroom_client.errors import (
    AliasExistsError,
    ArgumentInvalidError,
    AuditUnavailableError,
    AuditUnverifiedError,
    ChecksumMismatchError,
    CiphertextInvalidError,
    ClientClosedError,
    DeadlineExceededError,
    EnvelopeInvalidError,
    EtagMismatchError,
    FieldViolation,
    ForkDetectedError,
    HsmUnavailableError,
    InternalError,
    KeyDisabledError,
    KeyExhaustedError,
    KeyNotFoundError,
    KeySpecUnsupportedError,
    KeyUsageMismatchError,
    MacInvalidError,
    NoEndpointError,
    OptionsError,
    OverloadedError,
    PeerUnauthenticatedError,
    PolicyDeniedError,
    PolicyInvalidError,
    QuotaExceededError,
    RecordArchivedError,
    RecordNotFoundError,
    RequestIdReusedError,
    ResponseInvalidError,
    ShardUnavailableError,
    SignatureInvalidError,
    StrongroomError,
    UnavailableError,
    UnexpectedStatusError,
    UnreachableError,
    WrongKeyError,
    WrongRegionError,
)
from strongroom_client.options import ClientOptions, Endpoint, TlsFiles, load_options
from strongroom_client.receipt_log import ReceiptLog
from strongroom_client.results import (
    Alias,
    DecryptResult,
    EncryptResult,
    GeneratedDataKey,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    RandomBytes,
    ReEncryptResult,
    RotatedKey,
    WrappedDataKey,
)
from strongroom_client.secret_bytes import SecretBytes

__all__ = [
    "ANY_CONTEXT",
    "Alias",
    "AliasExistsError",
    "ArgumentInvalidError",
    "AsyncEnvelopeClient",
    "AsyncKmsClient",
    "AuditUnavailableError",
    "AuditUnverifiedError",
    "CheckpointStore",
    "ChecksumMismatchError",
    "CiphertextInvalidError",
    "ClientClosedError",
    "ClientOptions",
    "DataKeyCache",
    "DeadlineExceededError",
    "DecryptResult",
    "EncryptResult",
    "Endpoint",
    "EnvelopeClient",
    "EnvelopeInfo",
    "EnvelopeInvalidError",
    "EtagMismatchError",
    "FieldViolation",
    "ForkDetectedError",
    "GeneratedDataKey",
    "HsmUnavailableError",
    "InternalError",
    "Key",
    "KeyDisabledError",
    "KeyExhaustedError",
    "KeyManager",
    "KeyNotFoundError",
    "KeySpec",
    "KeySpecUnsupportedError",
    "KeyState",
    "KeyStorage",
    "KeyUsage",
    "KeyUsageMismatchError",
    "KeyVersion",
    "KmsClient",
    "MacInvalidError",
    "NoEndpointError",
    "OpenedEnvelope",
    "OptionsError",
    "OverloadedError",
    "PeerUnauthenticatedError",
    "PolicyDeniedError",
    "PolicyInvalidError",
    "QuotaExceededError",
    "RandomBytes",
    "ReEncryptResult",
    "Receipt",
    "ReceiptLog",
    "RecordArchivedError",
    "RecordNotFoundError",
    "RequestIdReusedError",
    "ResponseInvalidError",
    "RotatedKey",
    "SecretBytes",
    "ShardUnavailableError",
    "SignatureInvalidError",
    "StrongroomError",
    "TlsFiles",
    "UnavailableError",
    "UnexpectedStatusError",
    "UnreachableError",
    "VerifiedRecord",
    "WrappedDataKey",
    "WrongKeyError",
    "WrongRegionError",
    "load_options",
    "read_envelope_info",
]
