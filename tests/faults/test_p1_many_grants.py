"""50,000 grants on a key: deciding costs what it costs without, and memory is bounded."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from tests.support.store_samples import REGION, START, SteppingClock, creation, make_key, mutation

from strongroom_server.domain.grants import MAX_GRANTS_PER_KEY, Constraint, ConstraintKind, Grant
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action, default_policy
from strongroom_server.errors import LimitExceededError
from strongroom_server.mutations import CreateGrant
from strongroom_server.services.authorization import Authorization
from strongroom_server.store import SqliteKeyStore, schema
from strongroom_server.store.connection import SqliteConnection
from strongroom_server.store.grant_cache import MAX_CACHED_GRANTS
from strongroom_server.store.grant_rows import ALL_GRANTEES, GrantBook, to_grant_row

OWNER, WORKER = "spiffe://example.org/owner", "spiffe://example.org/worker"
DECISIONS = 3_000


def _grant(key: Key, number: int, grantee: str) -> Grant:
    return Grant(
        grant_id=uuid.uuid4(),
        region=REGION,
        key_id=key.key_id,
        grantee=grantee,
        operations=(Action.DECRYPT, Action.GENERATE_DATA_KEY),
        constraint=Constraint(ConstraintKind.SUBSET, (("order", str(number)), ("tenant", "7"))),
        retiring="",
        name="",
        issuer=OWNER,
        create_time=START + timedelta(seconds=number),
    )


def _fill(path: Path, key: Key, grants: list[Grant]) -> None:
    """Insert grants as commits would have left them, in one transaction."""
    counts: dict[str, int] = {ALL_GRANTEES: len(grants)}
    for grant in grants:
        counts[grant.grantee] = counts.get(grant.grantee, 0) + 1
    database = SqliteConnection(path, writes=True)
    with database.transaction() as connection:
        connection.execute(insert(schema.grants), [to_grant_row(grant) for grant in grants])
        connection.execute(
            insert(schema.grant_books),
            [GrantBook(key.key_id, who, n, 1).to_row() for who, n in counts.items()],
        )
    database.close()


async def _microseconds(
    authorization: Authorization, store: SqliteKeyStore, key: Key, who: str, orders: list[int]
) -> float:
    """Return the CPU time of a decision, allowed by a grant or by the policy."""
    start = time.process_time()
    for number in orders:
        await authorization.authorize(
            who,
            Action.DECRYPT,
            key,
            {"order": str(number), "tenant": "7"},
            asked_name="",
            permissions=store.permissions,
        )
    return (time.process_time() - start) / len(orders) * 1e6


@pytest.mark.timeout(300)
async def test_fifty_thousand_grants_do_not_slow_a_key(
    tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The owner pays nothing for them; a grantee pays for its own, and a read when it is new."""
    path = tmp_path / "store.db"
    store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    authorization = Authorization(
        administrators=frozenset(), key_creators=frozenset(), on_decision=lambda _: None
    )
    few, many = (dataclasses.replace(make_key(), policy=default_policy(OWNER)) for _ in range(2))
    for key in (few, many):
        await store.commit(creation(key))
    # WORKER has one grant on one key; 1,000 on the other, where others have 49,000.
    _fill(path, few, [_grant(few, 0, WORKER)])
    mine = [_grant(many, number, WORKER) for number in range(1_000)]
    others = [
        _grant(many, n, f"spiffe://example.org/w{n}") for n in range(MAX_GRANTS_PER_KEY - 1_000)
    ]
    _fill(path, many, mine + others)

    cold = time.process_time()
    await store.permissions.find_grants(many.key_id, WORKER)
    cold_1000_ms = (time.process_time() - cold) * 1e3
    cold = time.process_time()
    for number in range(200):
        await store.permissions.find_grants(many.key_id, f"spiffe://example.org/w{number}")
    cold_us = (time.process_time() - cold) / 200 * 1e6

    found = {}
    for name, key, who, order in (
        ("owner_us_few", few, OWNER, 0),
        ("owner_us_50000", many, OWNER, 0),
        ("grantee_us_1_grant", few, WORKER, 0),
        ("grantee_us_1000_of_50000", many, WORKER, 999),
        ("other_grantee_us_1_of_50000", many, "spiffe://example.org/w7", 7),
    ):
        await _microseconds(authorization, store, key, who, [order])
        found[name] = min(
            [
                await _microseconds(authorization, store, key, who, [order] * DECISIONS)
                for _ in range(3)
            ]
        )
    tracemalloc.start()
    for number in range(200, 1_200):
        await store.permissions.find_grants(many.key_id, f"spiffe://example.org/w{number}")
    held_kib = tracemalloc.get_traced_memory()[0] / 1024
    tracemalloc.stop()
    assert store.permissions.cache.held <= MAX_CACHED_GRANTS
    # Generous: what is looked at is indexed, so the figures are the same within noise.
    assert found["owner_us_50000"] < 5 * found["owner_us_few"] + 20
    assert found["grantee_us_1000_of_50000"] < 5 * found["grantee_us_1_grant"] + 20
    with pytest.raises(LimitExceededError):
        await store.commit(mutation(many, CreateGrant(_grant(many, 1, "spiffe://one/more"))))
    figures(
        **found,
        first_use_cpu_us_1_grant=cold_us,
        first_use_cpu_ms_1000_grants=cold_1000_ms,
        kib_for_1000_principals=held_kib,
    )
    await store.close()
