"""Keys as a worker is told of them."""

from __future__ import annotations

from tests.support.softhsm import new_ref

from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage, KeyVersionRef
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.wire_operations import SPEC_NUMBERS, USAGE_NUMBERS, WireKey

__all__ = ["AES", "MAC", "new_key", "new_material", "new_resident", "new_wrapped"]

AES = (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)
MAC = (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)


def new_key(
    kind: tuple[KeySpec, KeyUsage] = AES,
    *,
    root: int = 0,
    wrapped: bytes = b"",
    ref: KeyVersionRef | None = None,
) -> WireKey:
    """Name a key that does not exist yet."""
    spec, usage = kind
    ref = ref or new_ref()
    return WireKey(ref.to_bytes(), SPEC_NUMBERS[spec], USAGE_NUMBERS[usage], root, wrapped)


def new_resident(ring: KeyRing, kind: tuple[KeySpec, KeyUsage] = AES) -> WireKey:
    """Make a key on the token."""
    key = new_key(kind)
    ring.create(key)
    return key


def new_wrapped(ring: KeyRing, kind: tuple[KeySpec, KeyUsage] = AES, *, root: int = 1) -> WireKey:
    """Make a key of wrapped storage, and its root if need be."""
    ring.wrapping.create_root(root)
    key = new_key(kind, root=root)
    return key._replace(wrapped=ring.create_wrapped(key))


def new_material(kind: tuple[KeySpec, KeyUsage] = AES) -> KeyMaterial:
    """Name a resident key version that does not exist."""
    return KeyMaterial(new_ref(), *kind)
