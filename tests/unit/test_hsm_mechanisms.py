"""The table from return codes to actions, against the library's list of errors."""

from __future__ import annotations

import pytest
from pkcs11 import exceptions

from strongroom_server.hsm import mechanisms
from strongroom_server.hsm.mechanisms import Action, ReturnCodeError, action_for, name_of
from strongroom_server.hsm.token import _translate

# Raised by the library itself, without a call that returned a code.
WITHOUT_CODE = {
    "MultipleObjectsReturned",
    "MultipleTokensReturned",
    "NoSuchKey",
    "NoSuchToken",
}


def test_every_library_error_has_its_code() -> None:
    """Each exception class of python-pkcs11 is known, so that no number is lost."""
    classes = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type)
        and issubclass(value, exceptions.PKCS11Error)
        and value is not exceptions.PKCS11Error
    }
    assert classes - WITHOUT_CODE == set(mechanisms.RV_BY_EXCEPTION)
    assert len(set(mechanisms.RV_BY_EXCEPTION.values())) == len(mechanisms.RV_BY_EXCEPTION)


@pytest.mark.parametrize(
    ("exception", "rv"),
    [
        (exceptions.GeneralError(), 0x5),
        (exceptions.PKCS11Error("Unmapped error code 0x68"), 0x68),
        (exceptions.PKCS11Error("Unmapped error code 0x80000001"), 0x80000001),
        (exceptions.PKCS11Error("Buffer was too small. Should never see this."), 0x150),
        (
            exceptions.PKCS11Error(
                "Initialisation error (not initialized). Should never see this."
            ),
            0x190,
        ),
        (
            exceptions.PKCS11Error(
                "Initialisation error (already initialized). Should never see this."
            ),
            0x191,
        ),
        (exceptions.PKCS11Error("something else"), 0),
    ],
)
def test_numbers_are_recovered(exception: exceptions.PKCS11Error, rv: int) -> None:
    """The code is found in the class, or in what the library left of it in the text."""
    assert _translate(exception).rv == rv


def test_pin_errors_stop() -> None:
    """Nothing that a wrong PIN can cause is ever tried again."""
    for rv in (0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102):
        assert action_for(rv) is Action.STOP


def test_unknown_codes_are_faults() -> None:
    """A vendor's own code replaces the worker: nobody guesses what it means."""
    assert action_for(0x80000001) is Action.REPLACE
    assert name_of(0x80000001) == "CK_RV 0x80000001"
    assert str(ReturnCodeError(0xA0)) == "CKR_PIN_INCORRECT (0xA0)"


def test_only_decryption_codes_blame_the_caller() -> None:
    """Exactly these codes mean that the ciphertext is bad."""
    blamed = {rv for rv, (_, action) in mechanisms._CODES.items() if action is Action.CALLER}
    assert blamed == {0x21, 0x40, 0x41, 0x42, 0xC0, 0xC1, 0x110, 0x112}
