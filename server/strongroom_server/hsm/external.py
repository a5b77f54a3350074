"""Material that a caller made and wrapped, on its way into this HSM (docs/key-import.md).

    wrapping key (RSA, UNWRAP only) ──► material, or an AES key and under it the material:
                                        an object that can do nothing but be wrapped
    carrier, an AES key for a call  ──► wrapped again: now its length is known
                                    ──► unwrapped for use: its check value
    root, or carrier                ──► wrapped to be stored; or a token object

The material is inside the HSM all the time. Nothing tells a caller what was wrong with
what did not unwrap (RFC 8017, 7.1.2, note).

The *check value* is what the material does to a constant. It shows whether material is
what was imported first, and is of no use to anybody who has not got the material: a
ciphertext under an IV of its own (AES), or an HMAC.
"""

from __future__ import annotations

import hmac as constant_time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings, key_template
from strongroom_server.hsm.ck_mechanisms import Mechanism
from strongroom_server.hsm.destruction import destroy_version
from strongroom_server.hsm.handles import SessionObjects, destroy, session_objects
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.key_template import Hardening, ObjectTemplate
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.return_codes import (
    Action,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
)
from strongroom_server.hsm.token import KeyHandle
from strongroom_server.hsm.token_objects import find_patiently
from strongroom_server.hsm.transfer import Transfer, session_key_template
from strongroom_server.hsm.wire_operations import ImportForm, WireKey

__all__ = ["ExternalMaterial"]

T = TypeVar("T")

_NO_HARDENING: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)
_CHECKED: Final = b"strongroom check"
_CHECK_AAD: Final = b"strongroom import check v1"
"""No encryption of a caller has such AAD: theirs begin with a blob's version byte."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One import: see `ExternalMaterial.import_`."""

    key: WireKey
    kind: KeyKind
    transfer_id: bytes
    algorithm: Algorithm
    data: bytes
    form: ImportForm
    check: bytes
    iv: bytes


