"""Key versions destroyed on a real token: gone for every worker, and for every other look."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.hsm_keys import AES, MAC, new_key, new_resident, new_wrapped
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.softhsm import TestToken, new_ref, running_pool

from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage
from strongroom_server.errors import HsmUnavailableError
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.errand import Errand, HsmTarget
from strongroom_server.hsm.inventory import Item
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import KeyAbsentError, ReturnCodeError
from strongroom_server.hsm.token import TokenSession

pytestmark = pytest.mark.hsm

PAIRS = [
    (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
    (KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT),
]


def _names(token: TestToken) -> set[str]:
    """List what another process sees of ours on the token."""
    settings = token.settings
    target = HsmTarget(
        module=settings.module,
        token_label=settings.token_label,
        pin_file=settings.pin_file,
        environment=settings.module_environment,
    )
    with Errand(target, "list") as errand:
        return {Item.from_json(m["object"]).name for m in errand.messages(silence_seconds=30)}


def _label(material: KeyMaterial) -> str:
    return f"strongroom/{material.ref.key_id}/{material.ref.version}"


async def test_a_destroyed_key_is_gone_for_every_worker(token: TestToken) -> None:
    """No worker uses it any more, another process does not see it, its neighbours stay."""
    async with running_pool(token.with_settings(sessions=3)) as pool:
        doomed, other = await create_key(pool), await create_key(pool)
        sealed = await pool.encrypt(doomed, b"x", AAD, deadline=in_seconds())
        await asyncio.gather(  # so that every worker has used it
            *(pool.decrypt(doomed, sealed, AAD, deadline=in_seconds()) for _ in range(60))
        )
        await pool.destroy_version(doomed, deadline=in_seconds(20))
        for _ in range(12):
            with pytest.raises(HsmUnavailableError, match="does not show"):
                await pool.decrypt(doomed, sealed, AAD, deadline=in_seconds())
        await pool.encrypt(other, b"x", AAD, deadline=in_seconds())
        await pool.destroy_version(doomed, deadline=in_seconds(20))  # idempotent
    names = await asyncio.to_thread(_names, token)
    assert _label(doomed) not in names
    assert _label(other) in names


@pytest.mark.parametrize("kind", PAIRS, ids=lambda kind: kind[0].value)
async def test_both_halves_of_a_pair_go(token: TestToken, kind: tuple[KeySpec, KeyUsage]) -> None:
    """Neither the private nor the public key is left, and the pair of another version is."""
    async with running_pool(token.with_settings(sessions=2)) as pool:
        made = [
            await pool.create_version(
                new_ref(), spec=kind[0], usage=kind[1], root=None, deadline=in_seconds(30)
            )
            for _ in range(2)
        ]
        await pool.destroy_version(made[0], deadline=in_seconds(20))
        with pytest.raises(HsmUnavailableError):
            await pool.public_key(made[0], deadline=in_seconds())
        assert await pool.public_key(made[1], deadline=in_seconds())
    names = await asyncio.to_thread(_names, token)
    assert {_label(made[0]), _label(made[0]) + "/public"}.isdisjoint(names)
    assert _label(made[1]) in names


async def test_unwrapped_material_goes_with_the_wrapped(token: TestToken) -> None:
    """Of a wrapped version every worker destroys what it has unwrapped; the root stays."""
    async with running_pool(token.with_settings(sessions=2)) as pool:
        await pool.create_root(1, deadline=in_seconds())
        doomed, other = await create_key(pool, root=1), await create_key(pool, root=1)
        sealed = await pool.encrypt(doomed, b"x", AAD, deadline=in_seconds())
        await pool.destroy_version(doomed, deadline=in_seconds(20))
        # Whoever still had the wrapped bytes could use them: the store erases those.
        assert await pool.decrypt(doomed, sealed, AAD, deadline=in_seconds()) == b"x"
        await pool.encrypt(other, b"x", AAD, deadline=in_seconds())


def test_the_ring_forgets_what_it_destroyed(ring: KeyRing, session: TokenSession) -> None:
    """A resident key is absent afterwards, a session object of a wrapped one is destroyed."""
    resident, wrapped = new_resident(ring, MAC), new_wrapped(ring, MAC)
    unwrapped = ring.handle(wrapped)
    ring.destroy(wrapped)
    with pytest.raises(ReturnCodeError):
        session.attributes(unwrapped, ("CLASS",))
    ring.destroy(resident)
    with pytest.raises(KeyAbsentError):
        ring.handle(resident)
    ring.destroy(new_key(AES))  # never there: what was wanted


def test_objects_of_others_with_the_same_id_stay(ring: KeyRing, session: TokenSession) -> None:
    """What carries our id and not our label is somebody else's."""
    key = new_resident(ring)
    theirs = session.generate_key(
        ck.plain(ck.CKM_AES_KEY_GEN),
        {
            "CLASS": ck.CKO_SECRET_KEY,
            "KEY_TYPE": ck.CKK_AES,
            "TOKEN": True,
            "ID": key.ref,
            "LABEL": "theirs",
            "VALUE_LEN": 32,
        },
    )
    ring.destroy(key)
    assert session.find({"TOKEN": True, "ID": key.ref}) == [theirs]
