"""Tokens of SoftHSM, one for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from tests.support.pkcs11_shim import Shim, build_shim
from tests.support.softhsm import TestToken, make_token

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.softhsm import find_softhsm
from strongroom_server.hsm.token import TokenSession


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the event loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def _softhsm() -> None:
    try:
        find_softhsm()
    except StartRefusedError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def token(tmp_path: Path) -> TestToken:
    """Give a fresh token."""
    return make_token(tmp_path / "hsm")


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the compiled shim."""
    module = build_shim(tmp_path_factory.mktemp("shim"))
    if module is None:
        pytest.skip("no C compiler: install gcc to run the fault injection tests")
    return module


@pytest.fixture
def shim(shim_module: Path, token: TestToken, tmp_path: Path) -> Shim:
    """Give a shim in front of SoftHSM, without faults yet."""
    directory = tmp_path / "faults"
    directory.mkdir()
    return Shim(shim_module, directory, token.settings.module)


@pytest.fixture
def session(token: TestToken, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenSession]:
    """Give a session in this process."""
    for name, value in token.settings.module_environment.items():
        monkeypatch.setenv(name, value)
    opened = TokenSession.open(str(token.settings.module), token.settings.token_label, token.pin)
    yield opened
    opened.close()


@pytest.fixture
def ring(session: TokenSession) -> KeyRing:
    """Give a key ring in this process."""
    return KeyRing(session, check_module(session), verify_after_encrypt=True)


@pytest.fixture
def faulty_ring(token: TestToken, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyRing]:
    """Give a key ring in this process, behind the shim."""
    for name, value in {**token.settings.module_environment, **shim.environment}.items():
        monkeypatch.setenv(name, value)
    opened = TokenSession.open(str(shim.module), token.settings.token_label, token.pin)
    yield KeyRing(opened, check_module(opened), verify_after_encrypt=True)
    shim.heal()
    opened.close()
