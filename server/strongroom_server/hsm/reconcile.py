"""Database against token: what one has and the other lacks. Pure comparison.

A key version is made in the HSM first and recorded afterwards. So an object without a
record may be a creation under way, and is an orphan only when two looks, apart by longer
than any creation can take, both show it so. A record without an object is a fault at
once: the record came second.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from strongroom_server.hsm.inventory import Item, ItemKind

__all__ = ["Difference", "Look", "Records", "Verdict", "compare", "unrecorded"]


class Verdict(enum.StrEnum):
    """What is wrong with a name."""

    ORPHAN = "orphan"
    """Objects of ours that no record names."""
    MISSING = "missing"
    """A record of an object that is not there: the key cannot be used."""
    UNSAFE = "unsafe"
    """Attributes that would let material or uses escape."""
    DUPLICATE = "duplicate"
    """Several objects of one name: which is the key?"""
    INCOMPLETE = "incomplete"
    """Half a pair."""


@dataclass(frozen=True, slots=True)
class Records:
    """What the database says, by labels.

    Attributes:
        versions: Key versions with an object each.
        roots: Wrapping roots.
        external: Those of `versions` whose material was brought from outside.
        transfers: Transfer keys: those of import tokens.
    """

    versions: frozenset[str]
    roots: frozenset[str]
    external: frozenset[str] = frozenset()
    transfers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """The token as it was, and the records as they were right after it."""

    items: tuple[Item, ...]
    records: Records


@dataclass(frozen=True, slots=True)
class Difference:
    """Something to tell.

    `can_be_destroyed` is false for roots: an older copy of the database may need them,
    with everything that lies under them.
    """

    verdict: Verdict
    kind: ItemKind
    name: str
    detail: str

    @property
    def can_be_destroyed(self) -> bool:
        """Whether `--apply` may destroy the objects of this name."""
        return self.verdict is Verdict.ORPHAN and self.kind is not ItemKind.ROOT


def unrecorded(look: Look) -> frozenset[str]:
    """Return the names of versions, roots and transfer keys that only the token knows."""
    return frozenset(
        item.name
        for item in look.items
        if (item.kind is ItemKind.VERSION and item.name not in look.records.versions)
        or (item.kind is ItemKind.ROOT and item.name not in look.records.roots)
        or (item.kind is ItemKind.TRANSFER and item.name not in look.records.transfers)
    )


def compare(first: Look, last: Look) -> list[Difference]:
    """Compare two looks, or the same one twice when nothing in it is unrecorded.

    Args:
        first: The earlier one.
        last: At least a creation's longest time later.
    """
    orphans = unrecorded(first) & unrecorded(last)
    found = [
        Difference(Verdict.ORPHAN, item.kind, item.name, _describe_orphan(item))
        for item in last.items
        if item.name in orphans
    ]
    there = {item.name for item in last.items if item.materials}
    for kind, before, now in (
        (ItemKind.VERSION, first.records.versions, last.records.versions),
        (ItemKind.ROOT, first.records.roots, last.records.roots),
    ):
        found += [
            Difference(Verdict.MISSING, kind, name, "recorded, and not on the token")
            for name in sorted((before & now) - there)
        ]
    found += _judge_origins(first.records, last)
    found += _judge(item for item in last.items if item.name not in orphans)
    return found


def _describe_orphan(item: Item) -> str:
    objects = item.materials + item.publics
    text = f"{objects} object{'s' if objects != 1 else ''} without a record"
    if item.kind is ItemKind.ROOT:
        text += "; never destroyed here: an older copy of the database may need it"
    return text


def _judge_origins(before: Records, last: Look) -> list[Difference]:
    """Find material that is not from where the records say; workers refuse it."""
    found = []
    for item in last.items:
        name = item.name
        if item.kind is not ItemKind.VERSION or name not in before.versions & last.records.versions:
            continue
        if item.is_imported is not (name in last.records.external):
            where = "brought from outside" if item.is_imported else "made in the HSM"
            text = f"its material was {where}, and its record says otherwise"
            found.append(Difference(Verdict.UNSAFE, item.kind, name, text))
    return found


def _judge(items: Iterable[Item]) -> list[Difference]:
    """Find what is wrong with items in themselves."""
    found = []
    for item in items:
        if item.weakness:
            found.append(Difference(Verdict.UNSAFE, item.kind, item.name, item.weakness))
        if item.kind in {ItemKind.FOREIGN, ItemKind.TRANSFER, ItemKind.UNREADABLE}:
            continue
        if item.materials > 1 or item.publics > 1:
            detail = f"{item.materials} secret or private and {item.publics} public keys"
            found.append(Difference(Verdict.DUPLICATE, item.kind, item.name, detail))
        elif item.materials and item.is_pair != bool(item.publics):
            lacking = "public" if item.is_pair else "private"
            found.append(
                Difference(Verdict.INCOMPLETE, item.kind, item.name, f"without its {lacking} key")
            )
    return found
