"""What is on a token, by name: key versions, wrapping roots, transfer keys; and others' objects.

A name is a CKA_LABEL that goes with its CKA_ID (`key_template`). Both halves of a pair
are one item.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, root_check
from strongroom_server.hsm.capabilities import Capabilities
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.return_codes import Action, KeyUnsafeError, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.token_objects import find_patiently, judge, judge_public
from strongroom_server.hsm.unreadable import UnreadableObjects

__all__ = ["Item", "ItemKind", "destroy_named", "list_objects"]

_NAMES: Final = ("CLASS", "ID", "LABEL")
_READ: Final = {
    ck.CKO_SECRET_KEY: tuple(dict.fromkeys((*_NAMES, *key_template.CHECKED_SECRET))),
    ck.CKO_PRIVATE_KEY: tuple(dict.fromkeys((*_NAMES, *key_template.CHECKED_SECRET))),
    ck.CKO_PUBLIC_KEY: tuple(dict.fromkeys((*_NAMES, *key_template.CHECKED_PUBLIC))),
}
_TRANSFER_PREFIX: Final = key_template.label_for_transfer(bytes(16)).partition("/")[0] + "/"


class ItemKind(enum.StrEnum):
    """What an item is."""

    VERSION = "version"
    ROOT = "root"
    TRANSFER = "transfer"
    FOREIGN = "foreign"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Item:
    """Objects of the token that carry one name.

    Attributes:
        kind: What it is; FOREIGN counts all objects that are not ours, UNREADABLE those that
            may be anybody's, without names.
        name: The label, without ``/imported`` and ``/public``.
        materials: Secret and private keys; one is right.
        publics: Public keys; one beside a private key is right.
        is_pair: The material is a private key.
        weakness: What is wrong with its attributes; empty when nothing is.
        is_imported: The material says that it was brought from outside.
    """

    kind: ItemKind
    name: str
    materials: int
    publics: int
    is_pair: bool
    weakness: str
    is_imported: bool = False

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "kind": self.kind.value,
            "name": self.name,
            "materials": self.materials,
            "publics": self.publics,
            "is_pair": self.is_pair,
            "weakness": self.weakness,
            "is_imported": self.is_imported,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take what `to_json` made."""
        return cls(**{**values, "kind": ItemKind(values["kind"])})


@dataclass(slots=True)
class _Draft:
    kind: ItemKind
    name: str
    ref: bytes
    materials: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    publics: list[Mapping[str, object]] = field(default_factory=list)
    handles: list[KeyHandle] = field(default_factory=list)  # of `materials`


def list_objects(session: TokenSession, capabilities: Capabilities) -> list[Item]:
    """Read every key on the token, and judge ours.

    Raises:
        ReturnCodeError: Session, token or module failed.
    """
    drafts: dict[str, _Draft] = {}
    foreign = 0
    unreadable = UnreadableObjects(session.check_present)
    for object_class, names in _READ.items():
        for handle in find_patiently(session, {"TOKEN": True, "CLASS": object_class}):
            shown = unreadable.read(session, handle, names)
            if shown is not None and not _sort(drafts, handle, shown):
                foreign += 1
    items = [_judged(session, draft, capabilities) for draft in drafts.values()]
    items.sort(key=lambda item: (item.kind, item.name))
    if foreign:
        items.append(Item(ItemKind.FOREIGN, "", foreign, publics=0, is_pair=False, weakness=""))
    if unreadable.count:
        detail = f"cannot be read: {unreadable.first}"
        number = unreadable.count
        items.append(
            Item(ItemKind.UNREADABLE, "", number, publics=0, is_pair=False, weakness=detail)
        )
    return items


def destroy_named(session: TokenSession, name: str) -> int:
    """Destroy the objects of a key version or a transfer key; return how many there were.

    Never a root: another copy of the metadata may need it.

    Raises:
        ValueError: It is no name of one of these.
        ReturnCodeError: Session, token or module failed.
    """
    ref = _parse_name(name)
    labels = {name, name + key_template.IMPORTED, name + key_template.PUBLIC}
    destroyed = 0
    for handle, shown in _search(session, ref):
        if shown.get("ID") == ref and shown.get("LABEL") in labels:
            session.destroy(handle)
            destroyed += 1
    return destroyed


