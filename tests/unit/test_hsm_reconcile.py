"""Database against token: what is told of which difference."""

from __future__ import annotations

from strongroom_server.hsm.inventory import Item, ItemKind
from strongroom_server.hsm.reconcile import Difference, Look, Records, Verdict, compare, unrecorded

A, B = "strongroom/aaaa/1", "strongroom/bbbb/1"
ROOT = "strongroom-root/1"
TRANSFER = "strongroom-transfer/x"


def version(name: str, *, materials: int = 1, publics: int = 0, **changes: object) -> Item:
    """Return a key version on a token."""
    values: dict[str, object] = {
        "kind": "version",
        "name": name,
        "materials": materials,
        "publics": publics,
        "is_pair": publics > 0,
        "weakness": "",
        **changes,
    }
    return Item.from_json(values)


def look(*items: Item, versions: tuple[str, ...] = (), roots: tuple[str, ...] = ()) -> Look:
    """Return a look."""
    return Look(items, Records(frozenset(versions), frozenset(roots)))


def told(found: list[Difference]) -> list[tuple[Verdict, str]]:
    """Return the gist of differences."""
    return [(each.verdict, each.name) for each in found]


def test_agreement_is_silent() -> None:
    """What both have is not told; neither are others' objects."""
    root = version(ROOT, kind="root")
    others = version("", kind="foreign", materials=12)
    transfer = version(TRANSFER, kind="transfer", publics=1)
    records = Records(frozenset({A}), frozenset({ROOT}), transfers=frozenset({TRANSFER}))
    both = Look((version(A), root, others, transfer), records)
    assert not unrecorded(both)
    assert not compare(both, both)


def test_an_orphan_is_one_twice() -> None:
    """An object without a record is an orphan when it still has none at the second look."""
    before = look(version(A), version(B), versions=(A,))
    assert unrecorded(before) == {B}
    found = compare(before, before)
    assert told(found) == [(Verdict.ORPHAN, B)]
    assert found[0].can_be_destroyed


def test_a_transfer_key_without_a_token_is_an_orphan() -> None:
    """A wrapping key that no import token names is told, and may be destroyed."""
    left = look(version(TRANSFER, kind="transfer", publics=1))
    assert unrecorded(left) == {TRANSFER}
    found = compare(left, left)
    assert told(found) == [(Verdict.ORPHAN, TRANSFER)]
    assert found[0].can_be_destroyed


def test_material_of_another_origin_is_told() -> None:
    """A planted object in a key's place is UNSAFE, and so is the opposite."""
    planted = look(version(A, is_imported=True), versions=(A,))
    records = Records(frozenset({A}), frozenset(), external=frozenset({A}))
    for seen in (planted, Look((version(A),), records)):
        found = compare(seen, seen)
        assert told(found) == [(Verdict.UNSAFE, A)]
        assert "its record says otherwise" in found[0].detail
    brought = Look((version(A, is_imported=True),), records)
    assert not compare(brought, brought)


def test_a_creation_under_way_is_no_orphan() -> None:
    """What gets its record between the looks, or appears at the second only, is left alone."""
    before = look(version(A), version(B), versions=(A,))
    assert not compare(before, look(version(A), version(B), versions=(A, B)))
    assert not compare(look(version(A), versions=(A,)), before)


def test_a_missing_object_is_told() -> None:
    """A record without an object is told, unless the record is new or gone."""
    found = compare(look(versions=(A,), roots=(ROOT,)), look(versions=(A,), roots=(ROOT,)))
    assert told(found) == [(Verdict.MISSING, A), (Verdict.MISSING, ROOT)]
    assert not any(each.can_be_destroyed for each in found)
    assert not compare(look(), look(versions=(A,)))


def test_a_root_is_never_destroyed() -> None:
    """An unrecorded root is told; older copies of the database may need it."""
    orphan = look(version(ROOT, kind="root"))
    found = compare(orphan, orphan)
    assert told(found) == [(Verdict.ORPHAN, ROOT)]
    assert not found[0].can_be_destroyed


def test_what_is_wrong_in_itself_is_told() -> None:
    """Unsafe attributes, several objects of one name, half a pair."""
    items = (
        version("strongroom/u/1", weakness="CKA_EXTRACTABLE is True"),
        version("strongroom/d/1", materials=2),
        version("strongroom/p/1", is_pair=True),
        version("strongroom/q/1", materials=1, publics=1, is_pair=True),
    )
    both = look(*items, versions=tuple(item.name for item in items))
    assert told(compare(both, both)) == [
        (Verdict.UNSAFE, "strongroom/u/1"),
        (Verdict.DUPLICATE, "strongroom/d/1"),
        (Verdict.INCOMPLETE, "strongroom/p/1"),
    ]


def test_a_public_key_alone_is_a_missing_key() -> None:
    """The half that is left of a pair does not stand for the key."""
    both = look(version(A, materials=0, publics=1, is_pair=False), versions=(A,))
    assert told(compare(both, both)) == [(Verdict.MISSING, A)]


def test_items_cross_the_pipe() -> None:
    """An item is what it was on the other side."""
    item = version(A, publics=1, weakness="w")
    assert Item.from_json(item.to_json()) == item
    assert item.kind is ItemKind.VERSION
