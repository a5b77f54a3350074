"""The check at every worker's start: what it finds, what it refuses, and what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.hsm_modules import ModuleMissingError, make_module_token
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import TestToken, new_ref, running_pool

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.errors import KeySpecUnsupportedError, StartRefusedError
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.return_codes import HsmFaultError, ModuleUnusableError
from strongroom_server.hsm.token import TokenSession

pytestmark = pytest.mark.hsm

_CKR_DEVICE_ERROR = 0x30
_CKR_MECHANISM_INVALID = 0x70

_CHECK_AS_UNKNOWN = """
import os, sys
from strongroom_server.hsm import conformance, quirks
from strongroom_server.hsm.token import TokenSession
quirks.quirks_of = lambda info: ()
session = TokenSession.open(sys.argv[1], sys.argv[2], sys.stdin.read(), parameters=sys.argv[3])
try:
    conformance.check_module(session)
except Exception as exc:
    sys.stdout.write(f"{type(exc).__name__}: {exc}")
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture
def shim_session(
    token: TestToken, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TokenSession]:
    """Give a session behind the shim, in this process."""
    for name, value in {**token.settings.module_environment, **shim.environment}.items():
        monkeypatch.setenv(name, value)
    opened = TokenSession.open(str(shim.module), token.settings.token_label, token.pin)
    yield opened
    shim.heal()
    opened.close()


def test_what_softhsm_can_do(
    session: TokenSession, record_property: Callable[[str, object], None]
) -> None:
    """Everything but OAEP with SHA-256; all hardening; in a few milliseconds."""
    began = time.perf_counter()
    capabilities, probe = check_module(session, needs_wrap=True)
    record_property("milliseconds", 1000 * (time.perf_counter() - began))
    assert capabilities.kinds == KINDS.keys()
    assert set(Algorithm) - capabilities.algorithms == {Algorithm.RSAES_OAEP_SHA_256}
    assert not capabilities.oaep_sha256
    assert capabilities.hardening.modifiable
    assert capabilities.hardening.copyable
    assert capabilities.hardening.allowed_mechanisms
    assert capabilities.can_wrap
    assert capabilities.keeps_in
    assert capabilities.wrap_with_trusted
    assert not capabilities.untold_origin
    assert "softhsm-gcm-tamper-general-error" in capabilities.quirks
    assert session.encrypt(probe, ck.aes_gcm(bytes(12), b"x"), b"x")


def test_nothing_is_left_behind(session: TokenSession) -> None:
    """The check leaves the probe and nothing else, on the token nothing at all."""
    _, probe = check_module(session)
    assert session.find({}) == [probe]
    assert not session.find({"TOKEN": True})


def test_no_key_wrap_means_no_wrapped_storage(shim_session: TokenSession, shim: Shim) -> None:
    """Without AES key wrap resident keys are served, and wrapped ones refused with the cure."""
    shim.always("C_UnwrapKey", _CKR_MECHANISM_INVALID)
    capabilities, _ = check_module(shim_session)
    assert not capabilities.can_wrap
    assert "CKM_AES_KEY_WRAP" in capabilities.wrap_refusal
    with pytest.raises(ModuleUnusableError, match='default_storage = "resident"'):
        check_module(shim_session, needs_wrap=True)


async def test_the_server_is_told_at_its_start(token: TestToken, shim: Shim) -> None:
    """A shard that wraps new keys does not start on a module that cannot; the cure is told."""
    shim.always("C_UnwrapKey", _CKR_MECHANISM_INVALID)
    settings = shim.wrap(token.with_settings(sessions=1))
    async with running_pool(settings) as pool:
        with pytest.raises(KeySpecUnsupportedError):
            await pool.create_version(
                new_ref(),
                spec=KeySpec.AES_256,
                usage=KeyUsage.ENCRYPT_DECRYPT,
                root=1,
                deadline=time.monotonic() + 10,
            )
    with pytest.raises(StartRefusedError, match='default_storage = "resident"'):
        async with running_pool(replace(settings, needs_wrap=True)):
            pass
    assert shim.calls("C_Login") == 2


def test_no_curves_means_no_such_keys(shim_session: TokenSession, shim: Shim) -> None:
    """What cannot be verified and cannot be made is no kind that is offered."""
    shim.always("C_Verify", _CKR_MECHANISM_INVALID)
    capabilities, _ = check_module(shim_session)
    assert (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY) not in capabilities.kinds
    assert (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT) in capabilities.kinds
    assert (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC) in capabilities.kinds


def test_corrupt_results_are_refused(shim_session: TokenSession, shim: Shim) -> None:
    """A module whose AES-GCM gives another result than the known one is not used."""
    shim.once("C_Encrypt", "corrupt")
    with pytest.raises(ModuleUnusableError, match="known-answer"):
        check_module(shim_session)


def test_corrupt_wraps_are_refused(shim_session: TokenSession, shim: Shim) -> None:
    """A module whose AES key wrap gives another result than RFC 3394's is not used."""
    shim.once("C_WrapKey", "corrupt")
    with pytest.raises(ModuleUnusableError, match="RFC 3394"):
        check_module(shim_session)


@pytest.mark.parametrize("function", ["C_Encrypt", "C_WrapKey", "C_Verify", "C_GenerateKey"])
def test_a_fault_is_no_lack(shim_session: TokenSession, shim: Shim, function: str) -> None:
    """A device that breaks during the check is a fault: nothing is concluded from it."""
    shim.once(function, _CKR_DEVICE_ERROR)
    with pytest.raises(HsmFaultError):
        check_module(shim_session)


def test_only_known_modules_may_let_keys_out(tmp_path: Path) -> None:
    """A module that wraps unextractable keys is refused unless the table of quirks has it."""
    try:
        token = make_module_token("nss", tmp_path / "nss")
    except ModuleMissingError as exc:
        pytest.skip(str(exc))
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            _CHECK_AS_UNKNOWN,
            str(token.module),
            token.label,
            token.parameters,
        ],
        input=token.pin.encode(),
        env={**os.environ, **token.environment},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert child.stdout.decode().startswith("ModuleUnusableError: the module wraps a key that is")
