"""``strongroom hsm roots`` and ``rotate-root``: the roots that wrapped keys lie under.

Both read the configuration of a server and work on its database and its token, beside the
running server or without one: the server sees a new root within a second or two.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from strongroom_server.cli.hsm_shards import ShardOption, choose_shard, open_store
from strongroom_server.cli.options import Format, OutputOption
from strongroom_server.cli.serve import ConfigFileOption

if TYPE_CHECKING:
    from strongroom_server.config import ShardConfig
    from strongroom_server.hsm.observer import PoolObserver
    from strongroom_server.ports import Clock, HsmToken, KeyStore
    from strongroom_server.services.root_rotation import RewrapProgress, RootRotator

__all__ = ["roots", "rotate_root"]

ROOT_COLUMNS: Final = ("root", "state", "versions", "create_time")
WAIT_SECONDS: Final = 0.5
STALLED_SECONDS: Final = 90.0
"""The server tries again what failed after a minute: by then it has done something, or cannot."""
HSM_GRACE_SECONDS: Final = 2.0

Cell = str | int | float | bool | None
Counted = Callable[[int, int], None] | None


def roots(
    *, config: ConfigFileOption, region: ShardOption = None, output: OutputOption = Format.TABLE
) -> None:
    """List the wrapping roots of a region.

    ACTIVE is the newest, which new keys are wrapped under; RETIRING has keys that are yet to
    be re-wrapped; RETIRED has none, but backups of the database may.
    """
    from strongroom_server.cli.config_kinds import load_server_config
    from strongroom_server.cli.output import print_rows

    shard = choose_shard(load_server_config(config).shards, region)
    print_rows(asyncio.run(_list_roots(shard)), ROOT_COLUMNS, output)


def rotate_root(
    *,
    config: ConfigFileOption,
    region: ShardOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the running server has re-wrapped all keys.")
    ] = False,
    rewrap: Annotated[
        bool, typer.Option("--rewrap", help="Re-wrap all keys here; with or without a server.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a new wrapping root in the HSM of a region.

    The running server wraps new keys under it at once, and re-wraps the others in the
    background; calls go on. While a rotation is under way no other one is begun: the
    command then goes on with that one.
    """
    from strongroom_server.cli.config_kinds import load_server_config
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.progress import counted

    if wait and rewrap:
        raise CliError.usage("--wait or --rewrap, not both")
    shard = choose_shard(load_server_config(config).shards, region)
    with _alone(shard), counted("re-wrapped", "key versions") as progress:
        fields = asyncio.run(_rotate(shard, wait=wait, rewrap=rewrap, progress=progress))
    print_fields(fields, output)


@contextlib.contextmanager
def _alone(shard: ShardConfig) -> Iterator[None]:
    """Keep a second command of this kind out.

    Two that make the same root would leave two objects of one name on the token. The lock
    is on the directory of the database, and goes with the process.

    Raises:
        CliError: Another one runs.
    """
    from strongroom_server.cli.failures import CliError

    with _directory(shard.store.parent) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CliError(
                "UNAVAILABLE", f"another command works on the roots of {shard.region}"
            ) from exc
        yield


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _open_token(shard: ShardConfig, clock: Clock) -> AsyncIterator[HsmToken]:
    from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings

    settings = SessionPoolSettings(
        module=shard.module,
        module_environment=shard.module_environment,
        module_parameters=shard.module_parameters,
        token_label=shard.token_label,
        pin_file=shard.pin_file,
        sessions=1,
    )
    pool = SessionPool(shard.region, settings, clock=clock, observer=_telling())
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(HSM_GRACE_SECONDS)


def _telling() -> PoolObserver:
    """Return an observer that tells what a person must look at: callers only hear of a fault."""
    from strongroom_server.cli.output import note
    from strongroom_server.hsm.observer import NullObserver

    class Telling(NullObserver):
        def alarm(self, category: str, text: str) -> None:
            note(f"{category}: {text}")

    return Telling()


