"""Our token objects: key versions that are resident, by id.

Handles are found once, at the start, and after creation; the path of a request has no
search unless a handle is missing or has gone stale. A key that should be there and is not
is a fault (KeyAbsentError), never "not found".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.capabilities import Capabilities
from strongroom_server.hsm.ck_attributes import AttributeValue, Template
from strongroom_server.hsm.handles import destroy
from strongroom_server.hsm.key_kinds import KINDS, KeyKind, Operand
from strongroom_server.hsm.key_template import ObjectTemplate
from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.return_codes import (
    Action,
    KeyAbsentError,
    KeyUnsafeError,
    PolicyRefusedError,
    ReturnCodeError,
)
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.unreadable import UnreadableObjects

__all__ = ["ResidentKey", "TokenObjects", "find_patiently"]

_FIND_ATTEMPTS: Final = 3
_FIND_PAUSE_SECONDS: Final = 0.01
_NAMES: Final = ("CLASS", "ID", "LABEL")
_SECRET_NAMES: Final = (*_NAMES, *key_template.CHECKED_SECRET[1:])
_PUBLIC_NAMES: Final = (*_NAMES, *key_template.CHECKED_PUBLIC[1:])


@dataclass(frozen=True, slots=True)
class ResidentKey:
    """A key version on the token.

    Attributes:
        handle: Its secret or private key.
        kinds: What it can be: its attributes fit these.
        is_imported: It says of itself that it was brought from outside.
        public: Its public key, when it is half of a pair.
        shown: The public key's attributes, the key itself among them.
    """

    handle: KeyHandle
    kinds: tuple[KeyKind, ...]
    is_imported: bool = False
    public: KeyHandle | None = None
    shown: Mapping[str, AttributeValue] | None = None


def find_patiently(session: TokenSession, template: Template) -> list[KeyHandle]:
    """Search.

    SoftHSM before 2.7 may answer GENERAL_ERROR to a search beside a key generation, so
    that code is worth another try.
    """
    for _ in range(_FIND_ATTEMPTS - 1):
        try:
            return session.find(template)
        except ReturnCodeError as exc:
            if exc.action is not Action.AMBIGUOUS:
                raise
        time.sleep(_FIND_PAUSE_SECONDS)
    return session.find(template)


class TokenObjects:
    """The resident keys of one session.

    Every method raises HsmFaultError when session, token or module failed.

    Thread safety: none; one thread.
    """

    def __init__(
        self,
        session: TokenSession,
        ladder: Ladder,
        capabilities: Capabilities,
        check_health: Callable[[], None],
    ):
        """Take over a session.

        Args:
            session: Logged in.
            ladder: Runs its calls.
            capabilities: What the module does.
            check_health: Raises HsmFaultError unless token and login are well.
        """
        self._session = session
        self._ladder = ladder
        self._hardening = capabilities.hardening
        self._untold = capabilities.untold_origin
        self._check_health = check_health
        self._keys: dict[bytes, ResidentKey] = {}
        self.unreadable: Final = UnreadableObjects(check_health)

    def __len__(self) -> int:
        """Return how many are loaded."""
        return len(self._keys)

    def get(self, ref: bytes, kind: KeyKind, *, is_external: bool = False) -> ResidentKey:
        """Return a key, searching for it when it is not known.

        Args:
            ref: Its id.
            kind: What the metadata says it is.
            is_external: The metadata says that it was brought from outside.

        Raises:
            KeyAbsentError: The token is well and shows no such key.
            PolicyRefusedError: It is unsafe, of another kind, or of another origin.
        """
        key = self._keys.get(ref)
        if key is None or key.is_imported is not is_external:
            key = self.load(ref, is_external=is_external)
        if kind not in key.kinds:
            raise PolicyRefusedError(
                f"{key_template.label_for(ref)} is no key of kind {kind.spec}, {kind.usage}"
            )
        return key

    def load(self, ref: bytes, *, is_external: bool = False) -> ResidentKey:
        """Search for a key, check it, keep its handle; raises as `get`.

        Whoever has the PIN can destroy a key and create an object of known value in its
        place. It shows CKA_LOCAL false and so has to call itself imported (PKCS#11 3.1,
        4.9); then it is only taken where the metadata says so too.
        """
        self._keys.pop(ref, None)
        found = self._ladder.run(lambda: self._search(ref), what="find")
        materials = sum(shown.get("CLASS") != ck.CKO_PUBLIC_KEY for _, shown in found)
        if materials != 1:
            self._check_health()
            raise KeyAbsentError(
                f"{materials or 'no'} keys with label {key_template.label_for(ref)}"
            )
        try:
            keys = self._assemble(found)
        except KeyUnsafeError as exc:
            raise PolicyRefusedError(str(exc)) from exc
        if keys[ref].is_imported is not is_external:
            found_as = "brought from outside" if keys[ref].is_imported else "made in the HSM"
            raise PolicyRefusedError(
                f"{key_template.label_for(ref)} was {found_as}, and the metadata says otherwise"
            )
        self._keys[ref] = keys[ref]
        return keys[ref]

    def load_all(self, secrets: Iterable[tuple[KeyHandle, Mapping[str, AttributeValue]]]) -> None:
        """Find and check every key of ours.

        Args:
            secrets: All secret keys of the token with what they show; read once for all.

        Raises:
            KeyUnsafeError: One of them could escape, or two carry the same id.
        """
        found = [*secrets]
        for object_class, names in (
            (ck.CKO_PRIVATE_KEY, _SECRET_NAMES),
            (ck.CKO_PUBLIC_KEY, _PUBLIC_NAMES),
        ):
            found += self._ladder.run(
                lambda wanted=object_class, names=names: self._read_all(wanted, names),  # type: ignore[misc]  # bound per round
                what="load keys",
            )
        self._keys = self._assemble(found)

    def read_secrets(self) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        """Read all secret keys of the token, whosever they are."""
        return self._ladder.run(
            lambda: self._read_all(ck.CKO_SECRET_KEY, _SECRET_NAMES), what="load keys"
        )

    def _read_all(
        self, object_class: int, names: tuple[str, ...]
    ) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        return [
            (handle, shown)
            for handle in find_patiently(self._session, {"TOKEN": True, "CLASS": object_class})
            if (shown := self.unreadable.read(self._session, handle, names)) is not None
        ]

    def read(
        self, template: Template, names: tuple[str, ...]
    ) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        """Search, and read of each object what is asked for; one round trip per object."""
        return [
            (handle, self._session.attributes(handle, names))
            for handle in find_patiently(self._session, {"TOKEN": True, **template})
        ]

    def create(self, ref: bytes, kind: KeyKind) -> None:
        """Generate the key of this id unless it is there, check it, keep its handle.

        A crash after the generation leaves a key that the next call, or the next start,
        checks and takes over. Half a pair is what a crash amid a generation leaves: its
        creation was never answered, so nobody has used it, and it goes.

        Raises:
            PolicyRefusedError: The module refuses, or made an unsafe key (now destroyed).
        """
        made = self._ladder.run(lambda: self._make_unless_there(ref, kind), what="generate")
        self._ladder.run(lambda: self._check_new(made), what="read attributes")
        self.get(ref, kind)

    def forget(self, ref: bytes) -> None:
        """Let go of a handle: the key is about to be destroyed."""
        self._keys.pop(ref, None)

    def _make_unless_there(
        self, ref: bytes, kind: KeyKind
    ) -> list[tuple[KeyHandle, ObjectTemplate]]:
        """Search, then generate; return what was made.

        Together, because the ladder may repeat it: a module can make the object and then
        answer that its session is gone, and a second object of one id would be unsafe.
        """
        found = self._search(ref)
        classes = {shown.get("CLASS") for _, shown in found}
        whole = (
            {ck.CKO_SECRET_KEY}
            if kind.operand is Operand.SECRET
            else {ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY}
        )
        if classes >= whole:
            return []
        for handle, _ in found:
            destroy(self._session, handle)
        return self._generate(ref, kind)

    def _search(self, ref: bytes) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        return [
            (handle, shown)
            for handle, shown in self.read(
                {"ID": ref}, (*dict.fromkeys((*_SECRET_NAMES, *_PUBLIC_NAMES)),)
            )
            if key_template.key_id_of(shown.get("ID"), shown.get("LABEL"))
        ]

    def _generate(self, ref: bytes, kind: KeyKind) -> list[tuple[KeyHandle, ObjectTemplate]]:
        label = key_template.label_for(ref)
        if kind.operand is Operand.SECRET:
            template = key_template.resident_secret(kind).named(ref, label)
            handle = self._session.generate_key(
                ck.plain(kind.generate), template.to_make(self._hardening)
            )
            return [(handle, template)]
        public = key_template.public_half(kind).named(ref, label + key_template.PUBLIC)
        private = key_template.private_half(kind).named(ref, label)
        handles = self._session.generate_key_pair(
            ck.plain(kind.generate),
            public.to_make(self._hardening),
            private.to_make(self._hardening),
        )
        return [(handles[0], public), (handles[1], private)]

    def _check_new(self, made: list[tuple[KeyHandle, ObjectTemplate]]) -> None:
        for handle, template in made:
            is_public = template.fixed["CLASS"] == ck.CKO_PUBLIC_KEY
            names = _PUBLIC_NAMES if is_public else _SECRET_NAMES
            weakness = key_template.find_weakness(
                self._session.attributes(handle, names),
                template,
                hardening=self._hardening,
                untold=self._untold,
            )
            if weakness:
                for each, _ in made:
                    destroy(self._session, each)
                raise PolicyRefusedError(
                    f"{template.asked['LABEL']!r} is not safe to use: {weakness}"
                )

    def _assemble(
        self, found: Iterable[tuple[KeyHandle, Mapping[str, AttributeValue]]]
    ) -> dict[bytes, ResidentKey]:
        """Judge objects, and put pairs together; others' objects are left out."""
        keys: dict[bytes, ResidentKey] = {}
        publics: dict[bytes, tuple[KeyHandle, Mapping[str, AttributeValue]]] = {}
        for handle, shown in found:
            name = key_template.key_id_of(shown.get("ID"), shown.get("LABEL"))
            if name is None:
                continue
            ref, suffix = name
            is_public = suffix == key_template.PUBLIC
            if ref in (publics if is_public else keys):
                raise KeyUnsafeError(
                    f"two keys carry the label {key_template.label_for(ref)}: destroy "
                    "the one that decrypts nothing"
                )
            if is_public:
                publics[ref] = (handle, shown)
            else:
                kinds = judge(ref, suffix, shown, untold=self._untold)
                keys[ref] = ResidentKey(handle, kinds, suffix == key_template.IMPORTED)
        for ref, (handle, shown) in publics.items():
            private = keys.get(ref)
            if private is None:
                continue  # what a crash amid a generation left, or a destruction
            kinds = judge_public(ref, private.kinds, shown, untold=self._untold)
            keys[ref] = replace(private, kinds=kinds, public=handle, shown=shown)
        return keys


