"""Moving material from one HSM to another without showing it to anybody between.

    target                                   source
    create_key: RSA pair, UNWRAP only
        public key  ───── authenticated ──►  export: unwraps the material under its root,
                                             wraps it under a fresh session key, that one
    import_: unwraps session key, MAC key, ◄─ blob ─ under the target's public key
    material; wraps it under its own root,
    or keeps it as a token object

docs/formats/key-transfer-v1.md says what each part is for. The material is extractable,
as a session object that can do nothing, for the length of one call on either side.
"""

from __future__ import annotations

import hashlib
import hmac as constant_time
from typing import Final

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings, key_template, transfer_format
from strongroom_server.hsm.handles import SessionObjects, destroy, session_objects
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.key_template import Hardening, ObjectTemplate
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.return_codes import KeyAbsentError, PolicyRefusedError, TamperedError
from strongroom_server.hsm.ring_errors import ArgumentRefusedError, UnsupportedError
from strongroom_server.hsm.token import KeyHandle
from strongroom_server.hsm.transfer_format import (
    MAC_KEY_BYTES,
    SESSION_KEY_BYTES,
    TransferBlob,
    TransferFormatError,
    TransferHeader,
)
from strongroom_server.hsm.transfer_keys import TransferKeys, target_template
from strongroom_server.hsm.wire_operations import WireKey

__all__ = ["Transfer", "session_key_template"]

_NO_HARDENING: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)
_SAME: Final = b"strongroom same key"
"""No encryption of a caller has such AAD: theirs begin with a blob's version byte."""