async def _list_roots(shard: ShardConfig) -> list[dict[str, Cell]]:
    from strongroom_server.app import SystemClock

    async with open_store(shard, SystemClock()) as store:
        # Every version that is wrapped lies under another root than 0, which is none.
        wrapped = await store.count_stale_versions(0)
        return [
            {
                "region": shard.region,
                "root": root.number,
                "state": str(root.state),
                "versions": wrapped - await store.count_stale_versions(root.number),
                "create_time": root.create_time.isoformat(),
            }
            for root in await store.list_roots()
        ]


async def _rotate(
    shard: ShardConfig, *, wait: bool, rewrap: bool, progress: Counted
) -> dict[str, Cell]:
    from strongroom_server.app import SystemClock
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note

    clock = SystemClock()
    async with open_store(shard, clock) as store, contextlib.AsyncExitStack() as stack:
        if not await store.list_roots():
            raise CliError(
                "NO_WRAPPING_ROOT",
                f"region {shard.region} has no wrapping root yet",
                "the first key in wrapped storage makes it: `strongroom keys create "
                "--storage wrapped`",
            )
        # One session, one login; the PIN is tried once.
        token = await stack.enter_async_context(_open_token(shard, clock))
        work = _rotator(shard.region, token, store, clock)
        if await work.is_settled():
            number = await work.add()
            note(f"root {number} of {shard.region} is active")
        else:
            number = (await store.list_roots())[-1].number
            note(f"the rotation to root {number} of {shard.region} is not done yet: going on")
        if rewrap:
            tell = _teller(progress)
            # Versions that were added meanwhile; nothing tells when there are some.
            while not await work.settle(tell):  # noqa: ASYNC110 - see above
                await asyncio.sleep(WAIT_SECONDS)
        if wait:
            await _wait_for_server(store, work, number, progress, clock)
        return {
            "region": shard.region,
            "root": number,
            "stale_versions": await store.count_stale_versions(number),
        }


def _rotator(region: str, token: HsmToken, store: KeyStore, clock: Clock) -> RootRotator:
    from strongroom_server.audit.record import new_record_id
    from strongroom_server.services.records import Recorder
    from strongroom_server.services.root_rotation import RootRotator

    recorder = Recorder(
        clock=clock,
        new_record_id=lambda: new_record_id(clock.now(), os.urandom(10)),
        on_outcome=lambda *_: None,
    )
    return RootRotator(
        region,
        token=token,
        store=store,
        recorder=recorder,
        clock=clock,
        mutations=asyncio.Lock(),
    )


def _teller(progress: Counted) -> Callable[[RewrapProgress], None]:
    """Return what turns steps into (done, total) for a progress bar."""
    done = 0

    def tell(step: RewrapProgress) -> None:
        nonlocal done
        done += step.rewrapped
        if progress is not None:
            progress(done, done + step.stale)

    return tell


class _Rows(Protocol):
    """What is looked at of a store."""

    async def refresh(self) -> None:
        """See what other processes committed."""
        ...

    async def count_stale_versions(self, root: int) -> int:
        """Say how many versions lie under another root."""
        ...


class _Work(Protocol):
    """What is asked of a rotator."""

    async def is_settled(self) -> bool:
        """Say whether there is nothing left to do."""
        ...


async def _wait_for_server(
    store: _Rows, work: _Work, number: int, progress: Counted, clock: Clock
) -> None:
    """Wait until the running server has re-wrapped everything.

    The server is another process: its database is all that is seen of it.

    Raises:
        CliError: UNAVAILABLE: nothing happens any more.
    """
    from strongroom_server.cli.failures import CliError

    fewest: int | None = None
    since = clock.monotonic()
    while True:
        await store.refresh()
        stale = await store.count_stale_versions(number)
        if progress is not None:
            wrapped = await store.count_stale_versions(0)
            progress(wrapped - stale, wrapped)
        if await work.is_settled():
            return
        now = clock.monotonic()
        if fewest is None or stale < fewest:
            fewest, since = stale, now
        elif now - since > STALLED_SECONDS:
            raise CliError(
                "UNAVAILABLE",
                f"{stale} key versions are left, and none was re-wrapped for "
                f"{STALLED_SECONDS:.0f} s",
                "is the server running? Its log says why re-wrapping waits; --rewrap does it "
                "here, and names each key version that cannot be done",
            )
        await asyncio.sleep(WAIT_SECONDS)
