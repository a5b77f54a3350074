"""The keys in memory: never more than the bound, never going back."""

from __future__ import annotations

import dataclasses
import uuid
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.store_samples import REGION, START, make_key, make_material

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyState, KeyVersion
from strongroom_server.store.key_cache import KeyCache, StoredAlias, StoredKey

IDS = [uuid.UUID(int=number) for number in range(1, 7)]


def test_an_older_row_never_replaces_a_newer_one() -> None:
    """A row read before a commit cannot undo it in memory."""
    cache = KeyCache(10)
    key = make_key()
    disabled = dataclasses.replace(key, state=KeyState.DISABLED, revision=2)
    assert cache.put_key(StoredKey(disabled, 9))
    assert not cache.put_key(StoredKey(key, 8))
    cache.replace_key(StoredKey(key, 7))
    assert cache.key(key.key_id) == disabled


def test_reserved_uses_and_wrapping_alone_are_not_a_change() -> None:
    """Listeners hear of revisions only."""
    cache = KeyCache(10)
    key = make_key(wrapped=make_material(1))
    cache.put_key(StoredKey(key, 1))
    used = dataclasses.replace(key, versions=(KeyVersion(1, key.create_time, 5, make_material(2)),))
    assert not cache.put_key(StoredKey(used, 2))
    assert cache.key(key.key_id) == used


def test_what_is_only_to_be_replaced_is_not_taken_in() -> None:
    """A re-wrapped key that nobody uses does not push out one that is used."""
    cache = KeyCache(10)
    key = make_key()
    cache.replace_key(StoredKey(key, 1))
    assert cache.key(key.key_id) is None
    assert len(cache) == 0


def test_aliases_have_the_same_bound() -> None:
    """The alias not used for longest goes first; a newer row drops an older one."""
    cache = KeyCache(2)
    names = [AliasName(REGION, name) for name in "abc"]
    for number, name in enumerate(names[:2], start=1):
        cache.put_alias(StoredAlias(Alias(name, IDS[0], START), number))
    assert cache.alias(names[0]) is not None
    cache.put_alias(StoredAlias(Alias(names[2], IDS[0], START), 3))
    assert [cache.alias(name) is not None for name in names] == [True, False, True]
    cache.drop_older_aliases([(names[0], 1), (names[2], 4), (names[1], 9)])
    assert [cache.alias(name) is not None for name in names] == [True, False, False]
    assert cache.aliases == 1


def test_a_cache_without_room_is_a_mistake() -> None:
    """The bound is at least one."""
    with pytest.raises(ValueError, match="room"):
        KeyCache(0)


_Step = tuple[str, int, int]
_steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "replace", "use", "drop", "drop_all"]),
        st.integers(0, len(IDS) - 1),
        st.integers(1, 9),
    ),
    max_size=60,
)


@given(limit=st.integers(1, 4), steps=_steps)
def test_the_bound_holds_and_the_last_used_stay(  # noqa: C901 - one case for each thing a cache can be told
    limit: int, steps: list[_Step]
) -> None:
    """Against a model: size, order of going, and the newest row of each key."""
    cache = KeyCache(limit)
    model: OrderedDict[uuid.UUID, int] = OrderedDict()
    for action, which, number in steps:
        key_id = IDS[which]
        known = model.get(key_id)
        match action:
            case "put":
                cache.put_key(_stored(key_id, number))
                if known is None or known < number:
                    model[key_id] = number
                    model.move_to_end(key_id)
                    if len(model) > limit:
                        model.popitem(last=False)
            case "replace":
                cache.replace_key(_stored(key_id, number))
                if known is not None and known < number:
                    model[key_id] = number
            case "use":
                found = cache.key(key_id)
                assert found == (None if known is None else _stored(key_id, known).key)
                if known is not None:
                    model.move_to_end(key_id)
            case "drop":
                dropped = cache.drop_older_keys([(key_id, number)])
                assert dropped == ([key_id] if known is not None and known < number else [])
                if dropped:
                    del model[key_id]
            case _:
                assert cache.drop_everything() == list(model)
                model.clear()
        assert len(cache) <= limit
        assert list(cache) == list(model)


def _stored(key_id: uuid.UUID, number: int) -> StoredKey:
    key: Key = make_key(key_id=key_id, description=f"row {number}")
    return StoredKey(dataclasses.replace(key, revision=number), number)
