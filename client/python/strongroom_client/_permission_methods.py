"""The methods of `KmsClient` for policies and grants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from strongroom_client import _permission_calls
from strongroom_client._drivers import Driver
from strongroom_client.permission_results import (
    AccessExplanation,
    Grant,
    GrantConstraint,
    KeyPolicy,
)

__all__ = ["PermissionMethods"]


class PermissionMethods:
    """Part of `KmsClient`."""

    driver: Driver

    def get_key_policy(self, key: str, *, revision: int = 0) -> KeyPolicy:
        """Return the policy of a key.

        Args:
            key: Name of the key; aliases are not taken.
            revision: A policy that it had, from 1 on; 0 is the one that holds.
        """
        return self.driver.run(_permission_calls.get_key_policy(key, revision=revision))

    def put_key_policy(
        self,
        key: str,
        policy: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> KeyPolicy:
        """Give a key another policy, the whole of it; the ones before are kept.

        Args:
            key: Name of the key; aliases are not taken.
            policy: Cedar policy set, 1 to 32,768 bytes.
            etag: When given, of the policy that must still hold.
            request_id: A UUID; a repeat with it returns the first answer.
            validate_only: Check all, change nothing.

        Raises:
            PolicyInvalidError: It does not fit the schema, or locks everybody out.
            EtagMismatchError: Another policy holds meanwhile.
        """
        return self.driver.run(
            _permission_calls.put_key_policy(
                key,
                policy,
                etag=etag,
                request_id=request_id or str(uuid.uuid4()),
                validate_only=validate_only,
            )
        )

    def list_policy_revisions(
        self, key: str, *, with_text: bool = False, page_size: int = 100
    ) -> Iterator[KeyPolicy]:
        """Yield the policies that a key has had, the first one first, page by page."""
        token = ""
        while True:
            page, token = self.driver.run(
                _permission_calls.list_policy_revisions(key, token, page_size, with_text=with_text)
            )
            yield from page
            if not token:
                return

    def create_grant(
        self,
        key: str,
        *,
        grantee_principal: str,
        operations: Sequence[str],
        constraint: GrantConstraint | None = None,
        retiring_principal: str = "",
        grant_name: str = "",
        request_id: str | None = None,
    ) -> Grant:
        """Let a principal use a key, beside its policy, from now on.

        Args:
            key: Name of the key; aliases are not taken.
            grantee_principal: Who, ``spiffe://...``.
            operations: What, such as ``["Encrypt", "Decrypt"]`` (docs/policies.md).
            constraint: Under which encryption contexts; under all when None.
            retiring_principal: Who may end it, besides those who manage the key.
            grant_name: While there is a grant of this name and all else alike, that one is
                returned and none is made.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            PolicyDeniedError: You may not, or not pass on so much.
            LimitExceededError: 50,000 grants on the key, or 1,000 for the principal on it.
        """
        return self.driver.run(
            _permission_calls.create_grant(
                key,
                grantee_principal=grantee_principal,
                operations=operations,
                constraint=constraint,
                retiring_principal=retiring_principal,
                grant_name=grant_name,
                request_id=request_id or str(uuid.uuid4()),
            )
        )

    def list_grants(
        self, key: str, *, grantee_principal: str = "", page_size: int = 100
    ) -> Iterator[Grant]:
        """Yield the grants of a key, or of one principal on it, oldest first, page by page."""
        token = ""
        while True:
            page, token = self.driver.run(
                _permission_calls.list_grants(
                    key, token, page_size, grantee_principal=grantee_principal
                )
            )
            yield from page
            if not token:
                return

    def list_retirable_grants(self, region: str, *, page_size: int = 100) -> Iterator[Grant]:
        """Yield the grants of a region that name you as retiring principal, oldest first."""
        token = ""
        while True:
            page, token = self.driver.run(
                _permission_calls.list_retirable_grants(region, token, page_size)
            )
            yield from page
            if not token:
                return

    def retire_grant(self, name: str, *, request_id: str | None = None) -> Grant:
        """End a grant, as its retiring principal, or its grantee when it has RetireGrant.

        Raises:
            GrantNotFoundError: It is not there any more.
        """
        request_id = request_id or str(uuid.uuid4())
        return self.driver.run(_permission_calls.retire_grant(name, request_id=request_id))

    def revoke_grant(self, name: str, *, request_id: str | None = None) -> Grant:
        """End a grant, as who may RevokeGrant by the key's policy.

        Raises:
            GrantNotFoundError: It is not there any more.
        """
        request_id = request_id or str(uuid.uuid4())
        return self.driver.run(_permission_calls.revoke_grant(name, request_id=request_id))

    def explain_access(
        self,
        key: str,
        operation: str,
        *,
        encryption_context: Mapping[str, str],
        principal: str = "",
        at_time: datetime | None = None,
    ) -> AccessExplanation:
        """Say whether a principal may do something with a key, and why.

        Args:
            key: Key or alias.
            operation: Name of a policy action, such as ``Decrypt`` or ``ReEncryptFrom``.
            encryption_context: That of the call; ``{}`` for none.
            principal: Who; you when empty, which needs no permission but to see the key.
            at_time: By the policy of that time, aware; now when None.
        """
        return self.driver.run(
            _permission_calls.explain_access(
                key,
                operation,
                encryption_context=encryption_context,
                principal=principal,
                at_time=at_time,
            )
        )
