"""The module that fails on demand does what it is told, in front of each module."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.hsm_modules import ModuleMissingError, ModuleToken, make_module_token
from tests.support.pkcs11_shim import FUNCTIONS, Shim, build_shim

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.ck_attributes import Template
from strongroom_server.hsm.return_codes import ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession

pytestmark = pytest.mark.hsm

IV, AAD, TEXT = bytes(12), b"aad", b"text of sixteen!"
KEY: Template = {
    "CLASS": ck.CKO_SECRET_KEY,
    "KEY_TYPE": ck.CKK_AES,
    "VALUE_LEN": 32,
    "PRIVATE": True,
    "SENSITIVE": True,
    "EXTRACTABLE": False,
    "ENCRYPT": True,
    "DECRYPT": True,
    "ID": b"shim",
}


class Behind:
    """A session behind the shim, with a key on the token."""

    def __init__(self, shim: Shim, token: ModuleToken):
        self.shim = shim
        self.token = token
        self.session = TokenSession.open(
            str(shim.module), token.label, token.pin, parameters=token.parameters
        )
        mechanism = ck.plain(ck.CKM_AES_KEY_GEN)
        self.key: KeyHandle = self.session.generate_key(mechanism, {**KEY, "TOKEN": True})

    def encrypt(self) -> bytes:
        return self.session.encrypt(self.key, ck.aes_gcm(IV, AAD), TEXT)

    def decrypt(self, sealed: bytes) -> bytes:
        return self.session.decrypt(self.key, ck.aes_gcm(IV, AAD), sealed)

    def code_of(self, call: Callable[[], object]) -> int:
        with pytest.raises(ReturnCodeError) as raised:
            call()
        return raised.value.rv


@pytest.fixture(params=["softhsm", "nss"])
def behind(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Behind]:
    """Give a session of each module, each behind a library of its own."""
    try:
        token = make_module_token(request.param, tmp_path / "token")
    except ModuleMissingError as exc:
        pytest.skip(str(exc))
    module = _library(request.param, tmp_path_factory)
    directory = tmp_path / "faults"
    directory.mkdir()
    shim = Shim(module, directory, token.module)
    for name, value in {**token.environment, **shim.environment}.items():
        monkeypatch.setenv(name, value)
    made = Behind(shim, token)
    yield made
    shim.heal()
    made.session.close()


_built: dict[str, Path] = {}


def _library(name: str, factory: pytest.TempPathFactory) -> Path:
    """Compile once for each module: a library that is loaded keeps what is behind it."""
    if name not in _built:
        built = build_shim(factory.mktemp(f"shim-{name}"))
        if built is None:
            pytest.skip("no C compiler: install gcc to run the fault injection tests")
        _built[name] = built
    return _built[name]


def test_names_are_those_of_the_table() -> None:
    """All 68 functions of CK_FUNCTION_LIST are there, at their places."""
    assert len(FUNCTIONS) == 68
    places = {"C_Initialize": 0, "C_Login": 18, "C_FindObjects": 27, "C_Encrypt": 30}
    places |= {"C_VerifyFinal": 51, "C_GenerateRandom": 64, "C_WaitForSlotEvent": 67}
    assert {name: FUNCTIONS.index(name) for name in places} == places


def test_calls_are_counted(behind: Behind) -> None:
    """Every call of every function is counted, and one login is one."""
    before = behind.shim.calls("C_Encrypt")
    behind.encrypt()
    behind.encrypt()
    assert behind.shim.calls("C_Encrypt") == before + 2
    assert behind.shim.calls("C_EncryptInit") == before + 2
    assert behind.shim.logins == 1
    assert behind.shim.calls("C_WaitForSlotEvent") == 0


def test_return_codes_come_when_they_are_due(behind: Behind) -> None:
    """The nth call and as many more as told, of one function or of any, and then no more."""
    shim = behind.shim

    def random() -> bytes:
        return behind.session.random(1)

    shim.rule("C_GenerateRandom", 0x30, nth=2, times=2)
    random()
    assert shim.is_pending("C_GenerateRandom")
    assert [behind.code_of(random) for _ in range(2)] == [0x30, 0x30]
    assert not shim.is_pending("C_GenerateRandom")
    random()
    shim.rule("*", 0x80000001, nth=3)
    behind.encrypt()
    assert behind.code_of(random) == 0x80000001
    random()
    shim.always("C_GenerateRandom", 0x31)
    assert [behind.code_of(random) for _ in range(9)] == [0x31] * 9
    shim.heal()
    random()


def test_a_failed_operation_has_ended(behind: Behind) -> None:
    """A code returned for C_Decrypt leaves no operation behind, unless it is BUFFER_TOO_SMALL."""
    sealed = behind.encrypt()
    behind.shim.once("C_Decrypt", 0x40)
    assert behind.code_of(lambda: behind.decrypt(sealed)) == 0x40
    assert behind.decrypt(sealed) == TEXT
    behind.shim.once("C_Decrypt", 0x150)
    assert behind.code_of(lambda: behind.decrypt(sealed)) == 0x150
    assert behind.code_of(lambda: behind.decrypt(sealed)) == 0x90  # CKR_OPERATION_ACTIVE
    behind.session.reopen()
    assert behind.decrypt(sealed) == TEXT


def test_outputs_are_corrupted(behind: Behind) -> None:
    """One bit of what a call puts out is wrong, once."""
    sealed = behind.encrypt()
    behind.shim.once("C_Encrypt", "corrupt")
    wrong = behind.encrypt()
    assert [a ^ b for a, b in zip(wrong, sealed, strict=True)] == [1] + [0] * (len(sealed) - 1)
    behind.shim.once("C_Decrypt", "corrupt")
    assert behind.decrypt(sealed) != TEXT
    assert behind.decrypt(sealed) == TEXT


def test_calls_are_delayed(behind: Behind) -> None:
    """A delayed call takes as long as told, and works."""
    behind.shim.once("C_GenerateRandom", "delay 200")
    began = time.monotonic()
    assert len(behind.session.random(8)) == 8
    assert time.monotonic() - began >= 0.2


def test_objects_are_hidden(behind: Behind) -> None:
    """A search finds nothing, while handles go on working."""
    behind.shim.once("C_FindObjects", "hide-objects")
    assert behind.session.find({"ID": b"shim"}) == []
    assert behind.encrypt()
    assert behind.session.find({"ID": b"shim"}) == [behind.key]


def test_sessions_are_dropped(behind: Behind) -> None:
    """One session goes, the keeper or the working one, or all of them and the login."""
    sealed = behind.encrypt()
    behind.shim.once("C_EncryptInit", "drop-sessions 1")
    assert behind.encrypt() == sealed
    behind.shim.once("C_EncryptInit", "drop-sessions")
    assert behind.code_of(behind.encrypt) == 0xB3  # CKR_SESSION_HANDLE_INVALID
    behind.session.reopen()
    assert behind.code_of(behind.encrypt) in {0x60, 0x82, 0x101}
    assert behind.shim.logins == 1


def test_one_session_is_dropped(behind: Behind) -> None:
    """The working session goes; the keeper holds the login, and another takes over."""
    sealed = behind.encrypt()
    behind.shim.once("C_EncryptInit", "drop-sessions 2")
    assert behind.code_of(behind.encrypt) == 0xB3
    behind.session.reopen()
    assert behind.encrypt() == sealed
    assert behind.shim.logins == 1


def test_the_login_is_lost(behind: Behind) -> None:
    """After a logout behind its back a session has no use for its keys."""
    behind.shim.once("C_EncryptInit", "lose-login")
    assert behind.code_of(behind.encrypt) in {0x60, 0x82, 0x101}


@pytest.mark.parametrize("what", ["crash", "hang"])
def test_processes_crash_and_hang(behind: Behind, what: str) -> None:
    """A crash ends the process, a hang never returns."""
    token = behind.token
    program = (
        "import sys\n"
        "from strongroom_server.hsm.token import TokenSession\n"
        "module, label, parameters = sys.argv[1:]\n"
        "session = TokenSession.open(module, label, input(), parameters=parameters)\n"
        "print('open', flush=True)\n"
        "session.random(1)\n"
    )
    behind.shim.once("C_GenerateRandom", what)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(behind.shim.module), token.label, token.parameters],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(token.pin + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "open\n"
        if what == "crash":
            assert process.wait(10) < 0
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        assert not behind.shim.is_pending("C_GenerateRandom")
    finally:
        process.kill()
        process.communicate()


def test_the_last_try_is_shown(behind: Behind) -> None:
    """The token says that one more wrong PIN locks it."""
    flag = 0x20000  # CKF_USER_PIN_FINAL_TRY
    assert not behind.session.info().flags & flag
    behind.shim.once("C_GetTokenInfo", "final-try")
    assert behind.session.info().flags & flag


def test_what_is_unknown_is_refused(behind: Behind) -> None:
    """A function or a fault that does not exist is a mistake of the test."""
    with pytest.raises(ValueError, match="not in"):
        behind.shim.once("C_Encript", 0x30)
    with pytest.raises(ValueError, match="not in"):
        behind.shim.once("C_Encrypt", "explode")