def _parse_name(name: str) -> bytes:
    """Return the CKA_ID that goes with a name, the only one that gets it."""
    if name.startswith(_TRANSFER_PREFIX):
        transfer_id = uuid.UUID(name.removeprefix(_TRANSFER_PREFIX)).bytes + bytes(4)
        if key_template.label_for_transfer(transfer_id) != name:
            raise ValueError(f"{name!r} is no name of a transfer key")
        return transfer_id
    _, _, rest = name.partition("/")
    key_id, _, number = rest.partition("/")
    ref = uuid.UUID(key_id).bytes + int(number).to_bytes(4, "big")
    if key_template.label_for(ref) != name:
        raise ValueError(f"{name!r} is no name of a key version")
    return ref


def _search(session: TokenSession, ref: bytes) -> list[tuple[KeyHandle, Mapping[str, object]]]:
    return [
        (handle, session.attributes(handle, _NAMES))
        for handle in find_patiently(session, {"TOKEN": True, "ID": ref})
    ]


def _sort(drafts: dict[str, _Draft], handle: KeyHandle, shown: Mapping[str, object]) -> bool:
    """Put an object where it belongs; say whether it is ours."""
    object_id, label = shown.get("ID"), shown.get("LABEL")
    version = key_template.key_id_of(object_id, label)
    root = key_template.root_number(object_id, label)
    suffix = ""
    if version is not None:
        ref, suffix = version
        kind, name = ItemKind.VERSION, key_template.label_for(ref)
    elif root is not None:
        ref, kind, name = key_template.root_id(root), ItemKind.ROOT, str(label)
    elif isinstance(label, str) and label.startswith(_TRANSFER_PREFIX):
        ref, kind = b"", ItemKind.TRANSFER
        name = label.removesuffix(key_template.PUBLIC)
    else:
        return key_template.is_root_check(label)  # part of its root
    draft = drafts.setdefault(name, _Draft(kind, name, ref))
    if shown.get("CLASS") == ck.CKO_PUBLIC_KEY:
        draft.publics.append(shown)
    else:
        draft.materials.append((suffix, shown))
        draft.handles.append(handle)
    return True


def _judged(session: TokenSession, draft: _Draft, capabilities: Capabilities) -> Item:
    weaknesses = []
    untold = capabilities.untold_origin
    kinds: tuple[KeyKind, ...] = ()
    try:
        if draft.kind is ItemKind.VERSION:
            for suffix, shown in draft.materials:
                kinds = judge(draft.ref, suffix, shown, untold=untold)
            for shown in draft.publics if kinds else ():
                judge_public(draft.ref, kinds, shown, untold=untold)
        elif draft.kind is ItemKind.ROOT:
            for _, shown in draft.materials:
                weakness = key_template.find_weakness(
                    shown, key_template.root(), hardening=None, untold=untold
                )
                if weakness:
                    weaknesses.append(weakness)
            if not weaknesses and len(draft.handles) == 1:
                weaknesses += _judge_root(session, draft, capabilities)
    except KeyUnsafeError as exc:
        weaknesses.append(str(exc).partition(" is not safe to use: ")[2] or str(exc))
    return Item(
        draft.kind,
        draft.name,
        len(draft.materials),
        len(draft.publics),
        is_pair=any(shown.get("CLASS") == ck.CKO_PRIVATE_KEY for _, shown in draft.materials),
        weakness="; ".join(weaknesses),
        is_imported=any(suffix == key_template.IMPORTED for suffix, _ in draft.materials),
    )


def _judge_root(session: TokenSession, draft: _Draft, capabilities: Capabilities) -> list[str]:
    """Say what is wrong with a root's value; nothing when nothing is, or nobody can tell."""
    number = int.from_bytes(draft.ref[-4:], "big")
    (handle,) = draft.handles
    ambiguous = capabilities.ambiguous
    try:
        checks = root_check.find_checks(session, number)
        if not checks or root_check.is_same_root(session, handle, checks, ambiguous=ambiguous):
            return []
    except ReturnCodeError as exc:
        if exc.action not in {Action.POLICY, Action.AMBIGUOUS, Action.CALLER}:
            raise
        return [f"it cannot be used: {exc}"]
    return ["it is not the key that it was when it was made: restore the token from its backup"]
