"""Wrapped storage inside the HSM: roots, birth of material, its use, its re-wrapping.

Material is born in the HSM as a session object that can do nothing but be wrapped, leaves
it wrapped under a root (AES key wrap, RFC 3394: docs/formats/wrapped-material-v1.md), and
is unwrapped inside for use, as a session object that cannot be extracted any more. The
root is a token object that wraps and unwraps and does nothing else.

Material that does not unwrap under a root that is well is a damaged record
(MaterialDamagedError), not a fault of the HSM and not a caller's mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, root_check
from strongroom_server.hsm.capabilities import Capabilities
from strongroom_server.hsm.ck_attributes import AttributeValue, PreparedTemplate, Template
from strongroom_server.hsm.handles import UnwrappedKeys, destroy, session_objects
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_template import Hardening, ObjectTemplate
from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.return_codes import (
    HsmFaultError,
    KeyAbsentError,
    KeyUnsafeError,
    PolicyRefusedError,
    TamperedError,
)
from strongroom_server.hsm.ring_errors import MaterialDamagedError, UnsupportedError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.token_objects import find_patiently
from strongroom_server.hsm.wire_operations import KIND_BY_NUMBERS, WireKey

__all__ = ["Wrapping"]

_ROOT_NAMES: Final = ("ID", "LABEL", *key_template.CHECKED_SECRET)
_NO_HARDENING: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)


@dataclass(frozen=True, slots=True)
class _Root:
    handle: KeyHandle
    is_trusted: bool


class Wrapping:
    """Roots and unwrapped keys of one session.

    Every method raises HsmFaultError when session, token or module failed, and
    KeyAbsentError when the token is well and does not show a root that it is asked for.

    Thread safety: none; one thread.
    """

    def __init__(
        self,
        session: TokenSession,
        ladder: Ladder,
        capabilities: Capabilities,
        check_health: Callable[[], None],
        *,
        unwrapped_keys: int,
    ):
        """Take over a session.

        Args:
            session: Logged in.
            ladder: Runs its calls.
            capabilities: What the module does.
            check_health: Raises HsmFaultError unless token and login are well.
            unwrapped_keys: How many unwrapped keys to keep.
        """
        self._session = session
        self._ladder = ladder
        self._capabilities = capabilities
        self._check_health = check_health
        self._roots: dict[int, _Root] = {}
        self._canaries: dict[int, bytes] = {}
        self._confirmed: set[int] = set()  # roots that are what they were (`root_check`)
        self._unwrapped = UnwrappedKeys(
            unwrapped_keys, lambda handle: destroy(self._session, handle)
        )
        self._in_use: dict[tuple[int, int], tuple[ObjectTemplate, PreparedTemplate]] = {}
        self.unwraps = 0
        """How often C_UnwrapKey was called: some modules lose memory each time."""

    @property
    def unwrapped(self) -> int:
        """How many unwrapped keys are kept."""
        return len(self._unwrapped)

    def take_roots(self, secrets: Iterable[tuple[KeyHandle, Mapping[str, AttributeValue]]]) -> None:
        """Find the roots among the token's secret keys.

        Raises:
            KeyUnsafeError: One of them could escape, or two carry the same id.
        """
        self._roots = {}
        for handle, shown in secrets:
            number = key_template.root_number(shown.get("ID"), shown.get("LABEL"))
            if number is None:
                continue
            if number in self._roots:
                raise KeyUnsafeError(f"two keys carry the label {_label(number)}")
            self._roots[number] = self._checked_root(number, handle, shown, None)

    def create_root(self, number: int) -> None:
        """Generate a root unless it is there; idempotent.

        Raises:
            UnsupportedError: The module cannot hold a root.
            PolicyRefusedError: The module refuses, or made an unsafe key (now destroyed).
        """
        self._refuse_unless_able()
        hardening = self._capabilities.hardening
        made = self._ladder.run(lambda: self._make_unless_there(number), what="generate root")
        if made is not None:
            shown = self._ladder.run(
                lambda: self._session.attributes(made, _ROOT_NAMES), what="read attributes"
            )
            try:
                self._checked_root(number, made, shown, hardening)
            except KeyUnsafeError as exc:
                destroy(self._session, made)
                raise PolicyRefusedError(str(exc)) from exc
        self._load_root(number)
        self._ladder.run(lambda: self._make_check_unless_there(number), what="make root check")

    def create(self, kind: KeyKind, root: int) -> bytes:
        """Make new material and return it wrapped; nothing of it stays in the HSM.

        Raises:
            UnsupportedError: The module cannot wrap such keys.
        """
        self._refuse_unless_able(kind)
        return self._ladder.run(
            lambda: self._bear(kind, self._same_root(root)),
            what="create",
            refind=lambda: self.refind_root(root),
        )

    def handle(self, key: WireKey) -> KeyHandle:
        """Return a key that is unwrapped, unwrapping it when it is not.

        Raises:
            MaterialDamagedError: It does not unwrap, under a root that is well.
            PolicyRefusedError: The module refuses, or unwraps to an unsafe key.
        """
        handle = self._unwrapped.get(key)
        if handle is None:
            handle = self._guarded(key, lambda: self._unwrap_for_use(key))
            self._unwrapped.put(key, handle)
        return handle

    def forget(self, key: WireKey) -> None:
        """Drop a handle that went stale."""
        self._unwrapped.forget(key)

    def on_reopened(self) -> None:
        """Drop what went with the old session; roots are token objects and stay."""
        self._unwrapped.forget_all()

    def discard(self, ref: bytes) -> None:
        """Destroy what is unwrapped of a version."""
        self._unwrapped.discard(ref)

    def rewrap(self, key: WireKey, root: int) -> bytes:
        """Return material wrapped under another root; raises as `handle`."""
        self._refuse_unless_able()

        def call() -> bytes:
            with session_objects(self._session) as objects:
                material = objects.keep(self.unwrap_in_passing(key))
                return self.wrap(root, material)

        return self._ladder.run(call, what="rewrap", refind=lambda: self.refind_root(root))

    def unwrap_in_passing(self, key: WireKey) -> KeyHandle:
        """Unwrap material to be wrapped again; the caller destroys it; raises as `handle`."""
        template = key_template.passing_material(_kind(key)).to_make(_NO_HARDENING)
        return self._guarded(key, lambda: self._unwrap(key, template))

    def wrap(self, root: int, material: KeyHandle) -> bytes:
        """Wrap material under a root; raises ReturnCodeError: runs inside a ladder's call.

        Raises:
            MaterialDamagedError: The root is not the key that it was.
        """
        return self._session.wrap(self._same_root(root).handle, ck.aes_key_wrap(), material)

    def check_root(self, number: int) -> None:
        """Unwrap under a root what is known to be good.

        Raises:
            ReturnCodeError: That fails.
            HsmFaultError: It gives no key.
        """
        root = self._root(number)
        kind = root_check.CHECK_KIND
        with session_objects(self._session) as objects:
            wrapped = self._canaries.get(number)
            if wrapped is None:
                wrapped = self._canaries[number] = self._bear(kind, root)
            self.unwraps += 1
            objects.keep(
                self._session.unwrap(
                    root.handle,
                    ck.aes_key_wrap(),
                    wrapped,
                    key_template.passing_material(kind).to_make(_NO_HARDENING),
                )
            )

    def _guarded(self, key: WireKey, call: Callable[[], KeyHandle]) -> KeyHandle:
        """Run an unwrapping; tell damage from faults."""
        kind = _kind(key)
        if len(key.wrapped) != kind.wrapped_bytes:
            raise MaterialDamagedError(
                f"{key_template.label_for(key.ref)}: wrapped material has {len(key.wrapped)} bytes"
            )
        try:
            return self._ladder.run(
                call,
                what="unwrap",
                canary=lambda: self.check_root(key.root),
                refind=lambda: self.refind_root(key.root),
            )
        except TamperedError as exc:
            # The module may have said so by a code that asks for no canary.
            self._ladder.run(lambda: self.check_root(key.root), what="check root")
            self._confirmed.discard(key.root)
            self._ladder.run(lambda: self._same_root(key.root), what="check root")
            raise MaterialDamagedError(
                f"{key_template.label_for(key.ref)}: its wrapped material does not unwrap "
                f"under {_label(key.root)}, which is well"
            ) from exc

    def _unwrap_for_use(self, key: WireKey) -> KeyHandle:
        template, packed = self._prepared(key)
        handle = self._unwrap(key, packed)
        with session_objects(self._session) as objects:
            objects.keep(handle)
            shown = self._session.attributes(handle, template.names)
            weakness = key_template.find_weakness(
                shown, template, hardening=None, untold=self._capabilities.untold_origin
            )
            if weakness:
                raise PolicyRefusedError(
                    f"{key_template.label_for(key.ref)}, unwrapped, is not safe to use: {weakness}"
                )
            objects.release()
        return handle

    def _prepared(self, key: WireKey) -> tuple[ObjectTemplate, PreparedTemplate]:
        """Return the template of keys in use; packed once, for it is used all the time."""
        made = self._in_use.get((key.spec, key.usage))
        if made is None:
            template = key_template.unwrapped_material(_kind(key))
            # No hardening: nobody but this thread reaches a session object.
            packed = PreparedTemplate(template.to_make(_NO_HARDENING))
            made = self._in_use[key.spec, key.usage] = (template, packed)
        return made

    def _unwrap(self, key: WireKey, template: Template) -> KeyHandle:
        root = self._root(key.root)
        self.unwraps += 1
        return self._session.unwrap(root.handle, ck.aes_key_wrap(), key.wrapped, template)

    def _bear(self, kind: KeyKind, root: _Root) -> bytes:
        template = key_template.material_at_birth(
            kind, only_for_trusted=root.is_trusted and self._capabilities.wrap_with_trusted
        )
        with session_objects(self._session) as objects:
            material = objects.keep(
                self._session.generate_key(ck.plain(kind.generate), template.to_make(_NO_HARDENING))
            )
            shown = self._session.attributes(material, template.names)
            weakness = key_template.find_weakness(
                shown, template, hardening=None, untold=self._capabilities.untold_origin
            )
            if weakness:
                raise PolicyRefusedError(f"new material is not safe to use: {weakness}")
            wrapped = self._session.wrap(root.handle, ck.aes_key_wrap(), material)
        if len(wrapped) != kind.wrapped_bytes:
            raise HsmFaultError(f"AES key wrap made {len(wrapped)} bytes of {kind.key_bytes}")
        return wrapped

    def _root(self, number: int) -> _Root:
        return self._roots.get(number) or self._load_root(number)

    def _same_root(self, number: int) -> _Root:
        """Return a root to wrap under: checked, once for each handle, to be what it was.

        Raises:
            MaterialDamagedError: It is not.
        """
        root = self._root(number)
        if number not in self._confirmed:
            checks = root_check.find_checks(self._session, number)
            ambiguous = self._capabilities.ambiguous
            if checks and not root_check.is_same_root(
                self._session, root.handle, checks, ambiguous=ambiguous
            ):
                raise MaterialDamagedError(
                    f"{_label(number)} is not the key that it was when it was made: restore "
                    "the token from its backup"
                )
            self._confirmed.add(number)
        return root

    def _make_check_unless_there(self, number: int) -> None:
        if not root_check.find_checks(self._session, number):
            wrapped = self._bear(root_check.CHECK_KIND, self._root(number))
            hardening = self._capabilities.hardening
            root_check.make_check(self._session, number, wrapped, hardening)

    def refind_root(self, number: int) -> None:
        """Drop the handle of a root, and search for it."""
        self._roots.pop(number, None)
        self._confirmed.discard(number)
        self._load_root(number)

    def _load_root(self, number: int) -> _Root:
        found = self._ladder.run(lambda: self._search(number), what="find root")
        if len(found) != 1:
            self._check_health()
            raise KeyAbsentError(f"{len(found) or 'no'} keys with label {_label(number)}")
        handle, shown = found[0]
        try:
            root = self._roots[number] = self._checked_root(number, handle, shown, None)
        except KeyUnsafeError as exc:
            raise PolicyRefusedError(str(exc)) from exc
        return root

    def _make_unless_there(self, number: int) -> KeyHandle | None:
        """Search, then generate, together: the ladder may repeat it (`token_objects`)."""
        if self._search(number):
            return None
        template = key_template.root().named(key_template.root_id(number), _label(number))
        return self._session.generate_key(
            ck.plain(ck.CKM_AES_KEY_GEN), template.to_make(self._capabilities.hardening)
        )

    def _search(self, number: int) -> list[tuple[KeyHandle, Mapping[str, AttributeValue]]]:
        found: list[tuple[KeyHandle, Mapping[str, AttributeValue]]] = []
        for handle in find_patiently(
            self._session, {"TOKEN": True, "ID": key_template.root_id(number)}
        ):
            shown = self._session.attributes(handle, _ROOT_NAMES)
            if shown.get("LABEL") == _label(number):
                found.append((handle, shown))
        return found

    def _checked_root(
        self,
        number: int,
        handle: KeyHandle,
        shown: Mapping[str, AttributeValue],
        hardening: Hardening | None,
    ) -> _Root:
        weakness = key_template.find_weakness(
            shown,
            key_template.root(),
            hardening=hardening,
            untold=self._capabilities.untold_origin,
        )
        if weakness:
            raise KeyUnsafeError(f"{_label(number)} is not safe to use: {weakness}")
        return _Root(handle, shown.get("TRUSTED") is True)

    def _refuse_unless_able(self, kind: KeyKind | None = None) -> None:
        if self._capabilities.wrap_refusal:
            raise UnsupportedError(f"wrapped storage ({self._capabilities.wrap_refusal})")
        if kind is not None and not (kind.is_wrappable and self._capabilities.supports(kind)):
            raise UnsupportedError(f"{kind.name} in wrapped storage")


def _kind(key: WireKey) -> KeyKind:
    return KIND_BY_NUMBERS[key.spec, key.usage]


def _label(number: int) -> str:
    return key_template.label_for_root(number)
