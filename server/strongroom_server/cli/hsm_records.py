"""Records of what a command does to a token, through the database's outbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from strongroom_server.config import ShardConfig

__all__ = ["DESTROY_METHOD", "PRINCIPAL", "record_destructions"]

PRINCIPAL: Final = "strongroom:reconcile"
"""Principal of these records; no certificate can name it."""

DESTROY_METHOD: Final = "DestroyOrphan"


async def record_destructions(shard: ShardConfig, names: Sequence[str]) -> None:
    """Record that objects of the token are about to be destroyed, one record for each name.

    Durable on return, and in the audit spool as soon as a server runs. Before the deed: a
    crash in between leaves a record of what was not done, never the other way round.

    Raises:
        CliError: CONFIGURATION: there is no database.
        ShardUnavailableError: The database cannot be written.
    """
    from strongroom_server.app import SystemClock
    from strongroom_server.audit.record import new_record_id
    from strongroom_server.cli.hsm_shards import open_store
    from strongroom_server.mutations import Mutation
    from strongroom_server.services.caller import Caller
    from strongroom_server.services.records import Recorder, Trace

    clock = SystemClock()
    recorder = Recorder(
        clock=clock,
        new_record_id=lambda: new_record_id(clock.now(), os.urandom(10)),
        on_outcome=lambda *_: None,
    )
    caller = Caller(PRINCIPAL, "", "", 0.0, 0.0)
    async with open_store(shard, clock) as store:
        for name in names:
            details = {"object": name, "uid": str(os.getuid())}
            draft = recorder.draft(caller, Trace(DESTROY_METHOD), details=details)
            await store.commit(Mutation(None, draft))
