"""KeyService's methods for deletion, descriptions, tags and aliases: parse, call, format."""

from __future__ import annotations

from typing import Final

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom.resource_names import KeyVersionName
from strongroom_server.domain.keys import Key
from strongroom_server.errors import ArgumentInvalidError, KeyNotFoundError
from strongroom_server.rpc import convert
from strongroom_server.rpc.call import Call
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.key_management import KeyManagement

# isort: split
from strongroom.kms.v1 import resources_pb2 as resources

__all__ = ["KeyLifecycleMethods"]

_UPDATABLE: Final = frozenset({"description"})


class KeyLifecycleMethods:
    """Part of KeyService; the names are those of gRPC methods."""

    def __init__(self, *, management: KeyManagement) -> None:
        """Take the services; holds no state of its own."""
        self._management = management

    async def UpdateKey(  # noqa: N802 - see the class
        self, request: messages.UpdateKeyRequest, call: Call
    ) -> messages.UpdateKeyResponse:
        call.key = request.key.name
        name = convert.key_name("key.name", request.key.name)
        _check_mask(list(request.update_mask.paths))
        key, receipt = await self._management.details.update(
            call.caller(request.request_id), name, request.key.description, _change(request)
        )
        call.receipts.append(receipt)
        return messages.UpdateKeyResponse(key=convert.key_message(key))

    async def ScheduleKeyDeletion(  # noqa: N802
        self, request: messages.ScheduleKeyDeletionRequest, call: Call
    ) -> messages.ScheduleKeyDeletionResponse:
        call.key = request.name
        key, receipt = await self._management.deletion.schedule_key(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            request.pending_days,
            _change(request),
        )
        call.receipts.append(receipt)
        return messages.ScheduleKeyDeletionResponse(key=convert.key_message(key))

    async def CancelKeyDeletion(  # noqa: N802
        self, request: messages.CancelKeyDeletionRequest, call: Call
    ) -> messages.CancelKeyDeletionResponse:
        call.key = request.name
        key, receipt = await self._management.deletion.cancel_key(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            _change(request),
        )
        call.receipts.append(receipt)
        return messages.CancelKeyDeletionResponse(key=convert.key_message(key))

    async def GetKeyVersion(  # noqa: N802
        self, request: messages.GetKeyVersionRequest, call: Call
    ) -> messages.GetKeyVersionResponse:
        name = convert.version_name("name", request.name)
        call.key = str(name.key)
        key, version, receipt = await self._management.deletion.get_version(call.caller(), name)
        call.receipts.append(receipt)
        return messages.GetKeyVersionResponse(key_version=convert.version_message(key, version))

    async def ScheduleKeyVersionDeletion(  # noqa: N802
        self, request: messages.ScheduleKeyVersionDeletionRequest, call: Call
    ) -> messages.ScheduleKeyVersionDeletionResponse:
        name = convert.version_name("name", request.name)
        call.key = str(name.key)
        key, receipt = await self._management.deletion.schedule_version(
            call.caller(request.request_id), name, request.pending_days, _change(request)
        )
        call.receipts.append(receipt)
        return messages.ScheduleKeyVersionDeletionResponse(key_version=_version(key, name))

    async def CancelKeyVersionDeletion(  # noqa: N802
        self, request: messages.CancelKeyVersionDeletionRequest, call: Call
    ) -> messages.CancelKeyVersionDeletionResponse:
        name = convert.version_name("name", request.name)
        call.key = str(name.key)
        key, receipt = await self._management.deletion.cancel_version(
            call.caller(request.request_id), name, _change(request)
        )
        call.receipts.append(receipt)
        return messages.CancelKeyVersionDeletionResponse(key_version=_version(key, name))

    async def TagResource(  # noqa: N802
        self, request: messages.TagResourceRequest, call: Call
    ) -> messages.TagResourceResponse:
        call.key = request.name
        key, receipt = await self._management.details.tag(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            dict(request.tags),
            _change(request),
        )
        call.receipts.append(receipt)
        return messages.TagResourceResponse(key=convert.key_message(key))

    async def UntagResource(  # noqa: N802
        self, request: messages.UntagResourceRequest, call: Call
    ) -> messages.UntagResourceResponse:
        call.key = request.name
        key, receipt = await self._management.details.untag(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            list(request.tag_names),
            _change(request),
        )
        call.receipts.append(receipt)
        return messages.UntagResourceResponse(key=convert.key_message(key))

    async def CreateAlias(  # noqa: N802
        self, request: messages.CreateAliasRequest, call: Call
    ) -> messages.CreateAliasResponse:
        call.key = request.key
        alias, receipt = await self._management.aliases.create(
            call.caller(request.request_id),
            convert.alias_name(request.parent, request.alias_id),
            convert.key_name("key", request.key),
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.CreateAliasResponse(alias=convert.alias_message(alias))

    async def UpdateAlias(  # noqa: N802
        self, request: messages.UpdateAliasRequest, call: Call
    ) -> messages.UpdateAliasResponse:
        call.key = request.key
        alias, receipt = await self._management.aliases.update(
            call.caller(request.request_id),
            convert.alias("name", request.name),
            convert.key_name("key", request.key),
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.UpdateAliasResponse(alias=convert.alias_message(alias))

    async def DeleteAlias(  # noqa: N802
        self, request: messages.DeleteAliasRequest, call: Call
    ) -> messages.DeleteAliasResponse:
        call.key = request.name
        alias, receipt = await self._management.aliases.delete(
            call.caller(request.request_id),
            convert.alias("name", request.name),
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.DeleteAliasResponse(alias=convert.alias_message(alias))

    async def ListAliases(  # noqa: N802
        self, request: messages.ListAliasesRequest, call: Call
    ) -> messages.ListAliasesResponse:
        call.key = request.key
        aliases, token, receipt = await self._management.aliases.list_page(
            call.caller(),
            convert.region("parent", request.parent),
            convert.key_name("key", request.key) if request.key else None,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        call.receipts.append(receipt)
        return messages.ListAliasesResponse(
            aliases=[convert.alias_message(alias) for alias in aliases], next_page_token=token
        )


def _change(
    request: messages.UpdateKeyRequest
    | messages.ScheduleKeyDeletionRequest
    | messages.CancelKeyDeletionRequest
    | messages.ScheduleKeyVersionDeletionRequest
    | messages.CancelKeyVersionDeletionRequest
    | messages.TagResourceRequest
    | messages.UntagResourceRequest,
) -> ChangeRequest:
    return ChangeRequest(request.request_id, request.etag, request.validate_only)


def _check_mask(paths: list[str]) -> None:
    if not paths or not _UPDATABLE.issuperset(paths):
        raise ArgumentInvalidError.of(
            "update_mask", "update_mask.paths", f"one or more of: {', '.join(sorted(_UPDATABLE))}"
        )


def _version(key: Key, name: KeyVersionName) -> resources.KeyVersion:
    version = key.version(name.version)
    if version is None:  # the service has just changed it
        raise KeyNotFoundError(str(name))
    return convert.version_message(key, version)
