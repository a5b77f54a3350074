"""Sessions and key rings on a token of SoftHSM, one for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import TestToken

from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.token import TokenSession


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the event loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


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
    return KeyRing(session, *check_module(session), verify_after_encrypt=True, unwrapped_keys=16)


@pytest.fixture
def faulty_ring(token: TestToken, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyRing]:
    """Give a key ring in this process, behind the shim."""
    for name, value in {**token.settings.module_environment, **shim.environment}.items():
        monkeypatch.setenv(name, value)
    opened = TokenSession.open(str(shim.module), token.settings.token_label, token.pin)
    yield KeyRing(opened, *check_module(opened), verify_after_encrypt=True, unwrapped_keys=16)
    shim.heal()
    opened.close()
