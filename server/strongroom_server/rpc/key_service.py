"""KeyService: parse, call, format. Everything else is in the services below."""

from __future__ import annotations

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom_server.domain.keys import KeyState
from strongroom_server.rpc import convert
from strongroom_server.rpc.asymmetric_methods import AsymmetricMethods
from strongroom_server.rpc.call import Call
from strongroom_server.rpc.key_import import KeyImportMethods
from strongroom_server.rpc.key_lifecycle import KeyLifecycleMethods
from strongroom_server.rpc.key_permissions import KeyPermissionMethods
from strongroom_server.services.asymmetric import AsymmetricService
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.crypto import CryptoService, DataKey
from strongroom_server.services.data_key_pairs import DataKeyPairService
from strongroom_server.services.key_management import KeyManagement
from strongroom_server.services.lifecycle import LifecycleService, NewKey

__all__ = ["METHODS", "SERVICE", "KeyService"]

SERVICE = "strongroom.kms.v1.KeyService"
METHODS = tuple(messages.DESCRIPTOR.services_by_name["KeyService"].methods_by_name)


class KeyService(AsymmetricMethods, KeyLifecycleMethods, KeyPermissionMethods, KeyImportMethods):
    """The gRPC skin over life cycle and crypto services."""

    def __init__(
        self,
        *,
        lifecycle: LifecycleService,
        crypto: CryptoService,
        asymmetric: AsymmetricService,
        pairs: DataKeyPairService,
        management: KeyManagement,
    ) -> None:
        """Take the services; holds no state of its own."""
        AsymmetricMethods.__init__(self, asymmetric=asymmetric, pairs=pairs)
        KeyLifecycleMethods.__init__(self, management=management)
        KeyPermissionMethods.__init__(self, management=management)
        KeyImportMethods.__init__(self, imports=management.imports)
        self._lifecycle = lifecycle
        self._crypto = crypto

    async def CreateKey(  # noqa: N802 - the names of gRPC methods
        self, request: messages.CreateKeyRequest, call: Call
    ) -> messages.CreateKeyResponse:
        new = NewKey(
            region=convert.region("parent", request.parent),
            description=request.description,
            spec=convert.spec_of(request.spec),
            usage=convert.usage_of(request.usage),
            policy=request.policy,
            storage=convert.storage_of(request.storage),
            audit_mode=convert.audit_mode_of(request.audit_mode),
            tags=dict(request.tags),
            origin=convert.origin_of(request.origin),
        )
        change = ChangeRequest(request.request_id, "", request.validate_only)
        key, receipt = await self._lifecycle.create_key(
            call.caller(request.request_id), new, change
        )
        call.key = str(key.name)
        call.receipts.append(receipt)
        return messages.CreateKeyResponse(key=convert.key_message(key))

    async def GetKey(  # noqa: N802
        self, request: messages.GetKeyRequest, call: Call
    ) -> messages.GetKeyResponse:
        call.key = request.name
        name = convert.key_or_alias("name", request.name)
        key, receipt = await self._lifecycle.get_key(call.caller(), name)
        call.receipts.append(receipt)
        return messages.GetKeyResponse(key=convert.key_message(key))

    async def ListKeys(  # noqa: N802
        self, request: messages.ListKeysRequest, call: Call
    ) -> messages.ListKeysResponse:
        keys, token, receipt = await self._lifecycle.list_keys(
            call.caller(),
            convert.region("parent", request.parent),
            page_size=request.page_size,
            page_token=request.page_token,
            wanted=convert.key_list(request),
        )
        call.receipts.append(receipt)
        return messages.ListKeysResponse(
            keys=[convert.key_message(key) for key in keys], next_page_token=token
        )

    async def EnableKey(  # noqa: N802
        self, request: messages.EnableKeyRequest, call: Call
    ) -> messages.EnableKeyResponse:
        call.key = request.name
        key, receipt = await self._lifecycle.set_state(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            KeyState.ENABLED,
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.EnableKeyResponse(key=convert.key_message(key))

    async def DisableKey(  # noqa: N802
        self, request: messages.DisableKeyRequest, call: Call
    ) -> messages.DisableKeyResponse:
        call.key = request.name
        key, receipt = await self._lifecycle.set_state(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            KeyState.DISABLED,
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.DisableKeyResponse(key=convert.key_message(key))

    async def RotateKey(  # noqa: N802
        self, request: messages.RotateKeyRequest, call: Call
    ) -> messages.RotateKeyResponse:
        call.key = request.name
        key, receipt = await self._lifecycle.rotate_key(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.RotateKeyResponse(
            key=convert.key_message(key),
            key_version=convert.version_message(key, key.versions[-1]),
        )

    async def ListKeyVersions(  # noqa: N802
        self, request: messages.ListKeyVersionsRequest, call: Call
    ) -> messages.ListKeyVersionsResponse:
        call.key = request.parent
        key, versions, token, receipt = await self._lifecycle.list_versions(
            call.caller(),
            convert.key_name("parent", request.parent),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        call.receipts.append(receipt)
        return messages.ListKeyVersionsResponse(
            key_versions=[convert.version_message(key, version) for version in versions],
            next_page_token=token,
        )

    async def Encrypt(  # noqa: N802
        self, request: messages.EncryptRequest, call: Call
    ) -> messages.EncryptResponse:
        call.key = request.key
        given = request.plaintext_crc32c if request.HasField("plaintext_crc32c") else None
        verified = convert.check_crc32c("plaintext", request.plaintext, given=given)
        result = await self._crypto.encrypt(
            call.caller(),
            convert.key_or_alias("key", request.key),
            request.plaintext,
            convert.context_of("encryption_context", request.encryption_context),
            algorithm=convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.extend(result.receipts)
        return messages.EncryptResponse(
            key_version=result.key_version,
            ciphertext=result.blob,
            ciphertext_crc32c=convert.crc32c(result.blob),
            verified_plaintext_crc32c=verified,
            algorithm=convert.algorithm_value(result.algorithm),
        )

    async def Decrypt(  # noqa: N802
        self, request: messages.DecryptRequest, call: Call
    ) -> messages.DecryptResponse:
        call.key = request.key
        given = request.ciphertext_crc32c if request.HasField("ciphertext_crc32c") else None
        verified = convert.check_crc32c("ciphertext", request.ciphertext, given=given)
        result = await self._crypto.decrypt(
            call.caller(),
            convert.key_or_alias("key", request.key) if request.key else None,
            request.ciphertext,
            convert.context_of("encryption_context", request.encryption_context),
            algorithm=convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.extend(result.receipts)
        return messages.DecryptResponse(
            key_version=result.key_version,
            plaintext=result.plaintext,
            plaintext_crc32c=convert.crc32c(result.plaintext),
            verified_ciphertext_crc32c=verified,
            used_primary=result.used_primary,
            algorithm=convert.algorithm_value(result.algorithm),
        )

    async def ReEncrypt(  # noqa: N802
        self, request: messages.ReEncryptRequest, call: Call
    ) -> messages.ReEncryptResponse:
        call.key = request.destination_key
        given = request.ciphertext_crc32c if request.HasField("ciphertext_crc32c") else None
        verified = convert.check_crc32c("ciphertext", request.ciphertext, given=given)
        source = (
            convert.key_or_alias("source_key", request.source_key) if request.source_key else None
        )
        result = await self._crypto.re_encrypt(
            call.caller(),
            source_name=source,
            blob=request.ciphertext,
            source_context=convert.context_of(
                "source_encryption_context", request.source_encryption_context
            ),
            destination_name=convert.key_or_alias("destination_key", request.destination_key),
            destination_context=convert.context_of(
                "destination_encryption_context", request.destination_encryption_context
            ),
            validate_only=request.validate_only,
        )
        call.receipts.extend(result.receipts)
        return messages.ReEncryptResponse(
            source_key_version=result.source_key_version,
            destination_key_version=result.destination_key_version,
            ciphertext=result.blob,
            ciphertext_crc32c=convert.crc32c(result.blob),
            verified_ciphertext_crc32c=verified,
        )

    async def GenerateDataKey(  # noqa: N802
        self, request: messages.GenerateDataKeyRequest, call: Call
    ) -> messages.GenerateDataKeyResponse:
        result = await self._generate_data_key(request, call, with_plaintext=True)
        return messages.GenerateDataKeyResponse(
            key_version=result.key_version,
            plaintext_data_key=result.plaintext,
            wrapped_data_key=result.blob,
            plaintext_data_key_crc32c=convert.crc32c(result.plaintext),
            wrapped_data_key_crc32c=convert.crc32c(result.blob),
        )

    async def GenerateDataKeyWithoutPlaintext(  # noqa: N802
        self, request: messages.GenerateDataKeyWithoutPlaintextRequest, call: Call
    ) -> messages.GenerateDataKeyWithoutPlaintextResponse:
        result = await self._generate_data_key(request, call, with_plaintext=False)
        return messages.GenerateDataKeyWithoutPlaintextResponse(
            key_version=result.key_version,
            wrapped_data_key=result.blob,
            wrapped_data_key_crc32c=convert.crc32c(result.blob),
        )

    async def GenerateRandom(  # noqa: N802
        self, request: messages.GenerateRandomRequest, call: Call
    ) -> messages.GenerateRandomResponse:
        random, receipt = await self._crypto.generate_random(
            call.caller(), convert.region("parent", request.parent), request.number_of_bytes
        )
        call.receipts.append(receipt)
        return messages.GenerateRandomResponse(random=random, random_crc32c=convert.crc32c(random))

    async def _generate_data_key(
        self,
        request: messages.GenerateDataKeyRequest | messages.GenerateDataKeyWithoutPlaintextRequest,
        call: Call,
        *,
        with_plaintext: bool,
    ) -> DataKey:
        call.key = request.key
        result = await self._crypto.generate_data_key(
            call.caller(),
            convert.key_or_alias("key", request.key),
            convert.data_key_bytes(request),
            convert.context_of("encryption_context", request.encryption_context),
            with_plaintext=with_plaintext,
            validate_only=request.validate_only,
        )
        call.receipts.extend(result.receipts)
        return result
