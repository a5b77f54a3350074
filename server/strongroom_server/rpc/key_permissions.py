"""The methods of KeyService about policies and grants: parse, call, format."""

from __future__ import annotations

from strongroom.kms.v1 import permission_calls_pb2 as messages
from strongroom_server.rpc import convert
from strongroom_server.rpc import permission_convert as permissions
from strongroom_server.rpc.call import Call
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.explanations import AccessQuestion
from strongroom_server.services.grants import NewGrant
from strongroom_server.services.key_management import KeyManagement

__all__ = ["KeyPermissionMethods"]


class KeyPermissionMethods:
    """The gRPC skin over the services of policies, grants and explanations."""

    def __init__(self, *, management: KeyManagement) -> None:
        """Take the services; holds no state of its own."""
        self._policies = management.policies
        self._grants = management.grants
        self._explanations = management.explanations

    async def GetKeyPolicy(  # noqa: N802 - the names of gRPC methods
        self, request: messages.GetKeyPolicyRequest, call: Call
    ) -> messages.GetKeyPolicyResponse:
        call.key = request.key
        name = convert.key_name("key", request.key)
        revision, receipt = await self._policies.get(call.caller(), name, request.revision or None)
        call.receipts.append(receipt)
        message = permissions.policy_message(name.region, revision, with_text=True)
        return messages.GetKeyPolicyResponse(key_policy=message)

    async def PutKeyPolicy(  # noqa: N802
        self, request: messages.PutKeyPolicyRequest, call: Call
    ) -> messages.PutKeyPolicyResponse:
        call.key = request.key
        name = convert.key_name("key", request.key)
        revision, receipt = await self._policies.put(
            call.caller(request.request_id),
            name,
            request.policy,
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        message = permissions.policy_message(name.region, revision, with_text=True)
        return messages.PutKeyPolicyResponse(key_policy=message)

    async def ListKeyPolicyRevisions(  # noqa: N802
        self, request: messages.ListKeyPolicyRevisionsRequest, call: Call
    ) -> messages.ListKeyPolicyRevisionsResponse:
        call.key = request.parent
        name = convert.key_name("parent", request.parent)
        page, token, receipt = await self._policies.list_page(
            call.caller(),
            name,
            page_size=request.page_size,
            page_token=request.page_token,
            with_text=request.with_text,
        )
        call.receipts.append(receipt)
        return messages.ListKeyPolicyRevisionsResponse(
            revisions=[
                permissions.policy_message(name.region, each, with_text=request.with_text)
                for each in page
            ],
            next_page_token=token,
        )

    async def CreateGrant(  # noqa: N802
        self, request: messages.CreateGrantRequest, call: Call
    ) -> messages.CreateGrantResponse:
        call.key = request.parent
        new = NewGrant(
            key=convert.key_name("parent", request.parent),
            grantee=request.grantee_principal,
            operations=tuple(request.operations),
            constraint=permissions.constraint_of(request),
            retiring=request.retiring_principal,
            name=request.grant_name,
        )
        grant, receipt = await self._grants.create(
            call.caller(request.request_id),
            new,
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.CreateGrantResponse(grant=permissions.grant_message(grant))

    async def ListGrants(  # noqa: N802
        self, request: messages.ListGrantsRequest, call: Call
    ) -> messages.ListGrantsResponse:
        call.key = request.parent
        page, token, receipt = await self._grants.list_page(
            call.caller(),
            convert.key_name("parent", request.parent),
            grantee=request.grantee_principal,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        call.receipts.append(receipt)
        return messages.ListGrantsResponse(
            grants=map(permissions.grant_message, page), next_page_token=token
        )

    async def ListRetirableGrants(  # noqa: N802
        self, request: messages.ListRetirableGrantsRequest, call: Call
    ) -> messages.ListRetirableGrantsResponse:
        page, token, receipt = await self._grants.list_retirable_page(
            call.caller(),
            convert.region("parent", request.parent),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        call.receipts.append(receipt)
        return messages.ListRetirableGrantsResponse(
            grants=map(permissions.grant_message, page), next_page_token=token
        )

    async def RetireGrant(  # noqa: N802
        self, request: messages.RetireGrantRequest, call: Call
    ) -> messages.RetireGrantResponse:
        name = permissions.grant_name("name", request.name)
        call.key = str(name.key)
        grant, receipt = await self._grants.retire(
            call.caller(request.request_id),
            name,
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.RetireGrantResponse(grant=permissions.grant_message(grant))

    async def RevokeGrant(  # noqa: N802
        self, request: messages.RevokeGrantRequest, call: Call
    ) -> messages.RevokeGrantResponse:
        name = permissions.grant_name("name", request.name)
        call.key = str(name.key)
        grant, receipt = await self._grants.revoke(
            call.caller(request.request_id),
            name,
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.RevokeGrantResponse(grant=permissions.grant_message(grant))

    async def ExplainAccess(  # noqa: N802
        self, request: messages.ExplainAccessRequest, call: Call
    ) -> messages.ExplainAccessResponse:
        call.key = request.key
        asked = AccessQuestion(
            key=convert.key_or_alias("key", request.key),
            operation=request.operation,
            encryption_context=convert.context_of("encryption_context", request.encryption_context),
            principal=request.principal,
            at_time=permissions.time_of("at_time", request.at_time)
            if request.HasField("at_time")
            else None,
        )
        explanation, receipt = await self._explanations.explain(call.caller(), asked)
        call.receipts.append(receipt)
        return permissions.explanation_message(explanation)
