"""The catalog in memory: order, counts, and never going back."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta

from tests.support.store_samples import START, make_key

from strongroom_server.domain.keys import KeyState, KeyVersion
from strongroom_server.store.catalog import Catalog, StoredKey


def test_keys_are_listed_by_age_then_id_whatever_order_they_came_in() -> None:
    """Equal times are ordered by key id, and late arrivals take their place."""
    catalog = Catalog()
    keys = [
        make_key(key_id=uuid.UUID(int=i % 7 + 1), create_time=START + timedelta(seconds=i // 3))
        for i in range(7)
    ]
    for number, key in enumerate(reversed(keys), start=1):
        catalog.put_key(StoredKey(key, number))
    listed = list(catalog.list_keys(after=None))
    assert listed == sorted(keys, key=lambda key: (key.create_time, key.key_id))
    position = (listed[2].create_time, listed[2].key_id)
    assert list(catalog.list_keys(after=position)) == listed[3:]
    assert not catalog.list_keys(after=(listed[-1].create_time, listed[-1].key_id))


def test_a_range_keeps_its_keys_while_others_arrive() -> None:
    """Pages that are being read neither shift nor grow."""
    catalog = Catalog()
    old = [make_key(create_time=START + timedelta(seconds=i)) for i in range(4)]
    for number, key in enumerate(old, start=1):
        catalog.put_key(StoredKey(key, number))
    listed = catalog.list_keys(after=None)
    catalog.put_key(StoredKey(make_key(create_time=START - timedelta(days=1)), 5))
    catalog.put_key(StoredKey(make_key(create_time=START + timedelta(days=1)), 6))
    assert list(listed) == old
    assert list(listed[1:3]) == old[1:3]
    assert listed[-1] == old[-1]
    assert len(catalog.list_keys(after=None)) == 6


def test_an_older_row_never_replaces_a_newer_one() -> None:
    """A snapshot taken before a commit cannot undo it in memory."""
    catalog = Catalog()
    key = make_key()
    disabled = dataclasses.replace(key, state=KeyState.DISABLED, revision=2)
    assert catalog.put_key(StoredKey(disabled, 9))
    assert not catalog.put_key(StoredKey(key, 8))
    assert catalog.find_key(key.key_id) == disabled


def test_reserved_uses_alone_are_not_a_change() -> None:
    """Listeners hear of revisions only."""
    catalog = Catalog()
    key = make_key()
    catalog.put_key(StoredKey(key, 1))
    used = dataclasses.replace(key, versions=(KeyVersion(1, key.create_time, 5),))
    assert not catalog.put_key(StoredKey(used, 2))
    assert catalog.find_key(key.key_id) == used


def test_counts_follow_every_change() -> None:
    """States and versions are counted as keys change."""
    catalog = Catalog()
    key = make_key()
    catalog.put_key(StoredKey(key, 1))
    catalog.put_key(StoredKey(make_key(), 2))
    rotated = dataclasses.replace(
        key,
        state=KeyState.DISABLED,
        revision=3,
        versions=(*key.versions, KeyVersion(2, START, 0)),
    )
    catalog.put_key(StoredKey(rotated, 3))
    counts = catalog.counts()
    assert counts.keys_by_state == {KeyState.ENABLED: 1, KeyState.DISABLED: 1}
    assert counts.versions == 3
    assert counts.aliases == 0
