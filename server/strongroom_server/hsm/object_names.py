"""How objects of ours are named on a token: CKA_ID and CKA_LABEL.

    CKA_ID                              CKA_LABEL
    key id (16) || version (4)          strongroom/{key id}/{version}            made here
    the same                            strongroom/{key id}/{version}/imported   brought here
    the same                            strongroom/{key id}/{version}/public     public half
    ROOT_NAMESPACE (16) || number (4)   strongroom-root/{number}
    a key wrapped under that root       strongroom-root/{number}/check               its check
    transfer id (16) || 0 (4)           strongroom-transfer/{transfer id}[/public]

Id and label must fit each other: 20-byte ids are common (SHA-1) on tokens that others use
too.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

__all__ = [
    "IMPORTED",
    "PUBLIC",
    "ROOT_NAMESPACE",
    "is_root_check",
    "key_id_of",
    "label_for",
    "label_for_root",
    "label_for_root_check",
    "label_for_transfer",
    "root_id",
    "root_number",
]

KEY_ID_BYTES: Final = 20
ROOT_NAMESPACE: Final = uuid.UUID("7d3a8a1e-6f0b-5c55-9a63-5f2c1d0f7b41").bytes
"""CKA_ID prefix of wrapping roots: a fixed UUID that is no key's, which are random."""
IMPORTED: Final = "/imported"
PUBLIC: Final = "/public"
_ROOT_CHECK: Final = re.compile(r"strongroom-root/[1-9][0-9]{0,9}/check")


def label_for(key_id: bytes) -> str:
    """Return the CKA_LABEL that goes with a CKA_ID, ``strongroom/{key id}/{version}``."""
    version = int.from_bytes(key_id[16:], "big")
    return f"strongroom/{uuid.UUID(bytes=key_id[:16])}/{version}"


def root_id(number: int) -> bytes:
    """Return the CKA_ID of a wrapping root."""
    return ROOT_NAMESPACE + number.to_bytes(4, "big")


def label_for_root(number: int) -> str:
    """Return the CKA_LABEL of a wrapping root."""
    return f"strongroom-root/{number}"


def label_for_root_check(number: int) -> str:
    """Return the CKA_LABEL of a wrapping root's check (`root_check`)."""
    return f"{label_for_root(number)}/check"


def is_root_check(label: object) -> bool:
    """Say whether a label is that of a wrapping root's check."""
    return isinstance(label, str) and _ROOT_CHECK.fullmatch(label) is not None


def label_for_transfer(transfer_id: bytes) -> str:
    """Return the CKA_LABEL of a transfer key's private half."""
    return f"strongroom-transfer/{uuid.UUID(bytes=transfer_id[:16])}"


def key_id_of(object_id: object, label: object) -> tuple[bytes, str] | None:
    """Return the key id of an object of ours and its label's suffix; None for others'.

    The suffix is empty for material made here, else IMPORTED or PUBLIC.
    """
    if not isinstance(object_id, bytes) or not isinstance(label, str):
        return None
    if len(object_id) != KEY_ID_BYTES:
        return None
    expected = label_for(object_id)
    for suffix in ("", IMPORTED, PUBLIC):
        if label == expected + suffix:
            return object_id, suffix
    return None


def root_number(object_id: object, label: object) -> int | None:
    """Return the number of a wrapping root of ours; None for other objects."""
    if (
        not isinstance(object_id, bytes)
        or len(object_id) != KEY_ID_BYTES
        or not object_id.startswith(ROOT_NAMESPACE)
    ):
        return None
    number = int.from_bytes(object_id[16:], "big")
    return number if number and label == label_for_root(number) else None