class Transfer:
    """What a worker does to move material. Errors and threads as for `KeyRing`."""

    def __init__(self, ring: KeyRing):
        """Work on a ring."""
        self._ring = ring
        self._session = ring.session
        self._keys = TransferKeys(ring)

    @property
    def keys(self) -> TransferKeys:
        """The transfer keys of this session."""
        return self._keys

    def create_key(
        self, transfer_id: bytes, modulus_bits: int, wanted: int | None = None
    ) -> tuple[bytes, Algorithm]:
        """Make a transfer key pair unless it is there; the private half stays, and unwraps only.

        Args:
            transfer_id: Its name.
            modulus_bits: Its size.
            wanted: The algorithm to wrap under it; None for the strongest that this module
                takes.

        Returns:
            Its public key, DER SubjectPublicKeyInfo, and that algorithm.
        """
        algorithm = Algorithm.RSAES_OAEP_SHA_1
        if wanted is not None:
            algorithm = Algorithm(wanted)
        elif self._ring.capabilities.oaep_sha256:
            algorithm = Algorithm.RSAES_OAEP_SHA_256
        self.refuse_unless_able(algorithm)
        return self._keys.create(transfer_id, modulus_bits).public_key, algorithm

    def destroy_key(self, transfer_id: bytes) -> None:
        """Destroy a transfer key; one that is gone already is what was wanted."""
        self._keys.destroy(transfer_id)

    def export(self, key: WireKey, algorithm: int, public_key: bytes) -> bytes:
        """Return wrapped material as a transfer blob for the holder of a public key.

        Raises:
            ArgumentRefusedError: The public key is none to wrap under.
        """
        self.refuse_unless_able(algorithm)
        modulus, exponent = encodings.parse_transfer_key(public_key)
        header = TransferHeader(
            Algorithm(algorithm), key.spec, key.usage, key.ref, hashlib.sha256(public_key).digest()
        )
        try:
            return self._ring.run(
                key,
                lambda: self._wrap(key, header, modulus, exponent),
                what="export",
                canary=lambda: self._ring.wrapping.check_root(key.root),
            )
        except TamperedError as exc:
            raise ArgumentRefusedError(
                "public_key", "is not accepted by the HSM to wrap under"
            ) from exc

    def import_(self, key: WireKey, transfer_id: bytes, blob: bytes) -> bytes:
        """Take material out of a transfer blob.

        Args:
            key: What it will be; a root of 0 makes a token object, idempotently.
            transfer_id: Which transfer key the blob was made for.
            blob: What `export` returned in the other HSM.

        Returns:
            The material wrapped under its root; empty for a token object.

        Raises:
            TamperedError: The blob is not for this transfer key, says another key, is
                malformed, or does not verify: nobody is told which.
        """
        try:
            parsed = transfer_format.parse(blob)
        except TransferFormatError as exc:
            raise TamperedError from exc
        self.refuse_unless_able(parsed.header.algorithm)
        kind = self._ring.kind_of(key)
        transfer_key = self._keys.get(transfer_id)
        expected = TransferHeader(
            parsed.header.algorithm,
            key.spec,
            key.usage,
            key.ref,
            hashlib.sha256(transfer_key.public_key).digest(),
        )
        if parsed.header != expected:
            raise TamperedError

        def find_again() -> None:
            self._keys.load(transfer_id)

        wrapped = self._ring.ladder.run(
            lambda: self._unwrap(key, kind, transfer_id, parsed),
            what="import",
            canary=lambda: self.check_key(transfer_id, parsed.header.algorithm),
            refind=find_again,
        )
        if not key.root:
            self._ring.load(key)
        return wrapped

    def _wrap(self, key: WireKey, header: TransferHeader, modulus: bytes, exponent: bytes) -> bytes:
        with session_objects(self._session) as objects:
            target = objects.keep(self._session.create_object(target_template(modulus, exponent)))
            session_key = self.make_secret(
                objects, ck.CKM_AES_KEY_GEN, session_key_template("WRAP", made_here=True)
            )
            mac_key = self.make_secret(
                objects, ck.CKM_GENERIC_SECRET_KEY_GEN, _mac_key_template(made_here=True)
            )
            material = objects.keep(self._ring.wrapping.unwrap_in_passing(key))
            authenticated = b"".join(
                (
                    header.to_bytes(),
                    self._session.wrap(
                        target, ck.rsa_oaep(header.algorithm.hash_name), session_key
                    ),
                    self._session.wrap(session_key, ck.aes_key_wrap(), mac_key),
                    self._session.wrap(session_key, ck.aes_key_wrap(), material),
                )
            )
            return authenticated + self._session.sign(mac_key, ck.hmac("sha256"), authenticated)

    def _unwrap(self, key: WireKey, kind: KeyKind, transfer_id: bytes, blob: TransferBlob) -> bytes:
        with session_objects(self._session) as objects:
            session_key = objects.keep(
                self._session.unwrap(
                    self._keys.get(transfer_id).private,
                    ck.rsa_oaep(blob.header.algorithm.hash_name),
                    blob.session_key,
                    session_key_template("UNWRAP", made_here=False).to_make(_NO_HARDENING),
                )
            )
            mac_key = objects.keep(
                self._session.unwrap(
                    session_key,
                    ck.aes_key_wrap(),
                    blob.mac_key,
                    _mac_key_template(made_here=False).to_make(_NO_HARDENING),
                )
            )
            tag = self._session.sign(mac_key, ck.hmac("sha256"), blob.authenticated)
            if not constant_time.compare_digest(tag, blob.tag):
                raise TamperedError
            if not key.root:
                # Looked for here and not before: the ladder may repeat this, and a module
                # can make the object and then answer that its session is gone.
                if not self._is_there(key):
                    self._keep(key, kind, session_key, blob.material)
                elif not self._is_same(objects, key, kind, session_key, blob.material):
                    raise TamperedError
                return b""
            passing = key_template.passing_material(kind).to_make(_NO_HARDENING)
            material = objects.keep(
                self._session.unwrap(session_key, ck.aes_key_wrap(), blob.material, passing)
            )
            return self._ring.wrapping.wrap(key.root, material)

    def _is_same(
        self,
        objects: SessionObjects,
        key: WireKey,
        kind: KeyKind,
        session_key: KeyHandle,
        wrapped: bytes,
    ) -> bool:
        """Say whether the key that is there has the material of the blob: it does the same."""
        template = key_template.unwrapped_material(kind).to_make(_NO_HARDENING)
        brought = objects.keep(
            self._session.unwrap(session_key, ck.aes_key_wrap(), wrapped, template)
        )
        there = self._ring.resident(key).handle
        if kind.usage is KeyUsage.GENERATE_VERIFY_MAC:
            (algorithm,) = kind.algorithms
            mechanism = ck.hmac(algorithm.hash_name)
            made = [self._session.sign(each, mechanism, _SAME) for each in (brought, there)]
        else:
            iv = self._session.random(IV_BYTES)
            made = [
                self._session.encrypt(each, ck.aes_gcm(iv, _SAME), b"") for each in (brought, there)
            ]
        return constant_time.compare_digest(*made)

    def _keep(self, key: WireKey, kind: KeyKind, session_key: KeyHandle, wrapped: bytes) -> None:
        """Unwrap material into a token object; the last step, so that it is done once."""
        hardening = self._ring.capabilities.hardening
        label = key_template.label_for(key.ref) + key_template.IMPORTED
        template = key_template.imported(kind).named(key.ref, label)
        handle = self._session.unwrap(
            session_key, ck.aes_key_wrap(), wrapped, template.to_make(hardening)
        )
        shown = self._session.attributes(handle, key_template.CHECKED_SECRET)
        weakness = key_template.find_weakness(
            shown, template, hardening=hardening, untold=self._ring.capabilities.untold_origin
        )
        if weakness:
            destroy(self._session, handle)
            raise PolicyRefusedError(f"{label} is not safe to use: {weakness}")

    def make_secret(
        self, objects: SessionObjects, mechanism: int, template: ObjectTemplate
    ) -> KeyHandle:
        """Generate a session key, checked; raises ReturnCodeError: runs inside a ladder's call."""
        handle = objects.keep(
            self._session.generate_key(ck.plain(mechanism), template.to_make(_NO_HARDENING))
        )
        shown = self._session.attributes(handle, template.names)
        weakness = key_template.find_weakness(
            shown, template, hardening=None, untold=self._ring.capabilities.untold_origin
        )
        if weakness:
            raise PolicyRefusedError(f"a key for one transfer is not safe to use: {weakness}")
        return handle

    def check_key(self, transfer_id: bytes, algorithm: Algorithm) -> None:
        """Wrap under the public half, and unwrap under the private one, what is known.

        Raises:
            ReturnCodeError: That fails.
        """
        key = self._keys.get(transfer_id)
        with session_objects(self._session) as objects:
            modulus, exponent = encodings.parse_transfer_key(key.public_key)
            target = objects.keep(self._session.create_object(target_template(modulus, exponent)))
            secret = self.make_secret(
                objects, ck.CKM_AES_KEY_GEN, session_key_template("WRAP", made_here=True)
            )
            objects.keep(
                self._session.unwrap(
                    key.private,
                    ck.rsa_oaep(algorithm.hash_name),
                    self._session.wrap(target, ck.rsa_oaep(algorithm.hash_name), secret),
                    session_key_template("UNWRAP", made_here=False).to_make(_NO_HARDENING),
                )
            )

    def _is_there(self, key: WireKey) -> bool:
        try:
            self._ring.load(key)
        except KeyAbsentError:
            return False
        return True

    def refuse_unless_able(self, algorithm: int) -> None:
        """Raise UnsupportedError where the module cannot take part in this."""
        capabilities = self._ring.capabilities
        if not capabilities.can_wrap or algorithm not in capabilities.algorithms:
            raise UnsupportedError(f"key transfer with {Algorithm(algorithm).name}")


def session_key_template(*uses: str, made_here: bool) -> ObjectTemplate:
    """Describe an AES key that wraps, or unwraps, in one operation."""
    return key_template.secret_for_transfer(
        ck.CKK_AES, SESSION_KEY_BYTES, frozenset(uses), made_here=made_here
    )


def _mac_key_template(*, made_here: bool) -> ObjectTemplate:
    return key_template.secret_for_transfer(
        ck.CKK_GENERIC_SECRET, MAC_KEY_BYTES, frozenset({"SIGN"}), made_here=made_here
    )
