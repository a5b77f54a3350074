"""The keys of one token session: handles, operations, and the ladder of recovery.

Handles are found once, at the start, and after creation; the path of a request has no
search unless a handle is missing or has gone stale. A key that should be there and is
not is a fault (KeyAbsentError), never "not found".
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Final

from strongroom_server.hsm import key_template
from strongroom_server.hsm.mechanisms import (
    IV_BYTES,
    Action,
    HsmFaultError,
    KeyAbsentError,
    KeyUnsafeError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
)
from strongroom_server.hsm.token import KeyHandle, TokenSession

__all__ = ["KeyRing"]

_FIND_ATTEMPTS: Final = 3
_FIND_PAUSE_SECONDS: Final = 0.01
_CANARY: Final = b"strongroom canary"


class KeyRing:
    """What a worker does with its session.

    Every method raises HsmFaultError when session, token or module failed; then neither
    this object nor its process is of any more use.

    Thread safety: none; one thread.
    """

    def __init__(self, session: TokenSession, probe: KeyHandle, *, verify_after_encrypt: bool):
        """Take over a session.

        Args:
            session: Logged in, the module checked.
            probe: A private session key; it works as long as the login does.
            verify_after_encrypt: Decrypt what was encrypted before answering.
        """
        self._session = session
        self._probe = probe
        self._verify = verify_after_encrypt
        self._keys: dict[bytes, KeyHandle] = {}
        # By key id, made when first needed: IV and sealed _CANARY. One per key and
        # process, so that a flood of forged ciphertexts uses up no encryptions of a key
        # (SP 800-38D, 8.3).
        self._canaries: dict[bytes, tuple[bytes, bytes]] = {}

    @property
    def key_count(self) -> int:
        """How many keys are loaded."""
        return len(self._keys)

    def random(self, number_of_bytes: int) -> bytes:
        """Return random bytes of the HSM."""
        try:
            return self._session.random(number_of_bytes)
        except ReturnCodeError as exc:
            if exc.action is not Action.RETRY:
                raise HsmFaultError(f"random: {exc}") from exc
        try:
            return self._session.random(number_of_bytes)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"random: {exc}") from exc

    def encrypt(self, key_id: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return IV || ciphertext || tag; the IV comes from the HSM's generator.

        Raises:
            KeyAbsentError: The token is well and shows no such key.
            PolicyRefusedError: The module refuses as such.
        """
        return self._seal(key_id, self.random(IV_BYTES), plaintext, aad)

    def generate_data_key(
        self, key_id: bytes, number_of_bytes: int, aad: bytes
    ) -> tuple[bytes, bytes]:
        """Return random bytes of the HSM, plain and sealed; raises as `encrypt`.

        One call to the generator makes both the IV and the data key.
        """
        made = self.random(IV_BYTES + number_of_bytes)
        data_key = made[IV_BYTES:]
        return data_key, self._seal(key_id, made[:IV_BYTES], data_key, aad)

    def decrypt(self, key_id: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext of IV || ciphertext || tag.

        Raises:
            TamperedError: The tag does not match, and the HSM is well.
            KeyAbsentError: The token is well and shows no such key.
            PolicyRefusedError: The module refuses as such.
        """
        key = self._keys.get(key_id) or self.load(key_id)
        iv, body = sealed[:IV_BYTES], sealed[IV_BYTES:]
        try:
            return self._session.decrypt(key, iv, body, aad)
        except ReturnCodeError as exc:
            error = exc
        if error.action is Action.CALLER:
            raise TamperedError
        if error.action is not Action.AMBIGUOUS:
            return self._recover(
                key_id, error, lambda found: self._session.decrypt(found, iv, body, aad)
            )
        self._check_canary(key_id, key, error)
        # Once more after a good canary: a passing fault must not look like tampering.
        try:
            return self._session.decrypt(key, iv, body, aad)
        except ReturnCodeError as exc:
            if exc.action in {Action.CALLER, Action.AMBIGUOUS}:
                raise TamperedError from exc
            raise HsmFaultError(f"decrypt: {error}, then {exc}") from exc

    def create(self, key_id: bytes) -> None:
        """Generate the key of this id unless it is there, check it, keep its handle.

        A crash after the generation leaves a key that the next call, or the next start,
        checks and takes over.

        Raises:
            PolicyRefusedError: The module refuses, or made an unsafe key (now destroyed).
        """
        if not self._find(key_id):
            self._generate(key_id)
        self.load(key_id)

    def load(self, key_id: bytes) -> KeyHandle:
        """Search for a key, check it, keep its handle.

        Raises:
            KeyAbsentError: The token is well and does not show exactly one such key.
            PolicyRefusedError: The key's attributes are unsafe.
        """
        self._keys.pop(key_id, None)
        found = self._find(key_id)
        if len(found) != 1:
            self.check_health()
            raise KeyAbsentError(
                f"{len(found) or 'no'} keys with label {key_template.label_for(key_id)}"
            )
        try:
            self._check_attributes(found[0], key_id)
        except KeyUnsafeError as exc:
            raise PolicyRefusedError(str(exc)) from exc
        self._keys[key_id] = found[0]
        return found[0]

    def load_all(self) -> None:
        """Find and check every key of ours.

        Raises:
            KeyUnsafeError: One of them could escape, or two carry the same id.
        """
        names = ("ID", "LABEL")
        loaded: dict[bytes, KeyHandle] = {}
        try:
            for key in self._session.find_aes_keys():
                shown = self._session.attributes(key, names)
                key_id = shown.get("ID")
                if not isinstance(key_id, bytes) or not key_template.is_ours(
                    key_id, shown.get("LABEL")
                ):
                    continue
                if key_id in loaded:
                    raise KeyUnsafeError(
                        f"two keys carry the label {key_template.label_for(key_id)}: destroy "
                        "the one that decrypts nothing"
                    )
                self._check_attributes(key, key_id)
                loaded[key_id] = key
        except ReturnCodeError as exc:
            raise HsmFaultError(f"load keys: {exc}") from exc
        self._keys = loaded

    def check_health(self) -> None:
        """Check that the token is there and that this session is still logged in."""
        try:
            self._session.check_present()
            self._session.encrypt(self._probe, self._session.random(IV_BYTES), _CANARY, _CANARY)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"health check: {exc}") from exc

    def close(self) -> None:
        """Finalise the module; called when the pool lets go, never after a fault."""
        try:
            self._session.close()
        except ReturnCodeError as exc:
            raise HsmFaultError(f"finalise: {exc}") from exc

    def _seal(self, key_id: bytes, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
        key = self._keys.get(key_id) or self.load(key_id)
        try:
            sealed = self._session.encrypt(key, iv, plaintext, aad)
        except ReturnCodeError as exc:
            sealed = self._recover(
                key_id, exc, lambda found: self._session.encrypt(found, iv, plaintext, aad)
            )
            key = self._keys[key_id]
        if self._verify:
            try:
                again = self._session.decrypt(key, iv, sealed, aad)
            except ReturnCodeError as exc:
                raise HsmFaultError(f"verify after encrypt: {exc}") from exc
            if not hmac.compare_digest(again, plaintext):
                raise HsmFaultError("verify after encrypt: the HSM returns another plaintext")
        return iv + sealed

    def _recover(
        self, key_id: bytes, error: ReturnCodeError, call: Callable[[KeyHandle], bytes]
    ) -> bytes:
        """Do what the code obliges us to: at most one more `call`."""
        if error.action is Action.POLICY:
            raise PolicyRefusedError(str(error)) from error
        if error.action is Action.REFIND:
            key = self.load(key_id)
        elif error.action is Action.RETRY:
            key = self._keys[key_id]
        else:
            raise HsmFaultError(str(error)) from error
        try:
            return call(key)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"{error}, then {exc}") from exc

    def _check_canary(self, key_id: bytes, key: KeyHandle, error: ReturnCodeError) -> None:
        """Tell a bad ciphertext from a bad HSM: decrypt a known good one, same key and session."""
        try:
            canary = self._canaries.get(key_id)
            if canary is None:
                iv = self._session.random(IV_BYTES)
                canary = (iv, self._session.encrypt(key, iv, _CANARY, _CANARY))
                self._canaries[key_id] = canary
            plaintext = self._session.decrypt(key, *canary, _CANARY)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"decrypt: {error}, then canary: {exc}") from exc
        if plaintext != _CANARY:
            raise HsmFaultError(f"decrypt: {error}, then a wrong canary")

    def _find(self, key_id: bytes) -> list[KeyHandle]:
        """Search by id and label.

        SoftHSM before 2.7 may answer GENERAL_ERROR to a search beside a key generation,
        so that code is worth another try.
        """
        for left in reversed(range(_FIND_ATTEMPTS)):
            try:
                return [
                    key
                    for key in self._session.find_aes_keys(key_id=key_id)
                    if key_template.is_ours(
                        key_id, self._session.attributes(key, ("LABEL",)).get("LABEL")
                    )
                ]
            except ReturnCodeError as exc:
                if not left or exc.action is not Action.AMBIGUOUS:
                    raise HsmFaultError(f"find: {exc}") from exc
                time.sleep(_FIND_PAUSE_SECONDS)
        raise HsmFaultError("find")  # not reached: the last round returns or raises

    def _generate(self, key_id: bytes) -> None:
        label = key_template.label_for(key_id)
        hardened = {**key_template.REQUIRED, **key_template.HARDENING}
        took_hardening = True
        try:
            try:
                key = self._session.generate_aes_key(
                    key_id, label, hardened, on_token=True, only_gcm=True
                )
            except ReturnCodeError as exc:
                if exc.action is not Action.POLICY:
                    raise
                took_hardening = False
                key = self._session.generate_aes_key(
                    key_id, label, key_template.REQUIRED, on_token=True, only_gcm=False
                )
        except ReturnCodeError as exc:
            if exc.action is Action.POLICY:
                raise PolicyRefusedError(f"generate: {exc}") from exc
            raise HsmFaultError(f"generate: {exc}") from exc
        try:
            self._check_attributes(key, key_id, hardened=took_hardening)
        except KeyUnsafeError as exc:
            self._destroy(key)
            raise PolicyRefusedError(str(exc)) from exc

    def _destroy(self, key: KeyHandle) -> None:
        try:
            self._session.destroy(key)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"destroy: {exc}") from exc

    def _check_attributes(self, key: KeyHandle, key_id: bytes, *, hardened: bool = False) -> None:
        try:
            shown = self._session.attributes(key, key_template.CHECKED)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"read attributes: {exc}") from exc
        weakness = key_template.find_weakness(shown, hardened=hardened)
        if weakness:
            raise KeyUnsafeError(f"{key_template.label_for(key_id)} is not safe to use: {weakness}")
