"""What objects of ours look like: names that fit each other, attributes that do not slip."""

from __future__ import annotations

import uuid

import pytest

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import key_template
from strongroom_server.hsm.key_kinds import KINDS, Operand
from strongroom_server.hsm.key_template import Hardening, ObjectTemplate

AES = KINDS[KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT]
RSA = KINDS[KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY]
EC = KINDS[KeySpec.EC_P256, KeyUsage.SIGN_VERIFY]
ALL = Hardening(modifiable=True, copyable=True, allowed_mechanisms=True)
NONE = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)
KEY_ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes + b"\0\0\0\7"
LABEL = "strongroom/00112233-4455-6677-8899-aabbccddeeff/7"

TEMPLATES: list[ObjectTemplate] = [
    key_template.root(),
    key_template.probe(),
    key_template.resident_secret(AES),
    key_template.imported(AES),
    key_template.unwrapped_material(AES),
    key_template.passing_material(AES),
    key_template.material_at_birth(AES, only_for_trusted=True),
    *(
        key_template.resident_secret(kind)
        for kind in KINDS.values()
        if kind.operand is Operand.SECRET
    ),
    *(key_template.private_half(kind) for kind in KINDS.values() if kind.operand is Operand.PAIR),
]


def test_key_names_fit_or_are_not_ours() -> None:
    """Id and label name the same key version, or the object is somebody else's."""
    assert key_template.label_for(KEY_ID) == LABEL
    for suffix in ("", "/imported", "/public"):
        assert key_template.key_id_of(KEY_ID, LABEL + suffix) == (KEY_ID, suffix)
    for object_id, label in (
        (KEY_ID, LABEL + "/other"),
        (KEY_ID, LABEL.upper()),
        (KEY_ID[:-1] + b"\x08", LABEL),
        (KEY_ID[:-1], LABEL),
        (KEY_ID + b"\0", LABEL),
        (KEY_ID, ""),
        (KEY_ID, None),
        (None, LABEL),
    ):
        assert key_template.key_id_of(object_id, label) is None


def test_root_names_fit_or_are_not_ours() -> None:
    """A root has its number in id and label; a key version is never taken for one."""
    for number in (1, 7, 2**32 - 1):
        root_id = key_template.root_id(number)
        assert len(root_id) == 20
        assert key_template.root_number(root_id, f"strongroom-root/{number}") == number
        assert key_template.root_number(root_id, f"strongroom-root/0{number}") is None
        assert key_template.root_number(root_id, "strongroom-root/8") is None
        assert key_template.key_id_of(root_id, f"strongroom-root/{number}") is None
    assert key_template.root_number(key_template.root_id(0), "strongroom-root/0") is None
    assert key_template.root_number(KEY_ID, "strongroom-root/7") is None
    assert uuid.UUID(bytes=key_template.ROOT_NAMESPACE).version == 5  # keys have version 4


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_use_is_explicit(template: ObjectTemplate) -> None:
    """No attribute that decides what a key may do, or where it may go, is left to a default."""
    made = template.to_make(NONE)
    uses = {"DECRYPT", "SIGN", "UNWRAP", "DERIVE"}
    assert uses | {"CLASS", "KEY_TYPE", "TOKEN", "PRIVATE", "SENSITIVE", "EXTRACTABLE"} <= set(made)
    assert made["SENSITIVE"] is True
    assert made["PRIVATE"] is True
    # Extractable: only what lives for one call, and can do nothing in it.
    if made["EXTRACTABLE"]:
        assert made["TOKEN"] is False
        assert not [use for use in uses | {"ENCRYPT", "VERIFY", "WRAP"} if made[use]]
    # Never both: what wraps could otherwise show what it has wrapped.
    assert not (made.get("WRAP") and made["DECRYPT"])
    assert not (made["UNWRAP"] and made.get("ENCRYPT"))


def test_hardening_is_asked_for_where_it_is_taken() -> None:
    """MODIFIABLE comes last, since SoftHSM takes nothing after it; otherwise none of the three."""
    made = key_template.resident_secret(AES).named(KEY_ID, LABEL).to_make(ALL)
    assert list(made)[-3:] == ["ALLOWED_MECHANISMS", "COPYABLE", "MODIFIABLE"]
    assert (made["ID"], made["LABEL"]) == (KEY_ID, LABEL)
    assert not {"ALLOWED_MECHANISMS", "COPYABLE", "MODIFIABLE"} & set(
        key_template.resident_secret(AES).to_make(NONE)
    )


def test_every_difference_is_a_weakness() -> None:
    """An attribute that is otherwise, or not shown, is named; one that nobody asked for is not."""
    template = key_template.resident_secret(AES)
    good = {**template.fixed, **template.expected, "COPYABLE": False, "MODIFIABLE": False}
    assert key_template.find_weakness(good, template, hardening=ALL) is None
    assert key_template.find_weakness({**good, "TRUSTED": True}, template, hardening=ALL) is None
    for name, value in good.items():
        changed = {**good, name: not value}
        missing = {key: shown for key, shown in good.items() if key != name}
        for shown in (changed, missing):
            weakness = key_template.find_weakness(shown, template, hardening=ALL)
            assert weakness is not None
            assert f"CKA_{name} is" in weakness
    old = {**good, "COPYABLE": True, "MODIFIABLE": True}
    assert key_template.find_weakness(old, template, hardening=None) is None
    assert key_template.find_weakness(old, template, hardening=ALL)


def test_untold_origin_is_not_asked_for() -> None:
    """What a module never sets says nothing of a key; the rest is checked all the same."""
    template = key_template.resident_secret(AES)
    shown = {**template.fixed, **template.expected, "LOCAL": False}
    untold = frozenset({"LOCAL"})
    assert key_template.find_weakness(shown, template, hardening=None)
    assert key_template.find_weakness(shown, template, hardening=None, untold=untold) is None
    shown["SENSITIVE"] = False
    assert key_template.find_weakness(shown, template, hardening=None, untold=untold)


def test_moduli_are_measured() -> None:
    """An RSA key with another size than its kind's is refused."""
    template = key_template.private_half(RSA)
    good = {**template.fixed, **template.expected, "MODULUS": b"\x80" + bytes(255)}
    assert key_template.find_weakness(good, template, hardening=None) is None
    for modulus in (b"\x80" + bytes(127), b"\x7f" + bytes(255), b"", None):
        assert key_template.find_weakness({**good, "MODULUS": modulus}, template, hardening=None)


def test_curves_are_compared() -> None:
    """A key on another curve is refused; Ed25519 may go by its name."""
    template = key_template.private_half(EC)
    good = {**template.fixed, **template.expected}
    assert key_template.find_weakness(good, template, hardening=None) is None
    p384 = KINDS[KeySpec.EC_P384, KeyUsage.SIGN_VERIFY].curve
    assert key_template.find_weakness({**good, "EC_PARAMS": p384}, template, hardening=None)
    named = b"\x13\x0cedwards25519"
    assert key_template.find_weakness({**good, "EC_PARAMS": named}, template, hardening=None)
    template = key_template.private_half(KINDS[KeySpec.ED25519, KeyUsage.SIGN_VERIFY])
    good = {**template.fixed, **template.expected, "EC_PARAMS": named}
    assert key_template.find_weakness(good, template, hardening=None) is None
