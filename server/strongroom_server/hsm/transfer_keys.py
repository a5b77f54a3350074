"""Transfer keys on the token: RSA pairs whose private half unwraps, and does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings, key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.handles import destroy
from strongroom_server.hsm.key_kinds import KeyKind, Operand
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.key_template import ObjectTemplate
from strongroom_server.hsm.return_codes import KeyAbsentError, PolicyRefusedError
from strongroom_server.hsm.token import KeyHandle
from strongroom_server.hsm.token_objects import find_patiently

__all__ = ["TransferKeyPair", "TransferKeys", "target_template"]

_NAMES: Final = (
    "ID",
    "LABEL",
    *dict.fromkeys((*key_template.CHECKED_SECRET, *key_template.CHECKED_PUBLIC)),
)


@dataclass(frozen=True, slots=True)
class TransferKeyPair:
    """Handles of a pair, and its public key, DER SubjectPublicKeyInfo."""

    private: KeyHandle
    public: KeyHandle
    public_key: bytes


class TransferKeys:
    """The transfer keys of one session. Errors and threads as for `KeyRing`."""

    def __init__(self, ring: KeyRing):
        """Work on a ring."""
        self._ring = ring
        self._session = ring.session
        self._keys: dict[bytes, TransferKeyPair] = {}

    def create(self, transfer_id: bytes, modulus_bits: int) -> TransferKeyPair:
        """Make a pair unless it is there."""
        self._ring.ladder.run(
            lambda: self._make_unless_there(transfer_id, modulus_bits),
            what="generate transfer key",
        )
        return self.load(transfer_id)

    def destroy(self, transfer_id: bytes) -> None:
        """Destroy a pair; one that is gone already is what was wanted."""
        self._keys.pop(transfer_id, None)
        for handle, _ in self._ring.ladder.run(lambda: self._search(transfer_id), what="find"):
            destroy(self._session, handle)

    def get(self, transfer_id: bytes) -> TransferKeyPair:
        """Return a pair, searching for it when it is not known.

        Raises:
            KeyAbsentError: The token is well and shows no such pair.
            PolicyRefusedError: It is unsafe.
        """
        return self._keys.get(transfer_id) or self.load(transfer_id)

    def load(self, transfer_id: bytes) -> TransferKeyPair:
        """Search for a pair, check it, keep its handles; raises as `get`."""
        self._keys.pop(transfer_id, None)
        found = self._ring.ladder.run(lambda: self._search(transfer_id), what="find")
        by_class = {shown.get("CLASS"): (handle, shown) for handle, shown in found}
        if len(found) != 2 or set(by_class) != {ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY}:  # noqa: PLR2004 - a pair
            self._ring.check_health()
            raise KeyAbsentError(
                f"no pair with label {key_template.label_for_transfer(transfer_id)}"
            )
        private, shown_private = by_class[ck.CKO_PRIVATE_KEY]
        public, shown_public = by_class[ck.CKO_PUBLIC_KEY]
        modulus = shown_public.get("MODULUS")
        bits = 8 * len(modulus) if isinstance(modulus, bytes) else 0
        templates = _templates(transfer_id, bits)
        for shown, template in zip((shown_public, shown_private), templates, strict=True):
            weakness = key_template.find_weakness(
                shown, template, hardening=None, untold=self._ring.capabilities.untold_origin
            )
            if weakness:
                label = key_template.label_for_transfer(transfer_id)
                raise PolicyRefusedError(f"{label} is not safe to use: {weakness}")
        if modulus != shown_private.get("MODULUS"):
            raise PolicyRefusedError("the halves of a transfer key do not fit each other")
        spki = encodings.public_key_from_attributes(_kind(bits), shown_public)
        key = self._keys[transfer_id] = TransferKeyPair(private, public, spki)
        return key

    def _make_unless_there(self, transfer_id: bytes, modulus_bits: int) -> None:
        """Search, then generate, together: the ladder may repeat it (`token_objects`).

        Half a pair is what a crash amid a generation leaves: nobody has its public key yet.
        """
        found = self._search(transfer_id)
        if {shown.get("CLASS") for _, shown in found} >= {ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY}:
            return
        for handle, _ in found:
            destroy(self._session, handle)
        public, private = _templates(transfer_id, modulus_bits)
        hardening = self._ring.capabilities.hardening
        self._session.generate_key_pair(
            ck.plain(ck.CKM_RSA_PKCS_KEY_PAIR_GEN),
            public.to_make(hardening),
            private.to_make(hardening),
        )

    def _search(self, transfer_id: bytes) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        label = key_template.label_for_transfer(transfer_id)
        found: list[tuple[KeyHandle, Mapping[str, AttributeValue]]] = []
        for handle in find_patiently(self._session, {"TOKEN": True, "ID": transfer_id}):
            shown = self._session.attributes(handle, _NAMES)
            if shown.get("LABEL") in {label, label + key_template.PUBLIC}:
                found.append((handle, shown))
        return found


def _kind(modulus_bits: int) -> KeyKind:
    """Describe a transfer key: nothing that a user's key can be."""
    return KeyKind(
        KeySpec.RSA_3072,
        KeyUsage.ENCRYPT_DECRYPT,
        Operand.PAIR,
        ck.CKK_RSA,
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        frozenset({"UNWRAP"}),
        frozenset(),
        (ck.CKM_RSA_PKCS_OAEP,),
        public_uses=frozenset({"WRAP"}),
        modulus_bits=modulus_bits,
    )


def _templates(transfer_id: bytes, modulus_bits: int) -> tuple[ObjectTemplate, ObjectTemplate]:
    label = key_template.label_for_transfer(transfer_id)
    kind = _kind(modulus_bits)
    return (
        key_template.public_half(kind).named(transfer_id, label + key_template.PUBLIC),
        key_template.private_half(kind).named(transfer_id, label),
    )


def target_template(modulus: bytes, exponent: bytes) -> dict[str, AttributeValue]:
    """Describe another HSM's public key, as a session object that wraps."""
    return {
        **key_template.public_half(_kind(8 * len(modulus)), token=False).fixed,
        "MODULUS": modulus,
        "PUBLIC_EXPONENT": exponent,
    }
