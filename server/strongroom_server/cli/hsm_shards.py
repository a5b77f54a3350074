"""Which shard a command on an HSM is about, its token, and its database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from strongroom_server.config import ShardConfig
    from strongroom_server.hsm.errand import HsmTarget
    from strongroom_server.ports import Clock
    from strongroom_server.store.sqlite_store import SqliteKeyStore

__all__ = ["ShardOption", "choose_shard", "open_store", "target_of"]

ShardOption = Annotated[
    str | None,
    typer.Option("--region", metavar="REGION", help="Which of the configuration's regions."),
]


def choose_shard(shards: tuple[ShardConfig, ...], region: str | None) -> ShardConfig:
    """Return the shard that is meant; a server with several needs to be told.

    Raises:
        CliError: USAGE.
    """
    from strongroom_server.cli.failures import CliError

    found = [shard for shard in shards if region in {None, shard.region}]
    if len(found) == 1:
        return found[0]
    hosted = ", ".join(shard.region for shard in shards)
    raise CliError.usage(f"--region: the configuration has {hosted}")


def target_of(shard: ShardConfig) -> HsmTarget:
    """Return a shard's token."""
    from strongroom_server.hsm.errand import HsmTarget

    return HsmTarget(
        module=shard.module,
        token_label=shard.token_label,
        pin_file=shard.pin_file,
        environment=shard.module_environment,
        parameters=shard.module_parameters,
    )


@contextlib.asynccontextmanager
async def open_store(shard: ShardConfig, clock: Clock) -> AsyncIterator[SqliteKeyStore]:
    """Open a shard's database, beside the running server or without one.

    Raises:
        CliError: CONFIGURATION: there is none.
        StartRefusedError: It is not one, or damaged.
    """
    from strongroom_server.cli.failures import CliError
    from strongroom_server.store.sqlite_store import SqliteKeyStore

    if not shard.store.is_file():
        # Opening would make an empty one: only the server's first start may do that.
        raise CliError("CONFIGURATION", f"{shard.store}: no such database; start the server first")
    store = await SqliteKeyStore.open(shard.store, shard.region, clock=clock)
    try:
        yield store
    finally:
        await store.close()
