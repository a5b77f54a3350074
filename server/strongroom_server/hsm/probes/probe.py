"""What a probe is: one question to a module, answered by doing it.

Probes work with session objects, which a `Scratch` makes and clears away; what they find
is a plain value that crosses a pipe as JSON.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.key_template import ObjectTemplate
from strongroom_server.hsm.quirks import quirks_of
from strongroom_server.hsm.return_codes import Action, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession

__all__ = [
    "AES",
    "Finding",
    "Outcome",
    "Probe",
    "Scratch",
    "missing",
    "quirk",
    "refusal_of",
    "works",
]

AES: Final[KeyKind] = KINDS[(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)]


class Outcome(enum.StrEnum):
    """How a feature is."""

    WORKS = "works"
    QUIRK = "quirk"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        outcome: How the feature is.
        detail: What was seen, in a few words.
        consequence: What Strongroom will use or refuse.
    """

    outcome: Outcome
    detail: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A question.

    Attributes:
        feature: Stable name, unique; `quirks` refers to it.
        group: Heading of the doctor's table.
        run: Asks. A ReturnCodeError means that the feature is missing.
        without: Consequence when it is missing.
        is_needed: Whether the server does without it.
        is_slow: Left out of the quick form.
        writes: Makes and destroys a token object; run only where that is allowed.
    """

    feature: str
    group: str
    run: Callable[[Scratch], Finding]
    without: str
    is_needed: bool = False
    is_slow: bool = False
    writes: bool = False


def works(detail: str, consequence: str = "used") -> Finding:
    """Return a good finding."""
    return Finding(Outcome.WORKS, detail, consequence)


def quirk(detail: str, consequence: str) -> Finding:
    """Return a finding that something is otherwise."""
    return Finding(Outcome.QUIRK, detail, consequence)


def missing(detail: str, consequence: str) -> Finding:
    """Return a finding that something cannot be used."""
    return Finding(Outcome.MISSING, detail, consequence)


def refusal_of(call: Callable[[], object]) -> ReturnCodeError | None:
    """Return what a call is refused with; None when it is done."""
    try:
        call()
    except ReturnCodeError as exc:
        return exc
    return None


class Scratch:
    """A session, and objects that live as long as one probe.

    Thread safety: none; one thread.
    """

    def __init__(self, session: TokenSession):
        """Work on a session."""
        self.session: Final = session
        self.mechanisms: Final = session.mechanisms()
        known = quirks_of(session.info())
        self._ambiguous = frozenset(code for each in known for code in each.ambiguous)
        self._made: list[KeyHandle] = []

    def __enter__(self) -> Self:
        """Begin a probe."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy what it made."""
        made, self._made = self._made, []
        for key in made:
            refusal_of(lambda key=key: self.session.destroy(key))  # type: ignore[misc]  # bound per round; the next probe does not need it gone

    def keep(self, key: KeyHandle) -> KeyHandle:
        """Destroy this one too."""
        self._made.append(key)
        return key

    def judge(self, refusal: ReturnCodeError, detail: str, *, good: str) -> Finding:
        """Return what the answer to bad input means: whom does Strongroom blame for it."""
        if refusal.action is Action.CALLER:
            return works(detail, good)
        if refusal.action is Action.AMBIGUOUS or refusal.rv in self._ambiguous:
            return quirk(detail, "a canary tells it from a fault")
        return quirk(detail, "taken for a fault: the worker is replaced")

    def drop(self, key: KeyHandle) -> None:
        """Destroy an object before the probe ends."""
        self.session.destroy(key)
        self._made.remove(key)

    def forget(self) -> None:
        """Leave what was made to the session's end: its handles may mean something else then."""
        self._made.clear()

    def aes(self, template: ObjectTemplate | None = None, **changes: AttributeValue) -> KeyHandle:
        """Generate an AES-256 session key: a key version's, with changes."""
        fixed = (template or key_template.resident_secret(AES)).fixed
        return self.keep(
            self.session.generate_key(
                ck.plain(ck.CKM_AES_KEY_GEN),
                {**fixed, "TOKEN": False, "VALUE_LEN": AES.key_bytes, **changes},
            )
        )

    def root(self, **changes: AttributeValue) -> KeyHandle:
        """Generate a wrapping root that is a session key."""
        return self.aes(key_template.root(), **changes)

    def material(self, **changes: AttributeValue) -> KeyHandle:
        """Generate material as wrapped storage does."""
        return self.aes(key_template.material_at_birth(AES, only_for_trusted=False), **changes)

    def imported(
        self, value: bytes, template: ObjectTemplate | None = None, **changes: AttributeValue
    ) -> KeyHandle:
        """Make an AES session key from a known value."""
        fixed = (template or key_template.resident_secret(AES)).fixed
        return self.keep(
            self.session.create_object({**fixed, "TOKEN": False, "VALUE": value, **changes})
        )

    def secret(self, kind: KeyKind, *, value: bytes | None = None) -> KeyHandle:
        """Make a secret session key of a kind, from a known value or generated."""
        fixed = {**key_template.resident_secret(kind).fixed, "TOKEN": False}
        if value is not None:
            return self.keep(self.session.create_object({**fixed, "VALUE": value}))
        return self.keep(
            self.session.generate_key(
                ck.plain(kind.generate), {**fixed, "VALUE_LEN": kind.key_bytes}
            )
        )

    def pair(
        self,
        kind: KeyKind,
        *,
        public: Mapping[str, AttributeValue] | None = None,
        private: Mapping[str, AttributeValue] | None = None,
    ) -> tuple[KeyHandle, KeyHandle]:
        """Generate a pair of session keys: public, private."""
        one = key_template.public_half(kind, token=False)
        other = key_template.private_half(kind, token=False)
        made = self.session.generate_key_pair(
            ck.plain(kind.generate),
            {**one.fixed, **one.asked, **(public or {})},
            {**other.fixed, **other.asked, **(private or {})},
        )
        return self.keep(made[0]), self.keep(made[1])

    def unwrap(self, root: KeyHandle, mechanism: ck.Mechanism, wrapped: bytes) -> KeyHandle:
        """Unwrap material for use."""
        template = key_template.unwrapped_material(AES).fixed
        return self.keep(self.session.unwrap(root, mechanism, wrapped, template))
