"""Key policies: read, replaced, and what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.policy import Action
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.domain.states import check_state
from strongroom_server.errors import (
    ArgumentInvalidError,
    EtagMismatchError,
    RequestIdReusedError,
    ShardUnavailableError,
)
from strongroom_server.mutations import Change, SetPolicy
from strongroom_server.ports import Clock
from strongroom_server.services import pages
from strongroom_server.services.answers import Answer
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Trace

__all__ = ["PolicyService"]

# 20 policies of 32 KiB: an answer stays under a megabyte.
MAX_TEXTS_A_PAGE: Final = 20


class PolicyService:
    """Operations on the policies of keys. Plain types in and out."""

    def __init__(self, *, keys: ManagedKeys, clock: Clock) -> None:
        """Take the collaborators; holds no state of its own."""
        self._keys = keys
        self._clock = clock

    async def get(
        self, caller: Caller, name: KeyName, number: int | None
    ) -> tuple[PolicyRevision, Receipt]:
        """Return a policy that a key has had; the one that holds for None.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("GetKeyPolicy", str(name))

        async def work() -> PolicyRevision:
            key = await self._keys.permitted(caller, shard, name, Action.GET_KEY_POLICY, trace)
            found = await shard.store.permissions.policy_revision(key, number)
            if found is None:
                raise ArgumentInvalidError.of(
                    "revision", "policy.revision", "the key has had no such policy"
                )
            return found

        return await self._keys.recorder.run(shard, caller, trace, work)

    async def put(
        self, caller: Caller, name: KeyName, text: str, request: ChangeRequest
    ) -> tuple[PolicyRevision, Receipt]:
        """Give a key another policy; the same text again changes nothing.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("PutKeyPolicy", str(name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            key = await self._keys.permitted(caller, shard, name, Action.PUT_KEY_POLICY, trace)
            check_state(Action.PUT_KEY_POLICY, key)
            last = await shard.store.permissions.policy_revision(key, None)
            if last is None:
                raise ShardUnavailableError(shard.region, "the metadata store is damaged")
            if last.text != key.policy or (request.etag and request.etag != last.etag):
                raise EtagMismatchError(f"the policy of {name}")
            if text == last.text:
                return None, Answer(revision=last)
            self._keys.authorization.check_new_policy(
                text, creator=caller.principal, key_name=str(name)
            )
            after = PolicyRevision(
                key.key_id, last.number + 1, text, caller.principal, self._clock.now()
            )
            # What the record says of a policy: which of the history, and of what text.
            trace.details = {
                "policy_revision": str(after.number),
                "policy_sha256": after.sha256.hex(),
            }
            change = SetPolicy(
                key.key_id, text, after.number, after.author, after.time, key.revision
            )
            return change, Answer(revision=after)

        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, (str(name), text, request.etag), plan=plan
        )
        if answer.revision is None:
            raise RequestIdReusedError
        return answer.revision, receipt

    async def list_page(
        self, caller: Caller, name: KeyName, *, page_size: int, page_token: str, with_text: bool
    ) -> tuple[Sequence[PolicyRevision], str, Receipt]:
        """Return a page of the policies that a key has had, and the next page's token.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("ListKeyPolicyRevisions", str(name))
        size = page_size or pages.DEFAULT_PAGE_SIZE
        if with_text:
            size = min(size, MAX_TEXTS_A_PAGE)

        async def work() -> tuple[Sequence[PolicyRevision], str]:
            key = await self._keys.permitted(
                caller, shard, name, Action.LIST_KEY_POLICY_REVISIONS, trace
            )
            after = pages.numbered_position("policies", page_token, str(name))
            found = await shard.store.permissions.list_policy_revisions(
                key, after=after, limit=size + 1
            )
            page = found[:size]
            more = len(found) > size
            last = page[-1].number if more else 0
            return page, pages.numbered_token("policies", str(name), last) if more else ""

        (page, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return page, token, receipt