def judge(
    ref: bytes, suffix: str, shown: Mapping[str, object], *, untold: frozenset[str]
) -> tuple[KeyKind, ...]:
    """Return the kinds that a secret or private key's attributes fit.

    Raises:
        KeyUnsafeError: None of them; the message names what is wrong.
    """
    return _judge(
        ref,
        [
            (kind, _template_of(kind, suffix))
            for kind in KINDS.values()
            if suffix == "" or kind.operand is Operand.SECRET
        ],
        shown,
        untold,
    )


def judge_public(
    ref: bytes,
    kinds: tuple[KeyKind, ...],
    shown: Mapping[str, object],
    *,
    untold: frozenset[str],
) -> tuple[KeyKind, ...]:
    """Return those kinds of a private key that its public key's attributes fit, too.

    Raises:
        KeyUnsafeError: None of them; the message names what is wrong.
    """
    return _judge(ref, [(kind, key_template.public_half(kind)) for kind in kinds], shown, untold)


def _template_of(kind: KeyKind, suffix: str) -> ObjectTemplate:
    if suffix == key_template.IMPORTED:
        return key_template.imported(kind)
    if kind.operand is Operand.SECRET:
        return key_template.resident_secret(kind)
    return key_template.private_half(kind)


def _judge(
    ref: bytes,
    candidates: list[tuple[KeyKind, ObjectTemplate]],
    shown: Mapping[str, object],
    untold: frozenset[str],
) -> tuple[KeyKind, ...]:
    fitting = []
    nearest = ""
    for kind, template in candidates:
        # Only kinds of its class and type can say something useful of what is wrong.
        if any(shown.get(name) != template.fixed[name] for name in ("CLASS", "KEY_TYPE")):
            continue
        weakness = key_template.find_weakness(shown, template, hardening=None, untold=untold)
        if weakness is None:
            fitting.append(kind)
        elif not nearest or weakness.count("CKA_") < nearest.count("CKA_"):
            nearest = weakness
    if not fitting:
        raise KeyUnsafeError(
            f"{key_template.label_for(ref)} is not safe to use: "
            f"{nearest or 'it is of no type that we make'}"
        )
    return tuple(fitting)
