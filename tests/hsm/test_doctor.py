"""`strongroom hsm doctor`: every module, and modules that crash, hang or lack something."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.hsm_docs import documented_rows
from tests.support.hsm_modules import (
    MODULES,
    ModuleMissingError,
    ModuleToken,
    make_module_token,
    target_of,
)
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import TestToken

from strongroom_server.cli.exit_codes import ExitCode
from strongroom_server.cli.root import run
from strongroom_server.hsm.doctor import Diagnosis, examine
from strongroom_server.hsm.errand import Errand, FailedError, HsmTarget
from strongroom_server.hsm.probes import PROBES, Outcome

pytestmark = pytest.mark.hsm

_CKR_MECHANISM_INVALID = 0x70


@pytest.fixture(params=MODULES)
def module_token(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleToken:
    """Give a fresh token of each module."""
    try:
        return make_module_token(request.param, tmp_path / request.param)
    except ModuleMissingError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def shim_target(token: TestToken, shim: Shim) -> HsmTarget:
    """Give a token behind the shim."""
    settings = shim.wrap(token.settings)
    return HsmTarget(
        settings.module, settings.token_label, settings.pin_file, settings.module_environment
    )


def row_of(diagnosis: Diagnosis, feature: str) -> tuple[Outcome, str]:
    """Return what was found of a feature."""
    return next((row.outcome, row.detail) for row in diagnosis.rows if row.feature == feature)


def test_each_module_is_as_its_page_says(
    module_token: ModuleToken, record_property: Callable[[str, object], None]
) -> None:
    """Every feature is asked after; of the documented version, docs/hsm/ has every deviation."""
    diagnosis = examine(target_of(module_token), write_probes=True)
    record_property("seconds", diagnosis.seconds)
    assert [row.feature for row in diagnosis.rows] == [probe.feature for probe in PROBES]
    assert not diagnosis.unfit
    assert not diagnosis.left_out
    documented = documented_rows(module_token.name)
    if documented["identity"].seen == row_of(diagnosis, "identity")[1]:
        unwritten = [
            row.feature
            for row in diagnosis.rows
            if row.outcome is not Outcome.WORKS
            and (not row.quirk or (row.outcome, row.quirk) != documented[row.feature][:2])
        ]
        assert not unwritten
        mended = [
            row.feature
            for row in diagnosis.rows
            if row.outcome is Outcome.WORKS and documented[row.feature].outcome != row.outcome
        ]
        # What kryoptic can do depends on the OpenSSL that it was built with.
        assert not mended or module_token.name == "kryoptic"
    with Errand(target_of(module_token), "list") as errand:
        assert not list(errand.messages(silence_seconds=30)), "an object is left on the token"


def test_a_crash_costs_one_probe(shim_target: HsmTarget, shim: Shim) -> None:
    """A module that crashes is told so in one row; the next child goes on behind it."""
    shim.once("C_DeriveKey", "crash")
    diagnosis = examine(shim_target, quick=True)
    outcome, detail = row_of(diagnosis, "EC_P256-agree")
    assert outcome is Outcome.MISSING
    assert "crashed" in detail
    assert row_of(diagnosis, "EC_P384-agree")[0] is Outcome.WORKS
    assert len(diagnosis.rows) == len({row.feature for row in diagnosis.rows})
    assert shim.calls("C_Login") == 2


def test_a_hang_costs_one_probe(shim_target: HsmTarget, shim: Shim) -> None:
    """A call that does not return is given up with its process."""
    shim.once("C_DeriveKey", "hang")
    diagnosis = examine(shim_target, quick=True, probe_seconds=3.0)
    outcome, detail = row_of(diagnosis, "EC_P256-agree")
    assert outcome is Outcome.MISSING
    assert "no answer" in detail
    assert row_of(diagnosis, "EC_P384-agree")[0] is Outcome.WORKS


def test_a_module_that_always_crashes_comes_to_an_end(shim_target: HsmTarget, shim: Shim) -> None:
    """The doctor gives up after a dozen children, and says what it did not ask."""
    shim.always("C_Encrypt", "crash")
    diagnosis = examine(shim_target, quick=True)
    assert diagnosis.unfit
    assert diagnosis.left_out
    assert shim.calls("C_Login") == 12


def test_a_wrong_pin_is_tried_once(shim_target: HsmTarget, shim: Shim, tmp_path: Path) -> None:
    """One C_Login, and the end (H6)."""
    wrong = tmp_path / "wrong-pin"
    wrong.touch(mode=0o600)
    wrong.write_text("wrong pin\n")
    target = HsmTarget(shim_target.module, shim_target.token_label, wrong, shim_target.environment)
    with pytest.raises(FailedError) as raised:
        examine(target)
    assert raised.value.kind == "pin"
    assert shim.calls("C_Login") == 1


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_pin_file_that_cannot_be_used_is_no_refused_pin(
    shim_target: HsmTarget,
    shim: Shim,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: int | None,
) -> None:
    """A PIN that was never tried brings no lock nearer, and the message does not say so."""
    for name, value in shim_target.environment.items():
        monkeypatch.setenv(name, value)
    path = shim_target.pin_file.with_name("pin-of-nobody")
    if mode is not None:
        path.touch(mode=mode)
    command = ["hsm", "doctor", "--module", str(shim_target.module)]
    command += ["--token", shim_target.token_label, "--pin-file", str(path)]
    assert run(command) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "CONFIGURATION" in told
    assert str(path) in told
    assert "lock" not in told
    assert not shim.logins


def test_time_is_bounded(shim_target: HsmTarget) -> None:
    """Nothing more is asked when time is up, and what was not is told."""
    began = time.monotonic()
    diagnosis = examine(shim_target, total_seconds=0.5)
    assert time.monotonic() - began < 20
    assert {row.feature for row in diagnosis.rows} | set(diagnosis.left_out) == {
        probe.feature for probe in PROBES if not probe.writes
    }


def test_the_command(
    token: TestToken,
    shim: Shim,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command prints JSON and ends with 0; with 5 when something needed is missing."""
    settings = shim.wrap(token.settings)
    for name, value in settings.module_environment.items():
        monkeypatch.setenv(name, value)
    command = [
        *("hsm", "doctor", "--quick", "-o", "json"),
        *("--module", str(settings.module)),
        *("--token", settings.token_label),
        *("--pin-file", str(settings.pin_file)),
    ]
    assert run(command) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    assert printed["fit"]
    assert {row["result"] for row in printed["features"]} == {
        "works",
        "works with quirk",
        "missing",
    }
    assert "softhsm-no-fsync" in {quirk["quirk"] for quirk in printed["known_quirks"]}

    shim.always("C_Decrypt", _CKR_MECHANISM_INVALID)
    assert run(command) == ExitCode.STATE
    captured = capsys.readouterr()
    assert not json.loads(captured.out)["fit"]
    error = json.loads(captured.err.splitlines()[-1])["error"]
    assert error["reason"] == "HSM_UNFIT"
    assert "gcm-largest" in error["message"]
