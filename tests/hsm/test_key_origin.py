"""What was made in the HSM is not taken from outside, and the other way round."""

from __future__ import annotations

import pytest
from tests.support.hsm_keys import AES, new_key, new_resident

from strongroom_server.hsm import key_template
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import PolicyRefusedError
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.wire_operations import ORIGIN_EXTERNAL, WireKey

pytestmark = pytest.mark.hsm

AAD = b"aad"
KNOWN = bytes(range(32))


def _plant(session: TokenSession, key: WireKey, value: bytes = KNOWN) -> None:
    """Put material of known value in the place of a key, as a holder of the PIN can."""
    for handle in session.find({"ID": key.ref}):
        session.destroy(handle)
    session.create_object(
        {
            **key_template.imported(KINDS[AES]).fixed,
            "ID": key.ref,
            "LABEL": key_template.label_for(key.ref) + key_template.IMPORTED,
            "VALUE": value,
        }
    )


def test_planted_material_is_not_taken_for_a_key_made_here(
    ring: KeyRing, session: TokenSession
) -> None:
    """An object that calls itself imported does not replace a key that was made in the HSM."""
    key = new_resident(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    _plant(session, key)
    for use in (
        lambda: ring.encrypt(key, b"x", AAD),
        lambda: ring.decrypt(key, sealed, AAD),
        lambda: ring.load(key),
        lambda: ring.create(key),
    ):
        with pytest.raises(PolicyRefusedError, match="brought from outside"):
            use()
    ring.load_all()  # the token alone cannot tell; the metadata does, at each use
    with pytest.raises(PolicyRefusedError, match="brought from outside"):
        ring.encrypt(key, b"x", AAD)


def test_a_key_made_here_is_not_taken_for_an_imported_one(ring: KeyRing) -> None:
    """Where the metadata says EXTERNAL, material that the HSM generated is refused."""
    made = new_resident(ring)
    with pytest.raises(PolicyRefusedError, match="made in the HSM"):
        ring.encrypt(made._replace(origin=ORIGIN_EXTERNAL), b"x", AAD)


def test_an_imported_key_is_used_as_one(ring: KeyRing, session: TokenSession) -> None:
    """Where object and metadata both say EXTERNAL, the key works."""
    key = new_key()._replace(origin=ORIGIN_EXTERNAL)
    _plant(session, key)
    sealed = ring.encrypt(key, b"x", AAD)
    assert ring.decrypt(key, sealed, AAD) == b"x"
