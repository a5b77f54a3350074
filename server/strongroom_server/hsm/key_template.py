"""What a key version looks like on the token: label, attributes, and the check of both.

Every attribute is explicit, because defaults differ between modules: left out,
CKA_EXTRACTABLE is false in SoftHSM and true in NSS, and libraries add WRAP and UNWRAP,
with which a key can be wrapped out and decrypted in the clear. Attributes are read back
after creation and at every start. PKCS#11 3.1, 4.8 to 4.10 (storage, key, secret key).

Names are PKCS#11's without ``CKA_``; `token` turns them into numbers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final, TypeAlias

from strongroom_server.hsm.mechanisms import KEY_BYTES

__all__ = [
    "CHECKED",
    "HARDENING",
    "REQUIRED",
    "AttributeValues",
    "find_weakness",
    "is_ours",
    "label_for",
]

AttributeValues: TypeAlias = dict[str, object]
"""Attributes that a token showed, by name."""

_KEY_ID_BYTES: Final = 20

REQUIRED: Final[Mapping[str, bool]] = {
    "PRIVATE": True,
    "SENSITIVE": True,
    "EXTRACTABLE": False,
    "ENCRYPT": True,
    "DECRYPT": True,
    "SIGN": False,
    "VERIFY": False,
    "WRAP": False,
    "UNWRAP": False,
    "DERIVE": False,
}
"""Asked for at creation and refused when otherwise. TOKEN is set by the caller."""

HARDENING: Final[Mapping[str, bool]] = {"MODIFIABLE": False, "COPYABLE": False}
"""Asked for too; modules that refuse these in a template get a key without them.

ALLOWED_MECHANISMS = AES-GCM goes with them: the key cannot serve as an AES-ECB oracle,
from which a GCM keystream could be computed for any IV.
"""

_ORIGIN: Final[Mapping[str, bool]] = {
    "TOKEN": True,
    "LOCAL": True,
    "ALWAYS_SENSITIVE": True,
    "NEVER_EXTRACTABLE": True,
}
"""Set by the token: made here, and never weaker than now. Copies and imports lack them."""

CHECKED: Final[tuple[str, ...]] = (*REQUIRED, *HARDENING, *_ORIGIN, "VALUE_LEN")
"""What `find_weakness` wants to see."""


def label_for(key_id: bytes) -> str:
    """Return the CKA_LABEL that goes with a CKA_ID, ``strongroom/{key id}/{version}``."""
    version = int.from_bytes(key_id[16:], "big")
    return f"strongroom/{uuid.UUID(bytes=key_id[:16])}/{version}"


def is_ours(key_id: bytes, label: object) -> bool:
    """Say whether an AES key with this CKA_ID and CKA_LABEL is a key version of ours.

    Both must fit: 20-byte ids are common (SHA-1) on tokens that others use too.
    """
    return len(key_id) == _KEY_ID_BYTES and label == label_for(key_id)


def find_weakness(shown: Mapping[str, object], *, hardened: bool) -> str | None:
    """Return what is wrong with a key's attributes, or None.

    What the token does not show counts as wrong.

    Args:
        shown: What the token showed of `CHECKED`.
        hardened: Whether the module took HARDENING at creation; otherwise, and for keys
            made earlier, these attributes may have any value.
    """
    expected: dict[str, object] = {**REQUIRED, **_ORIGIN, "VALUE_LEN": KEY_BYTES}
    if hardened:
        expected |= HARDENING
    wrong = [
        f"CKA_{name} is {shown.get(name, 'not shown')}"
        for name, value in expected.items()
        if shown.get(name) != value
    ]
    return ", ".join(wrong) if wrong else None
