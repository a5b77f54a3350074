"""One damaged object on the token: what is left out, and what goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.support.hsm_keys import new_resident
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import RecordingObserver, TestToken, running_pool

from strongroom_server.errors import HsmUnavailableError
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.inventory import ItemKind, list_objects
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import HsmFaultError

pytestmark = pytest.mark.hsm

_ID = 0x102  # CKA_ID
_ATTRIBUTES = "C_GetAttributeValue"


def _damage(path: Path, attribute: int = 0x3) -> None:
    """Break the padding of an attribute, by default the label, which SoftHSM keeps encrypted."""
    content = path.read_bytes()
    at = content.index(attribute.to_bytes(8, "big") + (3).to_bytes(8, "big"))  # bytes
    end = at + 24 + int.from_bytes(content[at + 16 : at + 24], "big")
    path.write_bytes(content[: end - 1] + bytes([content[end - 1] ^ 0x41]) + content[end:])


async def test_one_damaged_object_is_one_missing_key(token: TestToken) -> None:
    """The region starts, serves its other keys and says what is wrong; repaired, it has all."""
    settings = token.with_settings(sessions=1)
    async with running_pool(settings) as pool:
        first = await create_key(pool)
        sealed = {first: await pool.encrypt(first, b"hello", AAD, deadline=in_seconds())}
        (path,) = (path for path in token.tokens.glob("*/*.object") if path.stem != "token")
        other = await create_key(pool)
        sealed[other] = await pool.encrypt(other, b"hello", AAD, deadline=in_seconds())
    good = path.read_bytes()
    _damage(path)
    observer = RecordingObserver()
    async with running_pool(settings, observer) as pool:
        ((category, text),) = observer.alarms
        assert category == "damaged"
        assert "cannot be read: 1" in text
        assert await pool.decrypt(other, sealed[other], AAD, deadline=in_seconds()) == b"hello"
        with pytest.raises(HsmUnavailableError):
            await pool.decrypt(first, sealed[first], AAD, deadline=in_seconds(2))
        assert await pool.decrypt(other, sealed[other], AAD, deadline=in_seconds()) == b"hello"
    path.write_bytes(good)
    async with running_pool(settings) as pool:
        for material, each in sealed.items():
            assert await pool.decrypt(material, each, AAD, deadline=in_seconds()) == b"hello"


@pytest.mark.parametrize("code", [0x05, 0x13, 0x82])
def test_an_object_is_read_twice(faulty_ring: KeyRing, shim: Shim, code: int) -> None:
    """A passing refusal leaves nothing out."""
    new_resident(faulty_ring)
    shim.once(_ATTRIBUTES, code)
    faulty_ring.load_all()
    assert faulty_ring.key_count == 1
    assert str(faulty_ring.objects.unreadable) == ""


def test_a_module_that_reads_nothing_is_a_fault(faulty_ring: KeyRing, shim: Shim) -> None:
    """Many objects that cannot be read are no damaged objects: the start fails."""
    for _ in range(18):
        new_resident(faulty_ring)
    shim.always(_ATTRIBUTES, 0x05)
    with pytest.raises(HsmFaultError):
        faulty_ring.load_all()


@pytest.mark.parametrize("code", [0xB3, 0x30, 0x101])
def test_a_broken_session_is_no_damaged_object(faulty_ring: KeyRing, shim: Shim, code: int) -> None:
    """What is wrong with session, device or login leaves no object out."""
    new_resident(faulty_ring)
    shim.always(_ATTRIBUTES, code)
    with pytest.raises(HsmFaultError):
        faulty_ring.load_all()


def test_the_inventory_counts_them(faulty_ring: KeyRing, shim: Shim) -> None:
    """`hsm audit` and `reconcile` show what cannot be read, and the rest."""
    for _ in range(3):
        new_resident(faulty_ring)
    capabilities = check_module(faulty_ring.session)[0]
    shim.rule(_ATTRIBUTES, 0x05, times=4)  # two objects, each with its lengths, read twice
    items = list_objects(faulty_ring.session, capabilities)
    shim.heal()
    *versions, last = items
    assert {item.kind for item in versions} == {ItemKind.VERSION}
    assert last.kind is ItemKind.UNREADABLE
    assert last.materials + len(versions) == 3
    assert "CKR_GENERAL_ERROR" in last.weakness


@pytest.mark.parametrize("attribute", [_ID, 0x3, 0x11], ids=["id", "label", "value"])
@pytest.mark.parametrize("is_root", [False, True], ids=["key", "root"])
async def test_calling_a_damaged_key_costs_nobody_else(
    token: TestToken, attribute: int, *, is_root: bool
) -> None:
    """However often a damaged key is called, no worker goes and the breaker stays closed."""
    settings = token.with_settings(sessions=2)
    async with running_pool(settings) as pool:
        if is_root:
            await pool.create_root(1, deadline=in_seconds())
            (path,) = (p for p in token.tokens.glob("*/*.object") if _wraps(p))
        bad = await create_key(pool, root=1 if is_root else None)
        if not is_root:
            (path,) = (p for p in token.tokens.glob("*/*.object") if p.stem != "token")
        sealed = await pool.encrypt(bad, b"hello", AAD, deadline=in_seconds())
        other = await create_key(pool)
        kept = await pool.encrypt(other, b"hello", AAD, deadline=in_seconds())
    good = path.read_bytes()
    _damage(path, attribute)
    observer = RecordingObserver()
    async with running_pool(settings, observer) as pool:
        for _ in range(12):
            with pytest.raises(HsmUnavailableError):
                await pool.decrypt(bad, sealed, AAD, deadline=in_seconds())
            with pytest.raises(HsmUnavailableError):
                await pool.encrypt(bad, b"hello", AAD, deadline=in_seconds())
            assert await pool.decrypt(other, kept, AAD, deadline=in_seconds()) == b"hello"
        with contextlib.ExitStack() as stack:
            if attribute == _ID:  # then SoftHSM finds nothing by its id any more
                stack.enter_context(pytest.raises(HsmUnavailableError, match="cannot make"))
            await create_key(pool)
        assert not observer.lost
        assert not observer.breaker_states
        assert {category for category, _ in observer.alarms} <= {"damaged", "key_absent"}
        assert observer.alarms
    path.write_bytes(good)
    async with running_pool(settings) as pool:
        assert await pool.decrypt(bad, sealed, AAD, deadline=in_seconds()) == b"hello"


def _wraps(path: Path) -> bool:
    content = path.read_bytes()
    at = content.find((0x106).to_bytes(8, "big") + (1).to_bytes(8, "big"))  # CKA_WRAP, bool
    return at >= 0 and content[at + 16] != 0
