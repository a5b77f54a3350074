"""What each object of ours looks like on the token: attributes, and their check.

Every attribute is explicit, because defaults differ between modules: left out,
CKA_EXTRACTABLE is false in SoftHSM and true in NSS, and libraries add WRAP and UNWRAP,
with which a key can be wrapped out and decrypted in the clear. Attributes are read back
after creation and at every start. PKCS#11 3.1, 4.8 to 4.10 (storage, key, public, private
and secret key).

Ids and labels are those of `object_names`. Names of attributes are PKCS#11's without
``CKA_``; `ck_attributes` turns them into numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KeyKind, Operand
from strongroom_server.hsm.object_names import (
    IMPORTED,
    PUBLIC,
    ROOT_NAMESPACE,
    is_root_check,
    key_id_of,
    label_for,
    label_for_root,
    label_for_root_check,
    label_for_transfer,
    root_id,
    root_number,
)

__all__ = [
    "CHECKED_PUBLIC",
    "CHECKED_SECRET",
    "IMPORTED",
    "PUBLIC",
    "ROOT_NAMESPACE",
    "Hardening",
    "ObjectTemplate",
    "find_weakness",
    "imported",
    "is_root_check",
    "key_id_of",
    "label_for",
    "label_for_root",
    "label_for_root_check",
    "label_for_transfer",
    "material_at_birth",
    "passing_material",
    "private_half",
    "probe",
    "public_half",
    "resident_secret",
    "root",
    "root_check",
    "root_id",
    "root_number",
    "secret_for_transfer",
    "unwrapped_material",
]

_ROOT_KEY_BYTES: Final = 32
PUBLIC_EXPONENT: Final = b"\x01\x00\x01"  # 65537, FIPS 186-5, A.1.1

# PKCS#11 3.1, 6.3.3: a curve has an object identifier (what we ask for) or a name (what
# SoftHSM shows all the same), a PrintableString.
_CURVE_NAMES: Final[Mapping[object, bytes]] = {
    bytes.fromhex("06032b6570"): b"\x13\x0cedwards25519",
}

_SECRET_USES: Final = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
_PRIVATE_USES: Final = ("DECRYPT", "SIGN", "SIGN_RECOVER", "UNWRAP", "DERIVE")
_PUBLIC_USES: Final = ("ENCRYPT", "VERIFY", "VERIFY_RECOVER", "WRAP")

_MADE_HERE: Final[Mapping[str, bool]] = {
    "LOCAL": True,
    "ALWAYS_SENSITIVE": True,
    "NEVER_EXTRACTABLE": True,
}
"""Set by the token: made here, and never weaker than now. Copies and imports lack them."""

CHECKED_SECRET: Final = (
    "CLASS",
    "KEY_TYPE",
    "TOKEN",
    "PRIVATE",
    "SENSITIVE",
    "EXTRACTABLE",
    *dict.fromkeys((*_SECRET_USES, *_PRIVATE_USES)),
    "MODIFIABLE",
    "COPYABLE",
    *_MADE_HERE,
    "TRUSTED",
    "VALUE_LEN",
    "MODULUS",
    "EC_PARAMS",
)
"""What `find_weakness` wants to see of a secret or private key."""
CHECKED_PUBLIC: Final = (
    "CLASS",
    "KEY_TYPE",
    "TOKEN",
    "PRIVATE",
    *_PUBLIC_USES,
    "MODIFIABLE",
    "COPYABLE",
    "LOCAL",
    "MODULUS",
    "PUBLIC_EXPONENT",
    "EC_PARAMS",
    "EC_POINT",
)
"""What is read of a public key: its check, and the key itself."""


@dataclass(frozen=True, slots=True)
class Hardening:
    """Attributes that not every module takes in a template (`capabilities`).

    They are asked for where the module takes them, and checked then.
    """

    modifiable: bool
    copyable: bool
    allowed_mechanisms: bool
    unwrap_template: bool = False


@dataclass(frozen=True, slots=True)
class ObjectTemplate:
    """An object of ours.

    Attributes:
        fixed: Asked for at creation, and refused when it shows otherwise.
        asked: Asked for at creation only: what says how to make it.
        expected: Refused when it shows otherwise: what the token itself sets.
        mechanisms: CKA_ALLOWED_MECHANISMS.
        modulus_bits: Of an RSA key.
        unwraps_only_sensitive: CKA_UNWRAP_TEMPLATE with CKA_SENSITIVE: what it unwraps
            cannot be read, whoever unwraps it (PKCS#11 3.1, 4.9).
    """

    fixed: Mapping[str, AttributeValue]
    asked: Mapping[str, AttributeValue]
    expected: Mapping[str, AttributeValue]
    mechanisms: tuple[int, ...] = ()
    modulus_bits: int = 0
    unwraps_only_sensitive: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What `find_weakness` wants to see of a session object; no more than it needs."""
        return (*self.fixed, *(name for name in self.expected if name not in self.fixed))

    def named(self, object_id: bytes, label: str) -> ObjectTemplate:
        """Return it with CKA_ID and CKA_LABEL."""
        names: dict[str, AttributeValue] = {"ID": object_id, "LABEL": label}
        return replace(self, asked={**names, **self.asked})

    def to_make(self, hardening: Hardening) -> dict[str, AttributeValue]:
        """Return the template for the module.

        COPYABLE before MODIFIABLE: SoftHSM takes no attribute after MODIFIABLE = false.
        """
        template = {**self.fixed, **self.asked}
        if hardening.allowed_mechanisms and self.mechanisms:
            template["ALLOWED_MECHANISMS"] = self.mechanisms
        if hardening.unwrap_template and self.unwraps_only_sensitive:
            template["UNWRAP_TEMPLATE"] = {"SENSITIVE": True}
        if hardening.copyable:
            template["COPYABLE"] = False
        if hardening.modifiable:
            template["MODIFIABLE"] = False
        return template


def resident_secret(kind: KeyKind) -> ObjectTemplate:
    """Describe a token object that is a key version's material."""
    return ObjectTemplate(
        _secret(kind.key_type, kind.uses, token=True, extractable=False),
        {"VALUE_LEN": kind.key_bytes},
        {**_MADE_HERE, "VALUE_LEN": kind.key_bytes},
        kind.mechanisms,
    )


def imported(kind: KeyKind) -> ObjectTemplate:
    """Describe a token object whose material came from another HSM, wrapped.

    It says so itself: LOCAL is false. Nobody can know whether it was ever extractable.
    """
    return ObjectTemplate(
        _secret(kind.key_type, kind.uses, token=True, extractable=False),
        {},
        {"LOCAL": False},
        kind.mechanisms,
    )


def private_half(kind: KeyKind, *, token: bool = True) -> ObjectTemplate:
    """Describe the private key of a pair."""
    fixed: dict[str, AttributeValue] = {
        "CLASS": ck.CKO_PRIVATE_KEY,
        "KEY_TYPE": kind.key_type,
        "TOKEN": token,
        "PRIVATE": True,
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        **{use: use in kind.uses for use in _PRIVATE_USES},
    }
    expected: dict[str, AttributeValue] = dict(_MADE_HERE)
    if kind.curve:
        expected["EC_PARAMS"] = kind.curve
    return ObjectTemplate(fixed, {}, expected, kind.mechanisms, kind.modulus_bits)


def public_half(kind: KeyKind, *, token: bool = True) -> ObjectTemplate:
    """Describe the public key of a pair.

    PRIVATE, though it is no secret: so that nobody puts another in its place without the
    PIN, and has forged signatures verified.
    """
    fixed: dict[str, AttributeValue] = {
        "CLASS": ck.CKO_PUBLIC_KEY,
        "KEY_TYPE": kind.key_type,
        "TOKEN": token,
        "PRIVATE": True,
        **{use: use in kind.public_uses for use in _PUBLIC_USES},
    }
    if kind.curve:
        return ObjectTemplate(fixed, {"EC_PARAMS": kind.curve}, {"EC_PARAMS": kind.curve})
    return ObjectTemplate(
        fixed,
        {"MODULUS_BITS": kind.modulus_bits, "PUBLIC_EXPONENT": PUBLIC_EXPONENT},
        {"PUBLIC_EXPONENT": PUBLIC_EXPONENT},
        modulus_bits=kind.modulus_bits,
    )


def root() -> ObjectTemplate:
    """Describe a wrapping root: it wraps and unwraps, and never encrypts or decrypts.

    With DECRYPT, whoever holds the PIN could decrypt what it wraps: AES key wrap is
    made of AES blocks (RFC 3394, 2.2.1). TRUSTED is the security officer's to set
    (PKCS#11 3.1, 4.9); a user's template may not have it.
    """
    return ObjectTemplate(
        _secret(ck.CKK_AES, frozenset({"WRAP", "UNWRAP"}), token=True, extractable=False),
        {"VALUE_LEN": _ROOT_KEY_BYTES},
        {**_MADE_HERE, "VALUE_LEN": _ROOT_KEY_BYTES},
        (ck.CKM_AES_KEY_WRAP,),
        unwraps_only_sensitive=True,
    )


def root_check() -> ObjectTemplate:
    """Describe a root's check: a key that can do nothing, for the CKA_ID that it carries."""
    return ObjectTemplate(
        _secret(ck.CKK_AES, frozenset(), token=True, extractable=False),
        {"VALUE_LEN": _ROOT_KEY_BYTES},
        {},
    )


def material_at_birth(kind: KeyKind, *, only_for_trusted: bool) -> ObjectTemplate:
    """Describe new material of wrapped storage: it can do nothing but be wrapped, once.

    Args:
        only_for_trusted: The root has TRUSTED and the module enforces
            CKA_WRAP_WITH_TRUSTED (PKCS#11 3.1, 4.9): then no other key can wrap it.
    """
    template = _secret(kind.key_type, frozenset(), token=False, extractable=True)
    if only_for_trusted:
        template["WRAP_WITH_TRUSTED"] = True
    return ObjectTemplate(
        template,
        {"VALUE_LEN": kind.key_bytes},
        {"LOCAL": True, "ALWAYS_SENSITIVE": True, "VALUE_LEN": kind.key_bytes},
    )


def unwrapped_material(kind: KeyKind) -> ObjectTemplate:
    """Describe material of wrapped storage while it is in use."""
    return ObjectTemplate(
        _secret(kind.key_type, kind.uses, token=False, extractable=False),
        {},
        {},
        kind.mechanisms,
    )


def passing_material(kind: KeyKind) -> ObjectTemplate:
    """Describe material on its way from one wrapping key to another: it can do nothing else."""
    return ObjectTemplate(
        _secret(kind.key_type, frozenset(), token=False, extractable=True), {}, {}
    )


def probe() -> ObjectTemplate:
    """Describe the session key that health checks encrypt with."""
    uses = frozenset({"ENCRYPT", "DECRYPT"})
    return ObjectTemplate(
        _secret(ck.CKK_AES, uses, token=False, extractable=False), {"VALUE_LEN": 32}, {}
    )


def secret_for_transfer(
    key_type: int, key_bytes: int, uses: frozenset[str], *, made_here: bool
) -> ObjectTemplate:
    """Describe a key that serves one transfer; extractable at its maker's, not at its end."""
    size: dict[str, AttributeValue] = {"VALUE_LEN": key_bytes} if made_here else {}
    return ObjectTemplate(_secret(key_type, uses, token=False, extractable=made_here), size, size)


def find_weakness(
    shown: Mapping[str, object],
    template: ObjectTemplate,
    *,
    hardening: Hardening | None,
    untold: frozenset[str] = frozenset(),
) -> str | None:
    """Return what is wrong with an object's attributes, or None.

    What the token does not show counts as wrong.

    Args:
        shown: What the token showed of CHECKED_SECRET or CHECKED_PUBLIC.
        template: What it should be.
        hardening: What the module took at creation; None for keys made earlier, for which
            these attributes may have any value.
        untold: Attributes of origin that the module does not set (`capabilities`).
    """
    expected: dict[str, object] = {**template.fixed, **template.expected}
    for name in untold:
        expected.pop(name, None)
    if hardening is not None and hardening.modifiable:
        expected["MODIFIABLE"] = False
    if hardening is not None and hardening.copyable:
        expected["COPYABLE"] = False
    wrong = [
        f"CKA_{name} is {shown.get(name, 'not shown')}"
        for name, value in expected.items()
        if shown.get(name) != value
        and not (name == "EC_PARAMS" and shown.get(name) == _CURVE_NAMES.get(value))
    ]
    if template.modulus_bits:
        modulus = shown.get("MODULUS")
        bits = int.from_bytes(modulus, "big").bit_length() if isinstance(modulus, bytes) else 0
        if bits != template.modulus_bits:
            wrong.append(f"CKA_MODULUS has {bits} bits")
    return ", ".join(wrong) if wrong else None


def _secret(
    key_type: int, uses: frozenset[str], *, token: bool, extractable: bool
) -> dict[str, AttributeValue]:
    return {
        "CLASS": Operand.SECRET.value,
        "KEY_TYPE": key_type,
        "TOKEN": token,
        "PRIVATE": True,
        "SENSITIVE": True,
        "EXTRACTABLE": extractable,
        **{use: use in uses for use in _SECRET_USES},
    }
