"""The process `strongroom audit-log`: everything wired in one place."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import random
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

import grpc
import structlog
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health

from strongroom.audit.v1 import audit_log_service_pb2
from strongroom.json_log import configure_logging
from strongroom.ops_http import OpsServer, build_ops_app
from strongroom.rpc_handlers import generic_handler
from strongroom.tlog.note import CosignerKey
from strongroom_auditlog import service
from strongroom_auditlog.calls import CallGuard
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.committer import Committer
from strongroom_auditlog.config import Config
from strongroom_auditlog.errors import AuditLogError, StartRefusedError
from strongroom_auditlog.ingest import ShardIngest
from strongroom_auditlog.lifecycle import initialize, open_signer
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.record_search import RecordSearch
from strongroom_auditlog.retention.entries import Entries
from strongroom_auditlog.retention.store import configured_archive
from strongroom_auditlog.sources import source_of
from strongroom_auditlog.tls import CredentialFiles, ServerTls
from strongroom_auditlog.witness_client import WitnessClient, WitnessEndpoint
from strongroom_auditlog.witnesses import Witnesses

__all__ = ["initialize", "run", "serve"]

MAX_REQUEST_BYTES: Final = 64 * 2**10
STOP_SECONDS: Final = 5.0

_log = structlog.stdlib.get_logger("strongroom.auditlog")


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    Raises:
        StartRefusedError: The log does not start; the message names the cure.
        LogStoppedError: The log moved under this process, or its key is lost.
    """
    configure_logging(
        config.ops.log_level,
        sys.stdout.buffer,
        service_name="strongroom-audit-log",
        service_version=importlib.metadata.version("strongroom"),
    )
    uvloop.run(serve(config))
    return 0


async def serve(config: Config) -> None:
    """Open the log, ingest and serve until SIGTERM or SIGINT.

    Raises:
        StartRefusedError: The log does not start; the message names the cure.
        LogStoppedError: The log moved under this process, or its key is lost.
    """
    signer, hsm_key = await asyncio.to_thread(open_signer, config)
    try:
        await _serve_with(config, signer)
    finally:
        if hsm_key is not None:
            await asyncio.to_thread(hsm_key.close)


async def _serve_with(config: Config, signer: Signer) -> None:
    log = await asyncio.to_thread(
        AuditLog.open,
        config.log.directory,
        config.log.state,
        config.last_checkpoint_file,
        signer,
        archive=configured_archive(config.archive.location),
    )
    try:
        if log.repaired:
            _log.warning("hash tiles of the right edge were rewritten", paths=list(log.repaired))
        await _serve_open(config, log)
    finally:
        await asyncio.to_thread(log.close)


async def _serve_open(config: Config, log: AuditLog) -> None:
    metrics = Metrics(
        regions=(shard.region for shard in config.shards),
        version=importlib.metadata.version("strongroom"),
        witnesses=(witness.name for witness in config.witnesses),
    )
    metrics.watch(log.files)
    witnesses = _witnesses(config, log, metrics)
    files = CredentialFiles(
        config.tls.certificate_file, config.tls.private_key_file, config.tls.ca_file
    )
    tls = ServerTls(files)
    committer = Committer(
        log,
        metrics=metrics,
        wall_clock=time.time,
        batch_seconds=config.log.batch_seconds,
        batch_records=config.log.batch_records,
        witnesses=witnesses,
    )
    shards = [
        ShardIngest(
            shard.region,
            source_of(config, shard, files),
            log=log,
            committer=committer,
            metrics=metrics,
            random=random.SystemRandom().random,
        )
        for shard in config.shards
    ]
    checks = {"log": lambda: committer.failing}
    if witnesses is not None:
        checks["witnesses"] = lambda: witnesses.failing
    try:
        ops = OpsServer(
            listen=config.ops.listen,
            app=build_ops_app(exposition=metrics.exposition, checks=checks),
        )
    except OSError as exc:
        raise StartRefusedError(f"[ops] listen {config.ops.listen}: {exc.strerror}") from exc
    index = RecordIndex(
        config.index_file,
        origin=config.log.origin,
        files=log.files,
        entries=Entries(log.files, configured_archive(config.archive.location)),
        size=lambda: log.checkpoint.size,
        metrics=metrics,
    )
    server, health = _build_server(config, log, metrics, tls, RecordSearch(log.files, index))
    try:
        index.start()
        await ops.start()
        await server.start()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        await health.set(service.SERVICE, health_pb2.HealthCheckResponse.SERVING)
        _log.info(
            "started", tree_size=log.checkpoint.size, verifier_key=str(log.signer.verifier_key)
        )
        await _run_until_stopped(committer, [shard.run() for shard in shards], tls)
    finally:
        if witnesses is not None:
            await witnesses.close()
        await health.enter_graceful_shutdown()
        await server.stop(STOP_SECONDS)
        await ops.stop()
        await asyncio.to_thread(index.close)
        _log.info("stopped", tree_size=log.checkpoint.size)


