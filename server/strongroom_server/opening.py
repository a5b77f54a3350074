"""Opening a shard: store, spool, outbox and HSM, each checked, in the order of their needs.

Part of the wiring of `app.py`: what can refuse the start of a region does so here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from strongroom_server.audit.limits import SpoolLimits
from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.spool import Spool
from strongroom_server.config import ShardConfig
from strongroom_server.domain.keys import KeyStorage
from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings
from strongroom_server.ops.health import ReadinessCheck
from strongroom_server.ops.hsm_events import RecordingHsmObserver
from strongroom_server.ops.metrics import Metrics
from strongroom_server.ports import Clock
from strongroom_server.services.events import ShardEvents
from strongroom_server.services.records import Recorder
from strongroom_server.shards.topology import Shard
from strongroom_server.store.sqlite_store import SqliteKeyStore

__all__ = ["RECORD_SECONDS", "OpenShard", "open_shard", "watch_shard"]

HSM_GRACE_SECONDS: Final = 2.0
# A start does not wait longer for the disk: what comes after is on disk after.
RECORD_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard with the parts behind its ports, for readiness and metrics."""

    shard: Shard
    pool: SessionPool
    store: SqliteKeyStore
    spool: Spool
    events: ShardEvents


@contextlib.asynccontextmanager
async def open_shard(
    config: ShardConfig, clock: Clock, metrics: Metrics, recorder: Recorder
) -> AsyncIterator[OpenShard]:
    """Open store, spool and HSM of a region; close them in the opposite order.

    The records of what happens by itself end the spool: a stop is its last record.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = await SqliteKeyStore.open(
            config.store, config.region, clock=clock, key_cache_keys=config.key_cache_keys
        )
        stack.push_async_callback(store.close)
        store.start_polling()
        spool = await Spool.open(
            config.spool,
            config.region,
            limits=SpoolLimits(
                limit_bytes=config.spool_limit_bytes,
                limit_seconds=config.spool_limit_seconds,
                buffered_records=config.buffered_records,
                buffered_seconds=config.buffered_seconds,
            ),
            clock=clock,
        )
        stack.push_async_callback(spool.close)
        if await store.last_outbox_id() < spool.durable_outbox_id:
            # Its next outbox ids would be taken for records that the spool has already.
            raise StartRefusedError(
                f"{config.store} is older than {config.spool}: the database was restored or "
                "lost its tail; restore the newest one, or move the spool away once every "
                "record in it is in the audit log"
            )
        trail = ShardAuditTrail(spool, store, region=config.region)
        events = ShardEvents(trail, recorder)
        stack.callback(events.stopped)
        lost = spool.early.lost_records
        # Before any other record: in the place of the first one that may be missing.
        if lost and await events.recorded(
            "BufferedRecordsLost", count=lost, wait_seconds=RECORD_SECONDS
        ):
            await spool.early.note_loss_recorded()
        stack.push_async_callback(trail.close)
        await trail.recover()
        pool = SessionPool(
            config.region,
            SessionPoolSettings(
                module=config.module,
                module_environment=config.module_environment,
                token_label=config.token_label,
                pin_file=config.pin_file,
                sessions=config.sessions,
                verify_after_encrypt=config.verify_after_encrypt,
                module_parameters=config.module_parameters,
                unwrapped_keys=config.unwrapped_keys,
                recycle_after_unwraps=config.recycle_after_unwraps,
                needs_wrap=config.default_storage == "wrapped",
            ),
            clock=clock,
            observer=RecordingHsmObserver(metrics.shard(config.region), events),
        )
        stack.push_async_callback(pool.close, HSM_GRACE_SECONDS)
        await pool.start()
        metrics.shard(config.region).set_spool_limits(
            config.spool_limit_bytes, config.spool_limit_seconds
        )
        storage = KeyStorage(config.default_storage.upper())
        shard = Shard(config.region, pool, store, trail, storage)
        yield OpenShard(shard, pool, store, spool, events)


def watch_shard(
    opened: OpenShard, metrics: Metrics, checks: dict[str, ReadinessCheck], clock: Clock
) -> None:
    """Connect a shard to readiness and to the gauges that mirror its state."""
    region = opened.shard.region
    shard_metrics = metrics.shard(region)
    pool, store, spool = opened.pool, opened.store, opened.spool
    counted = 0

    def refresh() -> None:
        nonlocal counted
        status = spool.status()
        shard_metrics.audit_recorded(status.last_sequence - counted)
        counted = status.last_sequence
        oldest = status.oldest_unacknowledged_time
        age = 0.0 if oldest is None else (clock.now() - oldest).total_seconds()
        shard_metrics.set_spool(status.unacknowledged_bytes, max(age, 0.0), status.waiting_records)
        counts = store.counts()
        shard_metrics.set_keys(counts.keys_by_state, counts.versions)
        shard_metrics.set_sessions(pool.status().ready)

    counted = spool.status().last_sequence  # records of earlier runs are not events of this one
    metrics.on_scrape(refresh)
    checks[f"hsm-{region}"] = lambda: None if pool.ready else "no HSM session answers"
    checks[f"store-{region}"] = lambda: (
        None if store.is_current else "the store is behind, or damaged"
    )
    checks[f"audit-{region}"] = lambda: (
        None if spool.is_ready else "the audit spool is full, too old, failing, or above 80 %"
    )