class ExternalMaterial:
    """What a worker does with material from outside. Errors and threads as for `KeyRing`."""

    def __init__(self, ring: KeyRing, transfer: Transfer):
        """Work on a ring, with its transfer keys."""
        self._ring = ring
        self._session = ring.session
        self._transfer = transfer

    def import_(
        self,
        key: WireKey,
        transfer_id: bytes,
        algorithm: int,
        data: bytes,
        *,
        form: ImportForm,
        check: bytes,
    ) -> tuple[bytes, bytes]:
        """Take material in.

        Args:
            key: What it will be; a root of 0 makes a token object, in the place of one
                that was imported before.
            transfer_id: The key that it is wrapped under.
            algorithm: RSAES-OAEP, which.
            data: What the caller wrapped.
            form: How, and whether it is kept.
            check: The check value of the first import; empty for the first.

        Returns:
            The check value, empty when the material is another one (and nothing was
            kept); and the material wrapped under its root, empty for a token object.

        Raises:
            TamperedError: It does not unwrap to material of this kind: nobody is told why.
        """
        self._transfer.refuse_unless_able(algorithm)
        kind = self._ring.kind_of(key)
        modulus, _ = encodings.parse_transfer_key(self._transfer.keys.get(transfer_id).public_key)
        tail = kind.wrapped_bytes if ImportForm.KEY_WRAP in form else 0
        if len(data) != len(modulus) + tail:
            raise TamperedError
        iv = check[:IV_BYTES] if check else self._ring.random(IV_BYTES)
        arrival = _Arrival(key, kind, transfer_id, Algorithm(algorithm), data, form, check, iv)

        def call() -> tuple[bytes, bytes]:
            with session_objects(self._session) as objects:
                return self._take_in(objects, arrival)

        made, wrapped = self._ring.ladder.run(
            call,
            what="import",
            canary=lambda: self._transfer.check_key(transfer_id, arrival.algorithm),
            refind=lambda: self._find_again(arrival),
        )
        if made and ImportForm.KEEP in form and not key.root:
            self._ring.load(key)
        return made, wrapped

    def _take_in(self, objects: SessionObjects, arrival: _Arrival) -> tuple[bytes, bytes]:
        passing = key_template.passing_material(arrival.kind)
        in_use = key_template.unwrapped_material(arrival.kind)
        material = self._unwrap(objects, arrival, passing)
        carrier = self._transfer.make_secret(
            objects, ck.CKM_AES_KEY_GEN, session_key_template("WRAP", "UNWRAP", made_here=True)
        )
        carried = self._blaming(
            arrival, lambda: self._session.wrap(carrier, ck.aes_key_wrap(), material)
        )
        # Modules take an AES key of 16 bytes too, and a generic secret of any length.
        if len(carried) != arrival.kind.wrapped_bytes:
            raise TamperedError
        stored = objects.keep(
            self._session.unwrap(carrier, ck.aes_key_wrap(), carried, in_use.to_make(_NO_HARDENING))
        )
        made = self._check_value(arrival, stored)
        # SoftHSM wraps 25 to 31 bytes as if zeros came after them, and says no length of
        # what it unwrapped: so material must do the same before that. (An HMAC key is
        # filled up with zeros anyhow: RFC 2104, 2.)
        sent = self._unwrap(objects, arrival, in_use)
        if made != self._blaming(arrival, lambda: self._check_value(arrival, sent)):
            raise TamperedError
        if arrival.check and not constant_time.compare_digest(made, arrival.check):
            return b"", b""
        if ImportForm.KEEP not in arrival.form:
            return made, b""
        if arrival.key.root:
            return made, self._ring.wrapping.wrap(arrival.key.root, material)
        self._keep(arrival, carrier, carried)
        return made, b""

    def _unwrap(
        self, objects: SessionObjects, arrival: _Arrival, material: ObjectTemplate
    ) -> KeyHandle:
        """Unwrap what the caller sent."""
        private = self._transfer.keys.get(arrival.transfer_id).private
        mechanism = ck.rsa_oaep(arrival.algorithm.hash_name)
        data = arrival.data

        def unwrap(
            under: KeyHandle, how: Mechanism, wrapped: bytes, template: ObjectTemplate
        ) -> KeyHandle:
            made = template.to_make(_NO_HARDENING)
            return objects.keep(
                self._blaming(arrival, lambda: self._session.unwrap(under, how, wrapped, made))
            )

        if ImportForm.KEY_WRAP not in arrival.form:
            return unwrap(private, mechanism, data, material)
        split = len(data) - arrival.kind.wrapped_bytes
        template = session_key_template("UNWRAP", made_here=False)
        between = unwrap(private, mechanism, data[:split], template)
        return unwrap(between, ck.aes_key_wrap(), data[split:], material)

    def _check_value(self, arrival: _Arrival, in_use: KeyHandle) -> bytes:
        """Return what shows that material is the same, 44 bytes for AES, else a hash's length."""
        if arrival.kind.usage is KeyUsage.GENERATE_VERIFY_MAC:
            (algorithm,) = arrival.kind.algorithms
            mechanism = ck.hmac(algorithm.hash_name)
            return self._session.sign(in_use, mechanism, _CHECK_AAD + arrival.key.ref)
        # Encrypted anew under the IV of the first time, and not decrypted: the same key
        # makes the same bytes, and a module's ways to refuse a tag do not matter.
        mechanism = ck.aes_gcm(arrival.iv, _CHECK_AAD + arrival.key.ref)
        return arrival.iv + self._session.encrypt(in_use, mechanism, _CHECKED)

    def _keep(self, arrival: _Arrival, carrier: KeyHandle, carried: bytes) -> None:
        """Make the token object, in the place of one that came the same way.

        A crash before the metadata says so leaves an object for a version that has none:
        nobody uses it, and the next import replaces it.

        Raises:
            PolicyRefusedError: There is a key of this id that was made here; or the module
                made an unsafe object; or another process imported at the same time.
        """
        ref = arrival.key.ref
        label = key_template.label_for(ref)
        if any(suffix != key_template.IMPORTED for _, suffix in self._found(ref)):
            raise PolicyRefusedError(f"{label} was made in the HSM, and is not replaced")
        self._ring.objects.forget(ref)
        destroy_version(self._session, self._ring.ladder, ref, self._ring.check_health)
        hardening = self._ring.capabilities.hardening
        template = key_template.imported(arrival.kind).named(ref, label + key_template.IMPORTED)
        handle = self._session.unwrap(
            carrier, ck.aes_key_wrap(), carried, template.to_make(hardening)
        )
        shown = self._session.attributes(handle, key_template.CHECKED_SECRET)
        weakness = key_template.find_weakness(
            shown, template, hardening=hardening, untold=self._ring.capabilities.untold_origin
        )
        # Whoever comes second gives way, so that nobody's material is replaced unseen.
        if weakness is None and len(self._found(ref)) != 1:
            weakness = "another import made an object of this name at the same time"
        if weakness:
            destroy(self._session, handle)
            raise PolicyRefusedError(f"{label}, imported, is not safe to use: {weakness}")

    def _found(self, ref: bytes) -> list[tuple[KeyHandle, str]]:
        found = []
        for handle in find_patiently(self._session, {"TOKEN": True, "ID": ref}):
            shown = self._session.attributes(handle, ("ID", "LABEL"))
            name = key_template.key_id_of(shown.get("ID"), shown.get("LABEL"))
            if name is not None:
                found.append((handle, name[1]))
        return found

    def _blaming(self, arrival: _Arrival, call: Callable[[], T]) -> T:
        """Run a call whose refusal, by an HSM that is well, is the caller's doing.

        Modules answer a wrong length or padding in many ways, among them codes that are
        about the module itself elsewhere.
        """
        try:
            return call()
        except ReturnCodeError as exc:
            if exc.action not in {Action.POLICY, Action.CALLER}:
                raise
            self._transfer.check_key(arrival.transfer_id, arrival.algorithm)
            raise TamperedError from exc

    def _find_again(self, arrival: _Arrival) -> None:
        """Drop stale handles: of the wrapping key, and of the root."""
        self._transfer.keys.load(arrival.transfer_id)
        if arrival.key.root:
            self._ring.wrapping.refind_root(arrival.key.root)
