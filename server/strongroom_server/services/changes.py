"""How a change is made: once for a request id, and never without its record.

One at a time per shard; a repeat of a request id is answered from its memo; then the
plan (authorisation, state, HSM), then change + audit record + memo in one transaction of
the store, then the record into the spool, then the answer. A crash after the transaction
leaves the record in the outbox, from where the next start moves it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from strongroom.receipts import Receipt
from strongroom_server.errors import RequestIdReusedError
from strongroom_server.mutations import Change, Mutation, RequestMemo
from strongroom_server.services.answers import Answer, decode_answer, encode_answer
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard

__all__ = ["ChangeRequest", "Changes", "Plan"]

# Returns the change (None when there is nothing to change) and the answer after it.
Plan = Callable[[], Awaitable[tuple[Change | None, Answer]]]


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """What every mutation may carry: empty texts mean "not given"."""

    request_id: str = ""
    etag: str = ""
    validate_only: bool = False


class Changes:
    """Makes changes; holds no state of its own."""

    def __init__(self, recorder: Recorder) -> None:
        """Take the recorder."""
        self._recorder = recorder

    async def make(
        self,
        shard: Shard,
        caller: Caller,
        trace: Trace,
        request: ChangeRequest,
        body: Sequence[object],
        *,
        plan: Plan,
    ) -> tuple[Answer, Receipt]:
        """Make a change once, however often it is asked for under one request id.

        Args:
            body: The request's fields; a repeat must have the same.

        Raises:
            RequestIdReusedError: The request id was used with another body.
            StrongroomError: What `plan` and the store raise; recorded.
        """
        digest = hashlib.sha256(json.dumps([trace.method, *body]).encode()).digest()
        memo_key = (caller.principal, trace.method, request.request_id)

        async def work() -> tuple[Answer, int | None]:
            async with shard.mutations:
                if request.request_id and not request.validate_only:
                    memo = await shard.store.find_memo(*memo_key)
                    if memo is not None and memo.digest != digest:
                        raise RequestIdReusedError
                    if memo is not None:
                        trace.policy = "first-answer"
                        first = decode_answer(memo.answer)
                        if first.key is not None:
                            trace.key = str(first.key.name)
                        return first, None
                change, answer = await plan()
                if request.validate_only or (change is None and not request.request_id):
                    return answer, None
                # Also what changes nothing is remembered under its request id: a repeat
                # that comes after somebody else's change must not undo that.
                memo = RequestMemo(*memo_key, digest, encode_answer(answer))
                draft = self._recorder.draft(caller, trace)
                outbox_id = await shard.store.commit(
                    Mutation(change, draft, memo if request.request_id else None)
                )
                return answer, outbox_id

        answer, outbox_id = await self._recorder.refusing(shard, caller, trace, work)
        receipt = await self._recorder.answered(shard, caller, trace, outbox_id=outbox_id)
        return answer, receipt
