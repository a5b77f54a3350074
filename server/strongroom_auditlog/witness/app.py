"""The process `strongroom audit-witness`: everything wired in one place."""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import ssl
import sys
import time

import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from strongroom.json_log import configure_logging
from strongroom.ops_http import OpsServer, build_ops_app
from strongroom.tlog.note import CosignerKey
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.keys import load_private_key, save_private_key, write_verifier_key
from strongroom_auditlog.witness.config import WitnessSettings
from strongroom_auditlog.witness.http_service import HttpServer, WitnessService
from strongroom_auditlog.witness.metrics import WitnessProcessMetrics
from strongroom_auditlog.witness.rules import Witness
from strongroom_auditlog.witness.store import WitnessStore

__all__ = ["initialize", "run", "serve"]

_log = structlog.stdlib.get_logger("strongroom.witness")
_CURE = "make the witness with `strongroom audit-witness --init`"


def initialize(config: WitnessSettings) -> CosignerKey:
    """Make a witness: its key (unless there is one) and an empty state.

    Returns:
        The verifier key, which is also in `config.verifier_key_file`.

    Raises:
        StartRefusedError: There is a state already, or something cannot be written.
    """
    identity = config.witness
    try:
        for path in (identity.private_key_file, identity.state, config.verifier_key_file):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if identity.private_key_file.exists():
            private_key = load_private_key(identity.private_key_file, cure=_CURE)
        else:
            private_key = Ed25519PrivateKey.generate()
            save_private_key(identity.private_key_file, private_key)
        key = CosignerKey(identity.name, private_key.public_key().public_bytes_raw())
        write_verifier_key(config.verifier_key_file, key)
        WitnessStore.create(identity.state)
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    return key


def run(config: WitnessSettings) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    Raises:
        StartRefusedError: The witness does not start; the message names the cure.
    """
    configure_logging(
        config.ops.log_level,
        sys.stdout.buffer,
        service_name="strongroom-audit-witness",
        service_version=importlib.metadata.version("strongroom"),
    )
    uvloop.run(serve(config))
    return 0


async def serve(config: WitnessSettings) -> None:
    """Open key and state, and serve until SIGTERM or SIGINT.

    Raises:
        StartRefusedError: The witness does not start; the message names the cure.
    """
    private_key = load_private_key(config.witness.private_key_file, cure=_CURE)
    store = await asyncio.to_thread(WitnessStore.open, config.witness.state)
    try:
        await _serve_open(config, private_key, store)
    finally:
        await asyncio.to_thread(store.close)


async def _serve_open(
    config: WitnessSettings, private_key: Ed25519PrivateKey, store: WitnessStore
) -> None:
    logs = config.keys_by_origin
    metrics = WitnessProcessMetrics(origins=logs, version=importlib.metadata.version("strongroom"))
    witness = Witness(config.witness.name, private_key, logs, store, wall_clock=time.time)
    service = WitnessService(witness, origins=logs, metrics=metrics)
    try:
        ops = OpsServer(
            listen=config.ops.listen,
            app=build_ops_app(
                exposition=metrics.exposition, checks={"store": lambda: service.failing}
            ),
        )
    except OSError as exc:
        raise StartRefusedError(f"[ops] listen {config.ops.listen}: {exc.strerror}") from exc
    try:
        server = HttpServer(config.server, service.build_app())
    except ssl.SSLError as exc:
        raise StartRefusedError(f"[server] certificate_file, private_key_file: {exc}") from exc
    except OSError as exc:
        raise StartRefusedError(
            f"[server] {exc.filename or config.server.listen}: {exc.strerror}"
        ) from exc
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await ops.start()
        await server.start()
        _log.info("started", verifier_key=str(witness.key), logs=len(logs))
        await stop.wait()
    finally:
        await server.stop()
        await ops.stop()
        _log.info("stopped")