def _witnesses(config: Config, log: AuditLog, metrics: Metrics) -> Witnesses | None:
    """Return the witnesses of the configuration; None when there are none."""
    if not config.witnesses:
        return None
    try:
        clients = [
            WitnessClient(
                WitnessEndpoint(
                    witness.name,
                    witness.url,
                    CosignerKey.parse(witness.verifier_key),
                    witness.ca_file,
                )
            )
            for witness in config.witnesses
        ]
    except (ValueError, OSError) as exc:
        raise StartRefusedError(f"[[witnesses]] {exc}") from exc
    return Witnesses(
        clients,
        quorum=config.log.witness_quorum or 0,
        interval_seconds=config.log.witness_interval_seconds,
        metrics=metrics.witnesses,
        published=log.checkpoint,
    )


async def _ingest(committer: Committer, run: Coroutine[Any, Any, None]) -> None:
    """Ingest from a shard when everything that the state has is published.

    What the state has counts as acknowledged from then on (`ingest`).
    """
    try:
        await committer.published.wait()
    except BaseException:
        run.close()
        raise
    await run


def _build_server(
    config: Config, log: AuditLog, metrics: Metrics, tls: ServerTls, search: RecordSearch
) -> tuple[grpc.aio.Server, aio_health.HealthServicer]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_metadata_size", 8 * 2**10),
            ("grpc.max_concurrent_streams", 100),
            ("grpc.max_connection_age_ms", config.server.max_connection_age_seconds * 1000),
            ("grpc.max_connection_age_grace_ms", 30_000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", 0),
        ]
    )
    guard = CallGuard(metrics=metrics.rpcs, max_concurrent_calls=config.server.max_concurrent_calls)
    plain = service.AuditLogService(log, search=search, readers=frozenset(config.access.readers))
    servicer: Any = type("GuardedAuditLogService", (), {})()
    for name in service.METHODS:
        setattr(servicer, name, guard.wrap(service.SERVICE, name, getattr(plain, name)))
    described = audit_log_service_pb2.DESCRIPTOR.services_by_name["AuditLogService"]
    server.add_generic_rpc_handlers((generic_handler(described, servicer, service.METHODS),))
    health = aio_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        server.add_secure_port(config.server.listen, tls.credentials())
    except RuntimeError as exc:
        raise StartRefusedError(f"[server] listen {config.server.listen}: cannot bind") from exc
    return server, health


async def _run_until_stopped(
    committer: Committer, shards: list[Coroutine[Any, Any, None]], tls: ServerTls
) -> None:
    """Run until a signal; then append what has arrived and end.

    Raises:
        AuditLogError: The log cannot go on.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    appending = asyncio.create_task(committer.run(), name="committer")
    watching = asyncio.create_task(tls.watch(), name="tls")
    ingesting = [asyncio.create_task(_ingest(committer, shard), name="ingest") for shard in shards]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    running = {appending, watching, stopping, *ingesting}
    try:
        while not stopping.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a stopped shard returns; anything that fails ends the process
    finally:
        for task in (*ingesting, watching, stopping):
            task.cancel()
        await asyncio.gather(*ingesting, watching, stopping, return_exceptions=True)
        committer.close()
        with contextlib.suppress(TimeoutError, AuditLogError):
            # What is not appended in time was not acknowledged; the shards keep it.
            await asyncio.wait_for(appending, STOP_SECONDS)
