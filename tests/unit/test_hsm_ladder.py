"""What the ladder does about each return code, in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.return_codes import (
    TABLE,
    Action,
    AmbiguousFaultError,
    HsmFaultError,
    HsmTokenError,
    KeyAbsentError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
    TokenFullError,
    action_for,
    name_of,
)

VENDOR = 0x80000001
CODES = [*TABLE, VENDOR, 0]  # 0: the library lost the number
DEVICE_ERROR, SESSION_CLOSED, KEY_HANDLE_INVALID = 0x30, 0xB0, 0x60
ENCRYPTED_DATA_INVALID, GENERAL_ERROR, FUNCTION_FAILED = 0x40, 0x05, 0x06
DEVICE_MEMORY, TOKEN_RESOURCE_EXCEEDED, HOST_MEMORY = 0x31, 0x201, 0x02

pytestmark = pytest.mark.parametrize("has_input", [True, False], ids=["on input", "on none"])


@dataclass
class Script:
    """A session and a call whose return codes are written down; it notes what is done."""

    codes: list[int]
    canary_code: int = 0
    reopen_code: int = 0
    refind_error: Exception | None = None
    done: list[str] = field(default_factory=list)

    def call(self) -> str:
        self.done.append("call")
        code = self.codes.pop(0) if self.codes else -1
        if code >= 0:
            raise ReturnCodeError(code)
        return "result"

    def reopen(self) -> None:
        self.done.append("reopen")
        if self.reopen_code:
            raise ReturnCodeError(self.reopen_code)

    def reopened(self) -> None:
        self.done.append("reopened")

    def canary(self) -> None:
        self.done.append("canary")
        if self.canary_code:
            raise ReturnCodeError(self.canary_code)

    def refind(self) -> None:
        self.done.append("refind")
        if self.refind_error:
            raise self.refind_error

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.done.append("pause")

    def run(self, *, has_input: bool, can_refind: bool = True) -> str:
        ladder = Ladder(self, on_reopened=self.reopened, pause=self.pause)
        return ladder.run(
            self.call,
            what="probe",
            canary=self.canary if has_input else None,
            refind=self.refind if can_refind else None,
        )

    def ends(self, error: type[HsmTokenError], *, has_input: bool, **kwargs: bool) -> str:
        with pytest.raises(error) as raised:
            self.run(has_input=has_input, **kwargs)
        kind = type(raised.value)
        assert (HsmFaultError if kind is AmbiguousFaultError else kind) is error
        return str(raised.value)


def _expected(  # noqa: PLR0911 - one return for each rung
    code: int, *, has_input: bool
) -> tuple[list[str], type[HsmTokenError] | None, type[HsmTokenError]]:
    """Return what is done for a code, what it gives when it passes, and when it stays."""
    refused, fault, tampered = PolicyRefusedError, HsmFaultError, TamperedError
    again = ["call", "call"]
    match action_for(code), has_input:
        case Action.CALLER, True:
            return ["call"], tampered, tampered
        case Action.CALLER | Action.POLICY, _:
            return ["call"], refused, refused
        case Action.AMBIGUOUS, True:
            return ["call", "canary", "call"], None, tampered
        case Action.RETRY, _:
            return (["call", "pause", "call"] if code == HOST_MEMORY else again), None, fault
        case Action.REFIND, _:
            return ["call", "refind", "call"], None, fault
        case Action.REOPEN, _:
            return ["call", "reopen", "reopened", "call"], None, fault
        case Action.RELIEVE, _:
            return ["call", "reopen", "reopened", "call"], None, TokenFullError
        case _:
            return ["call"], fault, fault


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_that_passes(code: int, *, has_input: bool) -> None:
    """Met once, each code of the table costs what its row says, and no more."""
    done, error, _ = _expected(code, has_input=has_input)
    script = Script([code])
    if error is None:
        assert script.run(has_input=has_input) == "result"
    else:
        text = script.ends(error, has_input=has_input)
        assert error is TamperedError or f"probe: {ReturnCodeError(code)}" in text
    assert script.done == done


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_that_stays(code: int, *, has_input: bool) -> None:
    """Met on every call, each code of the table ends as its row says, after two calls at most."""
    done, _, error = _expected(code, has_input=has_input)
    script = Script([code] * 9)
    script.ends(error, has_input=has_input)
    assert script.done == done


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_that_the_canary_meets(code: int, *, has_input: bool) -> None:
    """When known good input fails as well, nothing is ever blamed on the caller."""
    script = Script([GENERAL_ERROR], canary_code=code or DEVICE_ERROR)
    script.ends(HsmFaultError, has_input=has_input)
    assert script.done == (["call", "canary"] if has_input else ["call"])


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_that_reopening_meets(code: int, *, has_input: bool) -> None:
    """A session that cannot be opened again is a fault, whatever the code."""
    script = Script([SESSION_CLOSED], reopen_code=code or DEVICE_ERROR)
    assert "SESSION_CLOSED" in script.ends(HsmFaultError, has_input=has_input)
    assert script.done == ["call", "reopen"]


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_that_the_search_meets(code: int, *, has_input: bool) -> None:
    """A search for a stale handle that fails is a fault, whatever the code."""
    script = Script([KEY_HANDLE_INVALID], refind_error=ReturnCodeError(code))
    script.ends(HsmFaultError, has_input=has_input)
    assert script.done == ["call", "refind"]


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_a_code_after_another(code: int, *, has_input: bool) -> None:
    """After one recovery a second code is judged, and nothing is tried a third time."""
    script = Script([SESSION_CLOSED, code])
    expected: type[HsmTokenError]
    match action_for(code), has_input:
        case Action.CALLER, True:
            expected = TamperedError
        case Action.CALLER | Action.POLICY, _:
            expected = PolicyRefusedError
        case _:
            # Ambiguous too: once, and after another fault, it proves nothing.
            expected = HsmFaultError
    script.ends(expected, has_input=has_input)
    assert script.done == ["call", "reopen", "reopened", "call"]


def test_a_key_that_the_search_does_not_find(*, has_input: bool) -> None:
    """What the search says of an absent key is what the caller hears."""
    script = Script([KEY_HANDLE_INVALID], refind_error=KeyAbsentError("no key"))
    assert script.ends(KeyAbsentError, has_input=has_input) == "no key"


def test_a_stale_handle_that_cannot_be_searched(*, has_input: bool) -> None:
    """Without a way to search again a stale handle is a fault."""
    script = Script([KEY_HANDLE_INVALID])
    script.ends(HsmFaultError, has_input=has_input, can_refind=False)
    assert script.done == ["call"]


def test_bad_input_after_a_good_canary(*, has_input: bool) -> None:
    """An ambiguous answer, a good canary, then a clear one: the input is bad."""
    script = Script([GENERAL_ERROR, ENCRYPTED_DATA_INVALID])
    script.ends(TamperedError if has_input else HsmFaultError, has_input=has_input)


def test_two_ambiguous_codes(*, has_input: bool) -> None:
    """Two different ambiguous answers around a good canary are as good as one twice."""
    script = Script([GENERAL_ERROR, FUNCTION_FAILED])
    script.ends(TamperedError if has_input else HsmFaultError, has_input=has_input)


def test_a_full_token(*, has_input: bool) -> None:
    """A token that stays full when our session objects are gone refuses, and loses no worker."""
    for codes in ([DEVICE_MEMORY, TOKEN_RESOURCE_EXCEEDED], [DEVICE_MEMORY, DEVICE_MEMORY]):
        text = Script(codes).ends(TokenFullError, has_input=has_input)
        assert "CKR_DEVICE_MEMORY" in text
    assert Script([DEVICE_MEMORY]).run(has_input=has_input) == "result"
    Script([DEVICE_MEMORY, DEVICE_ERROR]).ends(HsmFaultError, has_input=has_input)


def test_other_errors_pass_through(*, has_input: bool) -> None:
    """What is no return code is none of the ladder's business."""
    for error in (KeyAbsentError("gone"), ValueError("bug")):

        def call(error: Exception = error) -> None:
            raise error

        script = Script([])
        ladder = Ladder(script, on_reopened=script.reopened)
        canary: Callable[[], None] | None = script.canary if has_input else None
        with pytest.raises(type(error)):
            ladder.run(call, what="probe", canary=canary)
        assert script.done == []


@pytest.mark.parametrize("canary", [GENERAL_ERROR, DEVICE_ERROR])
def test_a_fault_that_one_key_may_be_behind(canary: int, *, has_input: bool) -> None:
    """Only where all codes may mean anything is there room for one damaged key."""
    with pytest.raises(HsmFaultError) as raised:
        Script([GENERAL_ERROR], canary_code=canary).run(has_input=has_input)
    is_ambiguous = not has_input or canary == GENERAL_ERROR
    assert isinstance(raised.value, AmbiguousFaultError) is is_ambiguous
    with pytest.raises(HsmFaultError) as raised:
        Script([DEVICE_ERROR]).run(has_input=has_input)
    assert not isinstance(raised.value, AmbiguousFaultError)
