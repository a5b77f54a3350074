"""A process that changes a metadata store until it is killed; says what was committed.

    python store_writer.py DATABASE SEED

One line on standard output for each commit that returned: outbox id, key id, revision and
reserved uses that the key has at least from now on.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import timedelta
from pathlib import Path

from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    creation,
    make_key,
    make_memo,
    new_alias,
    new_version,
    state_change,
)

from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.store import SqliteKeyStore


async def main(path: Path, seed: int) -> None:
    """Commit for ever."""
    choose = random.Random(seed)  # noqa: S311 - which change comes next
    store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    keys: list[Key] = []
    count = 0
    while True:
        count += 1
        kind = choose.randrange(5) if keys else 0
        outbox_id = 0
        if kind == 0:
            key = make_key(create_time=START + timedelta(seconds=count))
            outbox_id = await store.commit(creation(key, make_memo(f"{seed}-{count}")))
            keys.append(key)
        else:
            found = await store.find_key(choose.choice(keys).key_id)
            if found is None:
                raise SystemExit("a committed key is not in memory")
            key = found
            if kind == 1:
                outbox_id = await store.commit(state_change(key, KeyState.DISABLED))
            elif kind == 2:
                outbox_id = await store.commit(new_version(key))
            elif kind == 3:
                outbox_id = await store.commit(new_alias(key, f"a{seed}-{count}"))
            else:
                await store.reserve_uses(key.version_ref(1), 16)
        now = await store.find_key(key.key_id)
        if now is None:
            raise SystemExit("a committed key is not in memory")
        uses = now.versions[0].reserved_uses
        sys.stdout.write(f"{outbox_id} {key.key_id} {now.revision} {uses}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
