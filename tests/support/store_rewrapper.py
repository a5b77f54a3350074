"""A process that re-wraps every key of a metadata store, round after round, until it is killed.

    python store_rewrapper.py DATABASE

One line on standard output for each commit that returned: the root, and how many versions
lie under it at least.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.store_samples import (
    REGION,
    SteppingClock,
    make_material,
    new_root,
    retirement,
)

from strongroom_server.domain.keys import WrappedMaterial
from strongroom_server.mutations import RewrappedVersion, RootState
from strongroom_server.store import SqliteKeyStore

BATCH = 16


def material_of(description: str, root: int) -> WrappedMaterial:
    """Return what stands for the material of the key with this description under a root."""
    return make_material(root, root * 2**32 + int(description))


async def main(path: Path) -> None:
    """Re-wrap for ever; a round that was cut off is taken up where it was."""
    store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    while True:
        roots = await store.list_roots()
        active = roots[-1].number
        if all(root.state is not RootState.RETIRING for root in roots):
            active += 1
            await store.commit(new_root(active))
        replaced = 0
        while stale := await store.stale_versions(active, limit=BATCH):
            batch = []
            for material in stale:
                key = await store.find_key(material.ref.key_id)
                if key is None or material.wrapped is None:
                    raise SystemExit("a version belongs to nothing")
                after = material_of(key.description, active)
                batch.append(RewrappedVersion(material.ref, material.wrapped, after))
            replaced += await store.replace_wrapped(batch)
            await store.reserve_uses(stale[0].ref, 1)
            sys.stdout.write(f"{active} {replaced}\n")
            sys.stdout.flush()
        for root in roots:
            if root.number != active and root.state is not RootState.RETIRED:
                await store.commit(retirement(root.number))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
