"""Every installed PKCS#11 module behind the session pool: the same results (H8, H9)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.suites import hsm_module as suite
from tests.suites.hsm_module import HsmUnderTest
from tests.support.hsm_modules import (
    MODULES,
    ModuleMissingError,
    ModuleToken,
    make_module_token,
    target_of,
)
from tests.support.softhsm import running_pool

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm.errand import Errand
from strongroom_server.hsm.inventory import Item, ItemKind
from strongroom_server.hsm.pool import SessionPoolSettings
from strongroom_server.hsm.quirks import QUIRKS

pytestmark = pytest.mark.hsm

_NAMES = {"softhsm": "SoftHSM 2", "nss": "NSS softokn", "kryoptic": "kryoptic"}
_ATTACKS = Path(__file__).parents[1] / "support" / "hsm_attacks.py"


def make_or_skip(name: str, directory: Path) -> ModuleToken:
    """Make a token, or skip the test with what to install."""
    try:
        return make_module_token(name, directory)
    except ModuleMissingError as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=MODULES)
def module_token(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleToken:
    """Give a fresh token of each module."""
    return make_or_skip(request.param, tmp_path / request.param)


def quirky(token: ModuleToken) -> frozenset[str]:
    """Return the features that the table of quirks excuses a module from."""
    return frozenset(
        feature
        for quirk in QUIRKS
        if quirk.module == _NAMES[token.name]
        for feature in quirk.features
    )


@contextlib.asynccontextmanager
async def running(token: ModuleToken, sessions: int = 2) -> AsyncIterator[HsmUnderTest]:
    """Run a pool on a token."""
    settings = SessionPoolSettings(
        module=token.module,
        token_label=token.label,
        pin_file=token.pin_file,
        module_environment=token.environment,
        module_parameters=token.parameters,
        sessions=sessions,
    )
    async with running_pool(settings) as pool:
        yield HsmUnderTest(pool, quirky(token))


def attack(token: ModuleToken) -> dict[str, list[int]]:
    """Let whoever has the PIN try; return refused and done for each feature."""
    order = {
        "module": str(token.module),
        "label": token.label,
        "pin": token.pin,
        "parameters": token.parameters,
    }
    child = subprocess.run(
        [sys.executable, _ATTACKS],
        input=json.dumps(order).encode(),
        env={**os.environ, **token.environment},
        capture_output=True,
        timeout=60,
        check=True,
    )
    outcomes: dict[str, list[int]] = json.loads(child.stdout)
    return outcomes


async def test_resident_keys(module_token: ModuleToken) -> None:
    """Resident keys do all that they should, in every session (H9)."""
    async with running(module_token) as hsm:
        await suite.check_resident(hsm)


async def test_wrapped_keys(module_token: ModuleToken) -> None:
    """Wrapped keys do all that they should, and move to another root (H9)."""
    async with running(module_token) as hsm:
        await suite.check_wrapped(hsm)


async def test_kinds(module_token: ModuleToken) -> None:
    """Every kind of key is made and used, or clearly refused where a quirk says so (H9)."""
    async with running(module_token, sessions=1) as hsm:
        for kind in suite.kinds_to_check():
            await suite.check_kind(hsm, kind)


async def test_a_lost_worker(module_token: ModuleToken) -> None:
    """Keys outlive the worker that made them (H9)."""
    async with running(module_token) as hsm:
        await suite.check_lost_worker(hsm)


@pytest.mark.parametrize("target", MODULES)
async def test_transfer(module_token: ModuleToken, target: str, tmp_path: Path) -> None:
    """Material moves from each module to each other one, shown to nobody."""
    other = make_or_skip(target, tmp_path / "target")
    async with running(module_token, sessions=1) as here, running(other, sessions=1) as there:
        await suite.check_transfer(here, there)


async def test_keys_do_not_come_out(
    module_token: ModuleToken, record_property: Callable[[str, object], None]
) -> None:
    """All keys pass the attribute lint, and whoever has the PIN cannot weaken them (H8)."""
    async with running(module_token, sessions=1) as hsm:
        await hsm.pool.create_root(1, deadline=suite.in_seconds())
        await hsm.create()
        await hsm.create(KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)
        await hsm.create(KeySpec.EC_P256, KeyUsage.SIGN_VERIFY)
        await hsm.create(KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT)
    with Errand(target_of(module_token), "list") as errand:
        items = [
            Item.from_json(message["object"]) for message in errand.messages(silence_seconds=60)
        ]
    assert {item.kind for item in items} == {ItemKind.VERSION, ItemKind.ROOT}
    assert len(items) == 5
    assert not [item for item in items if item.weakness]

    outcomes = await asyncio.to_thread(attack, module_token)
    done = {feature for feature, (_, count) in outcomes.items() if count}
    record_property("attempts", sum(map(sum, outcomes.values())))
    record_property("done where a quirk says so", sorted(done))
    assert done <= quirky(module_token)
    assert {"change-extractable", "change-sensitive", "wrap-then-decrypt"} <= outcomes.keys() - done
