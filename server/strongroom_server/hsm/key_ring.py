"""The keys of one token session: symmetric operations, creation, health.

    KeyRing ─┬─ TokenObjects   resident keys: handles by id
             ├─ Wrapping       roots; keys of wrapped storage, unwrapped when used
             └─ Ladder         what a return code obliges us to do

`Signer` (`asymmetric`) and `Transfer` (`transfer`) work on a ring.
"""

from __future__ import annotations

import hmac as constant_time
from collections.abc import Callable
from typing import Final, TypeVar

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.capabilities import Capabilities
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.destruction import destroy_version
from strongroom_server.hsm.handles import BoundedMap, destroy
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.return_codes import (
    HsmFaultError,
    ModuleUnusableError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
)
from strongroom_server.hsm.ring_errors import UnsupportedError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.token_objects import ResidentKey, TokenObjects
from strongroom_server.hsm.wire_operations import KIND_BY_NUMBERS, ORIGIN_EXTERNAL, WireKey
from strongroom_server.hsm.wrapping import Wrapping

__all__ = ["KeyRing"]

T = TypeVar("T")

_CANARY: Final = b"strongroom canary"
_MAX_CANARIES: Final = 10_000
_NO_HARDENING: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)


class KeyRing:
    """What a worker does with its session.

    Every method raises HsmFaultError when session, token or module failed; then neither
    this object nor its process is of any more use. Every method with a key raises

    KeyAbsentError: the token is well and shows no such key, or no such root;
    MaterialDamagedError: wrapped material does not unwrap, and its root is well;
    PolicyRefusedError: the module refuses as such, or the key is unsafe;
    UnsupportedError: the module does not do this.

    Thread safety: none; one thread.
    """

    def __init__(
        self,
        session: TokenSession,
        capabilities: Capabilities,
        probe: KeyHandle,
        *,
        verify_after_encrypt: bool,
        unwrapped_keys: int = 1000,
        recycle_after_unwraps: int = 0,
    ):
        """Take over a session.

        Args:
            session: Logged in, the module checked.
            capabilities: What the check found.
            probe: A private session key that encrypts.
            verify_after_encrypt: Decrypt what was encrypted before answering.
            unwrapped_keys: How many keys of wrapped storage to keep unwrapped.
            recycle_after_unwraps: After so many unwraps `is_worn`; 0 never.
        """
        self.session: Final = session
        self.capabilities: Final = capabilities
        self.ladder: Final = Ladder(
            session, on_reopened=self._on_reopened, ambiguous=capabilities.ambiguous
        )
        self.objects: Final = TokenObjects(session, self.ladder, capabilities, self.check_health)
        self.wrapping: Final = Wrapping(
            session, self.ladder, capabilities, self.check_health, unwrapped_keys=unwrapped_keys
        )
        self._probe: KeyHandle | None = probe
        self._verify = verify_after_encrypt
        self._recycle_after_unwraps = recycle_after_unwraps
        # IV and sealed _CANARY, made when first needed: one per key and process, so that
        # a flood of forged ciphertexts uses up no encryptions of a key (SP 800-38D, 8.3).
        self._canaries: BoundedMap[WireKey, tuple[bytes, bytes]] = BoundedMap(_MAX_CANARIES)

    @property
    def key_count(self) -> int:
        """How many resident keys are loaded."""
        return len(self.objects)

    @property
    def is_worn(self) -> bool:
        """Whether the module has been asked for so much that the process should go."""
        return 0 < self._recycle_after_unwraps <= self.wrapping.unwraps

    # Keys

    def load_all(self) -> None:
        """Find and check every object of ours.

        Raises:
            KeyUnsafeError: One of them could escape, or two carry the same id.
        """
        secrets = self.objects.read_secrets()
        self.wrapping.take_roots(secrets)
        self.objects.load_all(secrets)

    def create(self, key: WireKey) -> None:
        """Generate a resident key unless it is there, check it, keep its handle."""
        kind = self.kind_of(key)
        self.objects.create(key.ref, kind)

    def load(self, key: WireKey) -> None:
        """Search for a resident key, check it, keep its handle."""
        self.objects.load(key.ref, is_external=_is_external(key))

    def destroy(self, key: WireKey) -> None:
        """Destroy a version's objects, and require that a fresh search finds none."""
        if key.root:
            self.wrapping.discard(key.ref)
        # Of a wrapped version there should be none on the token; whatever is, goes too.
        self.objects.forget(key.ref)
        destroy_version(self.session, self.ladder, key.ref, self.check_health)

    def create_wrapped(self, key: WireKey) -> bytes:
        """Make material under a root, and return it wrapped."""
        return self.wrapping.create(self.kind_of(key), key.root)

    def kind_of(self, key: WireKey, algorithm: int | None = None) -> KeyKind:
        """Return what a key is.

        Raises:
            UnsupportedError: The module has no such keys, or not this algorithm.
        """
        kind = KIND_BY_NUMBERS[key.spec, key.usage]
        if not self.capabilities.supports(kind):
            raise UnsupportedError(kind.name)
        if algorithm is not None and algorithm not in self.capabilities.algorithms_of(kind):
            raise UnsupportedError(f"{Algorithm(algorithm).name} with {kind.name}")
        return kind

    def resident(self, key: WireKey) -> ResidentKey:
        """Return a resident key."""
        kind = KIND_BY_NUMBERS[key.spec, key.usage]
        return self.objects.get(key.ref, kind, is_external=_is_external(key))

    def handle(self, key: WireKey) -> KeyHandle:
        """Return the handle of a secret or private key; looked up for every call."""
        return self.wrapping.handle(key) if key.root else self.resident(key).handle

    def run(
        self,
        key: WireKey,
        call: Callable[[], T],
        *,
        what: str,
        canary: Callable[[], None] | None = None,
    ) -> T:
        """Run a call that uses a key, with the ladder of recovery (`Ladder.run`)."""
        return self.ladder.run(call, what=what, canary=canary, refind=lambda: self._find_again(key))

    # Operations

    def random(self, number_of_bytes: int) -> bytes:
        """Return random bytes of the HSM."""
        try:
            return self.ladder.run(lambda: self.session.random(number_of_bytes), what="random")
        except (PolicyRefusedError, TamperedError) as exc:
            raise HsmFaultError(f"random: {exc}") from exc  # no module can do without

    def encrypt(self, key: WireKey, plaintext: bytes, aad: bytes) -> bytes:
        """Return IV || ciphertext || tag; the IV comes from the HSM's generator."""
        return self._seal(key, self.random(IV_BYTES), plaintext, aad)

    def generate_data_key(
        self, key: WireKey, number_of_bytes: int, aad: bytes
    ) -> tuple[bytes, bytes]:
        """Return random bytes of the HSM, plain and sealed.

        One call to the generator makes both the IV and the data key.
        """
        made = self.random(IV_BYTES + number_of_bytes)
        data_key = made[IV_BYTES:]
        return data_key, self._seal(key, made[:IV_BYTES], data_key, aad)

    def decrypt(self, key: WireKey, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext of IV || ciphertext || tag.

        Raises:
            TamperedError: The tag does not match, and the HSM is well.
        """
        mechanism = ck.aes_gcm(sealed[:IV_BYTES], aad)
        body = sealed[IV_BYTES:]
        return self.run(
            key,
            lambda: self.session.decrypt(self.handle(key), mechanism, body),
            what="decrypt",
            canary=lambda: self._check_canary(key),
        )

    def mac(self, key: WireKey, algorithm: int, message: bytes) -> bytes:
        """Return the HMAC of a message, full length."""
        self.kind_of(key, algorithm)
        mechanism = ck.hmac(Algorithm(algorithm).hash_name)
        return self.run(
            key, lambda: self.session.sign(self.handle(key), mechanism, message), what="mac"
        )

    def verify_mac(self, key: WireKey, algorithm: int, message: bytes, mac: bytes) -> None:
        """Verify an HMAC, full length only: made again and compared in constant time.

        Raises:
            TamperedError: It is another one.
        """
        if not constant_time.compare_digest(self.mac(key, algorithm, message), mac):
            raise TamperedError

    # Health

    def check_health(self) -> None:
        """Check that the token is there and that this session is still logged in.

        Raises:
            HsmFaultError: It is not; nothing else.
        """
        try:
            self.session.check_present()
            if self._probe is None:
                self._probe = self.session.generate_key(
                    ck.plain(ck.CKM_AES_KEY_GEN), key_template.probe().to_make(_NO_HARDENING)
                )
            mechanism = ck.aes_gcm(self.session.random(IV_BYTES), _CANARY)
            self.session.encrypt(self._probe, mechanism, _CANARY)
        except ReturnCodeError as exc:
            raise HsmFaultError(f"health check: {exc}") from exc

    def check_module(self) -> None:
        """Check the module as at the start.

        Raises:
            HsmFaultError: It does not pass.
        """
        try:
            _, probe = check_module(self.session)
        except ModuleUnusableError as exc:
            raise HsmFaultError(str(exc)) from exc
        destroy(self.session, probe)

    def close(self) -> None:
        """Finalise the module; called when the pool lets go, never after a fault."""
        try:
            self.session.close()
        except ReturnCodeError as exc:
            raise HsmFaultError(f"finalize: {exc}") from exc

    def _seal(self, key: WireKey, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
        mechanism = ck.aes_gcm(iv, aad)
        sealed = self.run(
            key,
            lambda: self.session.encrypt(self.handle(key), mechanism, plaintext),
            what="encrypt",
        )
        if self._verify:
            mechanism = ck.aes_gcm(iv, aad)  # an HSM may have written into the first one
            try:
                again = self.session.decrypt(self.handle(key), mechanism, sealed)
            except ReturnCodeError as exc:
                raise HsmFaultError(f"verify after encrypt: {exc}") from exc
            if not constant_time.compare_digest(again, plaintext):
                raise HsmFaultError("verify after encrypt: the HSM returns another plaintext")
        return iv + sealed

    def _check_canary(self, key: WireKey) -> None:
        """Tell a bad ciphertext from a bad HSM: decrypt a known good one, same key and session."""
        handle = self.handle(key)
        canary = self._canaries.get(key)
        if canary is None:
            iv = self.session.random(IV_BYTES)
            canary = (iv, self.session.encrypt(handle, ck.aes_gcm(iv, _CANARY), _CANARY))
            self._canaries.put(key, canary)
        iv, sealed = canary
        if self.session.decrypt(handle, ck.aes_gcm(iv, _CANARY), sealed) != _CANARY:
            raise HsmFaultError("a wrong canary")

    def _find_again(self, key: WireKey) -> None:
        """Drop a stale handle; the repeated call makes or finds another."""
        if key.root:
            self.wrapping.forget(key)
        else:
            self.load(key)

    def _on_reopened(self) -> None:
        """Make good what went with a session: its objects."""
        self._probe = None
        self.wrapping.on_reopened()


def _is_external(key: WireKey) -> bool:
    return key.origin == ORIGIN_EXTERNAL
