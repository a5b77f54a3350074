"""A wrapping root that is not the key that it was: nothing is wrapped under it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.hsm_keys import new_key, new_wrapped
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import RecordingObserver, TestToken, running_pool

from strongroom_server.errors import HsmUnavailableError
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.inventory import ItemKind, list_objects
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import HsmFaultError
from strongroom_server.hsm.ring_errors import MaterialDamagedError
from strongroom_server.hsm.token import KeyHandle, TokenSession

pytestmark = pytest.mark.hsm


@pytest.fixture
def replace_root(session: TokenSession) -> Callable[[int], None]:
    """Return what puts another key in a root's place, as damage of its value would."""

    def replace(number: int) -> None:
        (old,) = _root(session, number)
        session.destroy(old)
        template = key_template.root().named(
            key_template.root_id(number), key_template.label_for_root(number)
        )
        hardening = check_module(session)[0].hardening
        session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), template.to_make(hardening))

    return replace


def _root(session: TokenSession, number: int) -> list[KeyHandle]:
    return session.find({"ID": key_template.root_id(number), "TOKEN": True})


def _restarted(session: TokenSession) -> KeyRing:
    ring = KeyRing(session, *check_module(session), verify_after_encrypt=True, unwrapped_keys=16)
    ring.load_all()
    return ring


def test_nothing_is_wrapped_under_another_root(
    ring: KeyRing, session: TokenSession, replace_root: Callable[[int], None]
) -> None:
    """No key is made under a changed root, none is moved to it, and old ones say so."""
    key = new_wrapped(ring)
    ring.wrapping.create_root(2)
    other = ring.wrapping.rewrap(key, 2)
    replace_root(1)
    again = _restarted(session)
    text = "strongroom-root/1 is not the key that it was"
    with pytest.raises(MaterialDamagedError, match=text):
        again.create_wrapped(new_key(root=1))
    with pytest.raises(MaterialDamagedError, match=text):
        again.wrapping.rewrap(key._replace(root=2, wrapped=other), 1)
    with pytest.raises(MaterialDamagedError, match=text):
        again.encrypt(key, b"hello", AAD)
    # The other root is none the worse.
    moved = key._replace(root=2, wrapped=other)
    assert again.decrypt(moved, again.encrypt(moved, b"hello", AAD), AAD) == b"hello"
    again.create_wrapped(new_key(root=2))


def test_a_root_is_checked_once(ring: KeyRing, session: TokenSession) -> None:
    """The check costs one unwrapping in a process, and is made with the root, once."""
    new_wrapped(ring)
    ring.wrapping.create_root(1)
    assert len(session.find({"LABEL": key_template.label_for_root_check(1)})) == 1
    again = _restarted(session)
    again.create_wrapped(new_key(root=1))
    (check,) = session.find({"LABEL": key_template.label_for_root_check(1)})
    session.destroy(check)
    again.create_wrapped(new_key(root=1))


def test_a_root_of_an_older_release_has_no_check(ring: KeyRing, session: TokenSession) -> None:
    """A root without a check is used as it is, and gets none that would bless what it is now."""
    key = new_wrapped(ring)
    (check,) = session.find({"LABEL": key_template.label_for_root_check(1)})
    session.destroy(check)
    again = _restarted(session)
    again.create_wrapped(new_key(root=1))
    assert again.decrypt(key, ring.encrypt(key, b"x", AAD), AAD) == b"x"
    assert not session.find({"LABEL": key_template.label_for_root_check(1)})


def test_the_audit_shows_it(
    ring: KeyRing, session: TokenSession, replace_root: Callable[[int], None]
) -> None:
    """`hsm audit` and `reconcile` call a changed root unsafe, and a check no object of others."""
    new_wrapped(ring)
    ring.wrapping.create_root(2)
    capabilities = check_module(session)[0]
    before = list_objects(session, capabilities)
    assert [(item.kind, item.materials, item.weakness) for item in before] == [
        (ItemKind.ROOT, 1, "")
    ] * 2
    replace_root(2)
    first, second = list_objects(session, capabilities)
    assert first.weakness == ""
    assert "not the key that it was" in second.weakness


@pytest.mark.parametrize("code", [0x05, 0x06, 0x40, 0x110])
def test_a_passing_fault_is_not_another_root(faulty_ring: KeyRing, shim: Shim, code: int) -> None:
    """One refusal of the check, by whatever code, condemns no root."""
    faulty_ring.wrapping.create_root(1)
    faulty_ring.wrapping.refind_root(1)
    shim.once("C_UnwrapKey", code)
    faulty_ring.create_wrapped(new_key(root=1))


def test_a_broken_module_is_not_another_root(faulty_ring: KeyRing, shim: Shim) -> None:
    """When the root does not unwrap anything, it is a fault: the worker goes, the root stays."""
    faulty_ring.wrapping.create_root(1)
    faulty_ring.wrapping.refind_root(1)
    shim.always("C_UnwrapKey", 0x05)
    with pytest.raises(HsmFaultError):
        faulty_ring.create_wrapped(new_key(root=1))


async def test_callers_get_unavailable_and_people_an_alarm(token: TestToken) -> None:
    """A root whose stored value changed: no key is made that the repair of the token would lose."""
    observer = RecordingObserver()
    settings = token.with_settings(sessions=1)
    async with running_pool(settings) as pool:
        await pool.create_root(1, deadline=in_seconds())
        key = await create_key(pool, root=1)
        sealed = await pool.encrypt(key, b"hello", AAD, deadline=in_seconds())
    (path,) = (
        path
        for path in token.tokens.glob("*/*.object")
        if path.name != "token.object" and _is_root(path.read_bytes())
    )
    good = path.read_bytes()
    path.write_bytes(_with_another_value(good))
    async with running_pool(settings, observer) as pool:
        with pytest.raises(HsmUnavailableError):
            await create_key(pool, root=1)
        with pytest.raises(HsmUnavailableError):
            await pool.decrypt(key, sealed, AAD, deadline=in_seconds())
        assert {category for category, _ in observer.alarms} == {"damaged"}
        assert all("restore the token" in text for _, text in observer.alarms)
        assert not observer.lost
    path.write_bytes(good)
    async with running_pool(settings) as pool:
        assert await pool.decrypt(key, sealed, AAD, deadline=in_seconds()) == b"hello"
        await create_key(pool, root=1)


# SoftHSM's object file: attributes one after the other, each u64 type, u64 kind, and for
# bytes u64 length and the bytes; its value is encrypted by CBC, without a MAC.
_WRAP, _VALUE = 0x106, 0x11


def _is_root(content: bytes) -> bool:
    at = content.find(_WRAP.to_bytes(8, "big") + (1).to_bytes(8, "big"))
    return at >= 0 and content[at + 16] != 0


def _with_another_value(content: bytes) -> bytes:
    at = content.find(_VALUE.to_bytes(8, "big") + (3).to_bytes(8, "big"))
    first = at + 24
    return content[:first] + bytes([content[first] ^ 1]) + content[first + 1 :]
