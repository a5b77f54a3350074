"""What a module and its token can do, as found at a worker's start; strategies come from it.

Made by `conformance.check_module`, read by the key ring. A capability that is not here is
not used: nothing is tried on a live key to see whether it works.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_template import Hardening

__all__ = ["Capabilities"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found, and which form is used where there are several.

    Attributes:
        hardening: Attributes that the module takes in a template, and acts upon. One that
            it takes and ignores is not asked for: NSS then fails for token objects.
        untold_origin: Of CKA_LOCAL, CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE, those
            that the module does not set on a key which it generated (NSS: CKA_LOCAL). Of
            no use in a check of our keys there.
        wrap_refusal: Why there can be no wrapped storage here; empty when there can be:
            then AES key wrap (RFC 3394) is the form.
        keeps_in: A key with CKA_EXTRACTABLE false is really refused to C_WrapKey.
        wrap_with_trusted: Material with CKA_WRAP_WITH_TRUSTED is really refused to a root
            that is not CKA_TRUSTED (PKCS#11 3.1, 4.9).
        kinds: Keys that can be made and used.
        algorithms: What can be done with them.
        ambiguous: Return codes that mean a fault elsewhere, and with which this module also
            answers bad input: a canary decides.
        quirks: Ids of the known quirks of this module (`quirks`).
    """

    hardening: Hardening
    untold_origin: frozenset[str]
    keeps_in: bool
    wrap_refusal: str
    wrap_with_trusted: bool
    kinds: frozenset[tuple[KeySpec, KeyUsage]]
    algorithms: frozenset[Algorithm]
    ambiguous: frozenset[int]
    quirks: tuple[str, ...]

    @property
    def can_wrap(self) -> bool:
        """Whether material can be kept wrapped, outside the token."""
        return not self.wrap_refusal

    @property
    def oaep_sha256(self) -> bool:
        """Whether RSAES-OAEP takes SHA-256; SHA-1 is what every module has."""
        return Algorithm.RSAES_OAEP_SHA_256 in self.algorithms

    def supports(self, kind: KeyKind) -> bool:
        """Say whether keys of a kind can be made and used."""
        return (kind.spec, kind.usage) in self.kinds

    def algorithms_of(self, kind: KeyKind) -> frozenset[Algorithm]:
        """Return what can be done with keys of a kind."""
        return kind.algorithms & self.algorithms if self.supports(kind) else frozenset()
