"""KeyService's methods for MAC keys and key pairs: parse, call, format."""

from __future__ import annotations

from typing import Final

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom_server.rpc import convert
from strongroom_server.rpc.call import Call
from strongroom_server.services.asymmetric import AsymmetricService, Message
from strongroom_server.services.data_key_pairs import DataKeyPair, DataKeyPairService
from strongroom_server.services.pair_maker import DataKeyPairSpec

__all__ = ["AsymmetricMethods"]

_PAIR_SPECS: Final = {
    messages.DataKeyPairSpec.Value(f"DATA_KEY_PAIR_SPEC_{spec}"): spec for spec in DataKeyPairSpec
}


class AsymmetricMethods:
    """Part of KeyService; the names are those of gRPC methods."""

    def __init__(self, *, asymmetric: AsymmetricService, pairs: DataKeyPairService) -> None:
        """Take the services; holds no state of its own."""
        self._asymmetric = asymmetric
        self._pairs = pairs

    async def Sign(  # noqa: N802 - see the class
        self, request: messages.SignRequest, call: Call
    ) -> messages.SignResponse:
        call.key = request.key
        given = request.message_crc32c if request.HasField("message_crc32c") else None
        verified = convert.check_crc32c("message", request.message, given=given)
        made = await self._asymmetric.sign(
            call.caller(),
            convert.key_or_alias("key", request.key),
            _message(request),
            convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.append(made.receipt)
        return messages.SignResponse(
            key_version=made.key_version,
            signature=made.data,
            signature_crc32c=convert.crc32c(made.data),
            verified_message_crc32c=verified,
            algorithm=convert.algorithm_value(made.algorithm),
        )

    async def Verify(  # noqa: N802
        self, request: messages.VerifyRequest, call: Call
    ) -> messages.VerifyResponse:
        call.key = request.key
        given = request.message_crc32c if request.HasField("message_crc32c") else None
        verified_message = convert.check_crc32c("message", request.message, given=given)
        given = request.signature_crc32c if request.HasField("signature_crc32c") else None
        verified_signature = convert.check_crc32c("signature", request.signature, given=given)
        verified = await self._asymmetric.verify(
            call.caller(),
            convert.key_or_alias("key", request.key),
            _message(request),
            request.signature,
            convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.append(verified.receipt)
        return messages.VerifyResponse(
            key_version=verified.key_version,
            verified_message_crc32c=verified_message,
            verified_signature_crc32c=verified_signature,
            algorithm=convert.algorithm_value(verified.algorithm),
        )

    async def GetPublicKey(  # noqa: N802
        self, request: messages.GetPublicKeyRequest, call: Call
    ) -> messages.GetPublicKeyResponse:
        call.key = request.key
        found = await self._asymmetric.public_key(
            call.caller(), convert.key_or_alias("key", request.key)
        )
        call.receipts.append(found.receipt)
        return messages.GetPublicKeyResponse(
            key_version=found.key_version,
            public_key=found.data,
            public_key_crc32c=convert.crc32c(found.data),
            spec=convert.spec_value(found.spec),
            usage=convert.usage_value(found.usage),
            algorithms=[convert.algorithm_value(each) for each in found.algorithms],
        )

    async def GenerateMac(  # noqa: N802
        self, request: messages.GenerateMacRequest, call: Call
    ) -> messages.GenerateMacResponse:
        call.key = request.key
        given = request.message_crc32c if request.HasField("message_crc32c") else None
        verified = convert.check_crc32c("message", request.message, given=given)
        made = await self._asymmetric.generate_mac(
            call.caller(),
            convert.key_or_alias("key", request.key),
            request.message,
            convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.append(made.receipt)
        return messages.GenerateMacResponse(
            key_version=made.key_version,
            mac=made.data,
            mac_crc32c=convert.crc32c(made.data),
            verified_message_crc32c=verified,
            algorithm=convert.algorithm_value(made.algorithm),
        )

    async def VerifyMac(  # noqa: N802
        self, request: messages.VerifyMacRequest, call: Call
    ) -> messages.VerifyMacResponse:
        call.key = request.key
        given = request.message_crc32c if request.HasField("message_crc32c") else None
        verified_message = convert.check_crc32c("message", request.message, given=given)
        given = request.mac_crc32c if request.HasField("mac_crc32c") else None
        verified_mac = convert.check_crc32c("mac", request.mac, given=given)
        verified = await self._asymmetric.verify_mac(
            call.caller(),
            convert.key_or_alias("key", request.key),
            request.message,
            request.mac,
            convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.append(verified.receipt)
        return messages.VerifyMacResponse(
            key_version=verified.key_version,
            verified_message_crc32c=verified_message,
            verified_mac_crc32c=verified_mac,
            algorithm=convert.algorithm_value(verified.algorithm),
        )

    async def DeriveSharedSecret(  # noqa: N802
        self, request: messages.DeriveSharedSecretRequest, call: Call
    ) -> messages.DeriveSharedSecretResponse:
        call.key = request.key
        given = request.public_key_crc32c if request.HasField("public_key_crc32c") else None
        verified = convert.check_crc32c("public_key", request.public_key, given=given)
        made = await self._asymmetric.derive_shared_secret(
            call.caller(),
            convert.key_or_alias("key", request.key),
            request.public_key,
            convert.algorithm_of(request.algorithm),
            validate_only=request.validate_only,
        )
        call.receipts.append(made.receipt)
        return messages.DeriveSharedSecretResponse(
            key_version=made.key_version,
            shared_secret=made.data,
            shared_secret_crc32c=convert.crc32c(made.data),
            verified_public_key_crc32c=verified,
            algorithm=convert.algorithm_value(made.algorithm),
        )

    async def GenerateDataKeyPair(  # noqa: N802
        self, request: messages.GenerateDataKeyPairRequest, call: Call
    ) -> messages.GenerateDataKeyPairResponse:
        made = await self._generate_pair(request, call, with_plaintext=True)
        return messages.GenerateDataKeyPairResponse(
            key_version=made.key_version,
            public_key=made.public_key,
            plaintext_private_key=made.private_key,
            wrapped_private_key=made.blob,
            public_key_crc32c=convert.crc32c(made.public_key),
            plaintext_private_key_crc32c=convert.crc32c(made.private_key),
            wrapped_private_key_crc32c=convert.crc32c(made.blob),
            spec=request.spec,
        )

    async def GenerateDataKeyPairWithoutPlaintext(  # noqa: N802
        self, request: messages.GenerateDataKeyPairWithoutPlaintextRequest, call: Call
    ) -> messages.GenerateDataKeyPairWithoutPlaintextResponse:
        made = await self._generate_pair(request, call, with_plaintext=False)
        return messages.GenerateDataKeyPairWithoutPlaintextResponse(
            key_version=made.key_version,
            public_key=made.public_key,
            wrapped_private_key=made.blob,
            public_key_crc32c=convert.crc32c(made.public_key),
            wrapped_private_key_crc32c=convert.crc32c(made.blob),
            spec=request.spec,
        )

    async def _generate_pair(
        self,
        request: (
            messages.GenerateDataKeyPairRequest
            | messages.GenerateDataKeyPairWithoutPlaintextRequest
        ),
        call: Call,
        *,
        with_plaintext: bool,
    ) -> DataKeyPair:
        call.key = request.key
        made = await self._pairs.generate(
            call.caller(),
            convert.key_or_alias("key", request.key),
            # Other numbers are refused before: the field's rule is `defined_only`, and not 0.
            _PAIR_SPECS[request.spec],
            convert.context_of("encryption_context", request.encryption_context),
            with_plaintext=with_plaintext,
            validate_only=request.validate_only,
        )
        call.receipts.extend(made.receipts)
        return made


def _message(request: messages.SignRequest | messages.VerifyRequest) -> Message:
    is_digest = request.message_type == messages.MESSAGE_TYPE_DIGEST
    return Message(request.message, is_digest)
