"""Finding SoftHSM, in the documented order, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm import softhsm
from strongroom_server.hsm.softhsm import find_softhsm, init_token


def _install(prefix: Path, library: str = "lib/softhsm") -> None:
    for name in (f"usr/{library}/libsofthsm2.so", "usr/bin/softhsm2-util"):
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_named_prefix_comes_first(tmp_path: Path) -> None:
    """The prefix in the environment wins over the cache directory."""
    named, directory = tmp_path / "named", tmp_path / "directory"
    _install(named)
    _install(directory / ".cache" / "softhsm")
    environ = {"STRONGROOM_SOFTHSM_PREFIX": str(named)}
    found = find_softhsm(environ=environ, directory=directory)
    assert found.module == named / "usr/lib/softhsm/libsofthsm2.so"
    assert found.util == named / "usr/bin/softhsm2-util"
    assert find_softhsm(environ={}, directory=directory).module.is_relative_to(directory)


def test_named_prefix_without_softhsm_is_refused(tmp_path: Path) -> None:
    """A prefix that holds nothing is a mistake, not a reason to look elsewhere."""
    with pytest.raises(StartRefusedError, match=r"no SoftHSM there.*apt-get install softhsm2"):
        find_softhsm(environ={"STRONGROOM_SOFTHSM_PREFIX": str(tmp_path)}, directory=tmp_path)


def test_libraries_beside_it_are_found(tmp_path: Path) -> None:
    """Libraries unpacked with the packages are put before the inherited search path."""
    _install(tmp_path, "lib/x86_64-linux-gnu/softhsm")
    environ = {"STRONGROOM_SOFTHSM_PREFIX": str(tmp_path), "LD_LIBRARY_PATH": "/before"}
    found = find_softhsm(environ=environ)
    assert found.environment == {"LD_LIBRARY_PATH": f"{tmp_path}/usr/lib/x86_64-linux-gnu:/before"}


def test_absolute_link_out_of_the_prefix_is_passed_over(tmp_path: Path) -> None:
    """A link that leads nowhere is not taken for the module."""
    _install(tmp_path, "lib/x86_64-linux-gnu/softhsm")
    link = tmp_path / "usr/lib/softhsm/libsofthsm2.so"
    link.parent.mkdir()
    link.symlink_to("/no/such/libsofthsm2.so")
    found = find_softhsm(environ={"STRONGROOM_SOFTHSM_PREFIX": str(tmp_path)})
    assert found.module == tmp_path / "usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"


def test_nothing_installed_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SoftHSM the error says what to install."""
    monkeypatch.setattr(softhsm, "_SYSTEM_ROOTS", (str(tmp_path),))
    with pytest.raises(StartRefusedError, match="apt-get install softhsm2"):
        find_softhsm(environ={}, directory=tmp_path)


@pytest.mark.parametrize("label", ["", "x" * 33, "é" * 17])
def test_bad_labels_are_refused(tmp_path: Path, label: str) -> None:
    """A label that does not fit into CK_TOKEN_INFO is refused before anything is made."""
    with pytest.raises(StartRefusedError, match="label"):
        init_token(tmp_path / "t", label, "12345678")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("pin", ["", "123", "x" * 256, "1234\n5678", "pässword"])
def test_bad_pins_are_refused(tmp_path: Path, pin: str) -> None:
    """A PIN that cannot be typed is refused, and not repeated in the error."""
    with pytest.raises(StartRefusedError, match="PIN") as refusal:
        init_token(tmp_path / "t", "label", pin)
    assert not pin or pin not in str(refusal.value)
