"""Rotation of the wrapping root: add one, re-wrap what is stale, retire the old ones.

(docs/formats/wrapped-material-v1.md, Rotation)

What has been done is what the store says and nothing else: a version lies under the root
that its row names. So everything here can be cut off at any point and begun again, and
two processes can do it at once: a version is replaced only when it is still as it was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from strongroom_server.domain.keys import KeyMaterial, KeyVersionRef, WrappedMaterial
from strongroom_server.errors import EtagMismatchError, HsmUnavailableError, StrongroomError
from strongroom_server.mutations import (
    AddRoot,
    Change,
    Mutation,
    RetireRoot,
    RewrappedVersion,
    RootState,
)
from strongroom_server.ports import Clock, HsmToken, KeyStore
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.services.root_book import PRINCIPAL

__all__ = ["RETIRE_METHOD", "ROTATE_METHOD", "RewrapProgress", "RootRotator", "root_name"]

ROTATE_METHOD: Final = "RotateWrappingRoot"
RETIRE_METHOD: Final = "RetireWrappingRoot"

BATCH_VERSIONS: Final = 64
# Of a batch, so many are with the HSM at once: a call waits behind these at most.
IN_FLIGHT: Final = 8
# After a batch, a pause as long as the batch took: callers have at least half of the HSM,
# and more of it the busier it is.
MIN_PAUSE_SECONDS: Final = 0.01
MAX_PAUSE_SECONDS: Final = 5.0
HSM_TIMEOUT_SECONDS: Final = 10.0
# So many that fail one by one beside others that work are gone round; more are a fault of
# the HSM or the database, not of single versions.
MAX_SET_ASIDE: Final = 256


@dataclass(frozen=True, slots=True)
class RewrapProgress:
    """One step of re-wrapping.

    Attributes:
        root: The newest root, the one that is wrapped under.
        rewrapped: Versions that this step replaced.
        failed: Versions that this step could not re-wrap; they are tried again.
        stale: Versions that still lie under an older root.
    """

    root: int
    rewrapped: int
    failed: int
    stale: int


def root_name(region: str, number: int) -> str:
    """Return what audit records call a root."""
    return f"regions/{region}/wrapping-roots/{number}"


class RootRotator:
    """Rotates the root of one shard. Holds no state of its own.

    Owned by one event loop. `mutations` is the shard's lock (shards/topology.py): a root is
    retired under it, so no change of this process wraps under a root that goes meanwhile.
    """

    def __init__(
        self,
        region: str,
        *,
        token: HsmToken,
        store: KeyStore,
        recorder: Recorder,
        clock: Clock,
        mutations: asyncio.Lock,
    ) -> None:
        self._region = region
        self._token = token
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._mutations = mutations

    async def add(self) -> int:
        """Make the next root, on the token first; return its number.

        From here on new versions are wrapped under it. A crash before the commit leaves a
        root on the token that the store does not know; the next call finds and takes it.

        Only one process at a time may do this for a shard: two that generated one root
        would leave two objects of one name, and which is used would be chance.

        Raises:
            StrongroomError: The HSM or the store fails; nothing has changed.
        """
        async with self._mutations:
            roots = await self._store.list_roots()
            number = roots[-1].number + 1 if roots else 1
            deadline = self._clock.monotonic() + HSM_TIMEOUT_SECONDS
            await self._token.create_root(number, deadline=deadline)
            await self._commit(AddRoot(number, self._clock.now()), ROTATE_METHOD, number)
        return number

    async def is_settled(self) -> bool:
        """Say whether there is nothing to re-wrap and nothing to retire."""
        roots = await self._store.list_roots()
        if not roots:
            return True
        if any(root.state is RootState.RETIRING for root in roots):
            return False
        # Another server process may have wrapped under a root that it did not know to be old.
        return not await self._store.stale_versions(roots[-1].number, limit=1)

    async def settle(self, on_progress: Callable[[RewrapProgress], None]) -> bool:
        """Re-wrap every stale version under the newest root, then retire the older ones.

        Returns:
            Whether all is done; when not, versions were added meanwhile: call it again.

        Raises:
            StrongroomError: Versions are left that the HSM or the store could not do. What
                was done is done.
        """
        roots = await self._store.list_roots()
        if not roots:
            return True
        newest = roots[-1].number
        problem = await self._rewrap_stale(newest, on_progress)
        left = await self._store.count_stale_versions(newest)
        on_progress(RewrapProgress(newest, 0, 0, left))
        if problem is not None:
            raise problem
        return left == 0 and await self._retire_older(newest)

    async def _rewrap_stale(
        self, newest: int, on_progress: Callable[[RewrapProgress], None]
    ) -> StrongroomError | None:
        """Go through the stale versions once; return why some were left, if some were."""
        stale = await self._store.count_stale_versions(newest)
        on_progress(RewrapProgress(newest, 0, 0, stale))
        set_aside: set[KeyVersionRef] = set()
        problem: StrongroomError | None = None
        while batch := await self._next_batch(newest, set_aside):
            began = self._clock.monotonic()
            done, errors = await self._rewrap_batch(batch, newest)
            replaced = await self._store.replace_wrapped(done) if done else 0
            stale = max(stale - replaced, 0)
            on_progress(RewrapProgress(newest, replaced, len(errors), stale))
            for ref, error in errors.items():
                problem = error
                set_aside.add(ref)
            if problem is not None and (not done or len(set_aside) > MAX_SET_ASIDE):
                return problem
            if replaced == 0:
                # Done by another process between our reading and our writing; not asked
                # for again in this round, so that it ends whatever the store says.
                set_aside.update(version.ref for version in done)
            spent = self._clock.monotonic() - began
            await asyncio.sleep(min(max(spent, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))
        return problem

    async def _next_batch(
        self, newest: int, set_aside: set[KeyVersionRef]
    ) -> Sequence[KeyMaterial]:
        limit = BATCH_VERSIONS + len(set_aside)
        found = await self._store.stale_versions(newest, limit=limit)
        return [material for material in found if material.ref not in set_aside][:BATCH_VERSIONS]

    async def _rewrap_batch(
        self, batch: Sequence[KeyMaterial], newest: int
    ) -> tuple[list[RewrappedVersion], dict[KeyVersionRef, StrongroomError]]:
        """Re-wrap a batch; return what came out, and what went wrong by version."""
        gate = asyncio.Semaphore(IN_FLIGHT)
        errors: dict[KeyVersionRef, StrongroomError] = {}

        async def one(material: KeyMaterial) -> RewrappedVersion | None:
            before = material.wrapped
            if before is None:  # the store lists wrapped versions only
                return None
            async with gate:
                try:
                    after = await self._rewrap(material, before, newest)
                except StrongroomError as error:
                    errors[material.ref] = error
                    return None
            return RewrappedVersion(material.ref, before, after)

        results = await asyncio.gather(*map(one, batch))
        return [result for result in results if result is not None], errors

    async def _rewrap(
        self, material: KeyMaterial, before: WrappedMaterial, newest: int
    ) -> WrappedMaterial:
        """Re-wrap one version, and require that it is the same material: the only copy soon.

        AES key wrap is deterministic (RFC 3394, 2.2.1), so wrapped back under the old root
        it must be the old bytes. An HSM that corrupts silently, or shows two workers two
        roots of one number, would lose a key for ever.

        Raises:
            HsmUnavailableError: It is not the same, or the HSM fails.
        """
        deadline = self._clock.monotonic() + HSM_TIMEOUT_SECONDS
        after = await self._token.rewrap(material, newest, deadline=deadline)
        back = await self._token.rewrap(
            replace(material, wrapped=after), before.root, deadline=deadline
        )
        if back != before:
            raise HsmUnavailableError(
                self._region, "the HSM re-wrapped a key version to something else"
            )
        return after

    async def _retire_older(self, newest: int) -> bool:
        """Retire every root but the newest; say whether nothing came in between."""
        async with self._mutations:
            roots = await self._store.list_roots()
            if roots[-1].number != newest or await self._store.count_stale_versions(newest):
                return False
            for root in roots:
                if root.state is RootState.RETIRING:
                    change = RetireRoot(root.number, self._clock.now())
                    try:
                        await self._commit(change, RETIRE_METHOD, root.number)
                    except EtagMismatchError:
                        # Retired by another process, or a version was wrapped under it
                        # since we counted: the next round sees which.
                        return False
        return True

    async def _commit(self, change: Change, method: str, number: int) -> None:
        """Commit a root's change with its record, which the server moves to its spool."""
        deadline = self._clock.monotonic() + HSM_TIMEOUT_SECONDS
        caller = Caller(PRINCIPAL, "", "", deadline, deadline)
        trace = Trace(method, root_name(self._region, number), policy="wrapping-roots")
        await self._store.commit(Mutation(change, self._recorder.draft(caller, trace)))
