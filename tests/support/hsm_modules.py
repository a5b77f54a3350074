"""Tokens of every PKCS#11 module that is installed: SoftHSM 2, NSS softokn, kryoptic."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.errand import HsmTarget
from strongroom_server.hsm.softhsm import find_softhsm, init_token

__all__ = ["MODULES", "ModuleMissingError", "ModuleToken", "make_module_token", "target_of"]

_ROOT = Path(__file__).resolve().parents[2]
_INIT = Path(__file__).with_name("hsm_token_init.py")
_LABEL = "strongroom-test"
_NSS_LABEL = "NSS Certificate DB"  # fixed: the slot for keys of an NSS database
_NSS_SLOT = 2


class ModuleMissingError(Exception):
    """A module is not installed; the message says how to get it."""


@dataclass(frozen=True)
class ModuleToken:
    """A token of its own, in a directory of its own, and what opens it."""

    name: str
    directory: Path
    module: Path
    label: str
    pin: str = field(repr=False)
    environment: Mapping[str, str]
    parameters: str = ""

    @property
    def pin_file(self) -> Path:
        """The file with the PIN."""
        return self.directory / "pin"


def make_module_token(name: str, directory: Path) -> ModuleToken:
    """Make a token of one of MODULES under `directory`.

    Raises:
        ModuleMissingError: The module is not installed.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = _MAKERS[name](directory, secrets.token_hex(8))
    token.pin_file.touch(mode=0o600)
    token.pin_file.write_text(token.pin + "\n")
    return token


def target_of(token: ModuleToken) -> HsmTarget:
    """Return a token as the doctor and the reconciliation are told it."""
    return HsmTarget(token.module, token.label, token.pin_file, token.environment, token.parameters)


def _make_softhsm(directory: Path, pin: str) -> ModuleToken:
    try:
        find_softhsm(directory=_ROOT)
    except StartRefusedError as exc:
        raise ModuleMissingError(str(exc)) from exc
    made = init_token(directory, _LABEL, pin)
    return ModuleToken("softhsm", directory, made.module, made.label, pin, made.environment)


def _make_nss(directory: Path, pin: str) -> ModuleToken:
    module, environment = _find_nss()
    database = directory / "db"
    database.mkdir(mode=0o700)
    parameters = (
        f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='' flags=passwordRequired"
    )
    # A new database has a security officer with an empty PIN, who may set the user's.
    _initialise(
        module,
        environment,
        parameters=parameters,
        slot=_NSS_SLOT,
        so_pin="",
        pin=pin,
        has_token=True,
    )
    return ModuleToken("nss", directory, module, _NSS_LABEL, pin, environment, parameters)


def _make_kryoptic(directory: Path, pin: str) -> ModuleToken:
    module = _find_kryoptic()
    configuration = directory / "token.conf"
    configuration.write_text(
        f'[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = "{directory / "token.sql"}"\n'
    )
    environment = {"KRYOPTIC_CONF": str(configuration)}
    _initialise(
        module,
        environment,
        parameters="",
        slot=None,
        so_pin=secrets.token_hex(8),
        pin=pin,
        has_token=False,
    )
    return ModuleToken("kryoptic", directory, module, _LABEL, pin, environment)


_MAKERS: Mapping[str, Callable[[Path, str], ModuleToken]] = {
    "softhsm": _make_softhsm,
    "nss": _make_nss,
    "kryoptic": _make_kryoptic,
}
MODULES = tuple(_MAKERS)
"""The modules that the acceptance suite runs over."""


def _find_nss() -> tuple[Path, Mapping[str, str]]:
    prefix = Path(os.environ.get("STRONGROOM_NSS_PREFIX") or _ROOT / ".cache" / "nss")
    for root, is_unpacked in ((prefix / "usr", True), (Path("/usr"), False)):
        for pattern in ("lib/*/libsoftokn3.so", "lib/*/nss/libsoftokn3.so", "lib64/libsoftokn3.so"):
            for module in sorted(root.glob(pattern)):
                beside = {"LD_LIBRARY_PATH": str(module.parent)} if is_unpacked else {}
                return module, beside
    raise ModuleMissingError("NSS softokn is missing: `bash deploy/setup/nss.sh` sees to it")


def _find_kryoptic() -> Path:
    named = os.environ.get("STRONGROOM_KRYOPTIC")
    module = Path(named or _ROOT / ".cache" / "kryoptic" / "libkryoptic_pkcs11.so")
    if not module.is_file():
        raise ModuleMissingError(f"{module}: no such file; `make kryoptic` builds kryoptic")
    try:
        ctypes.CDLL(str(module))
    except OSError as exc:  # built elsewhere, for another OpenSSL
        raise ModuleMissingError(f"kryoptic does not load here: {exc}") from exc
    return module


def _initialise(
    module: Path,
    environment: Mapping[str, str],
    *,
    parameters: str,
    slot: int | None,
    so_pin: str,
    pin: str,
    has_token: bool,
) -> None:
    order = {
        "module": str(module),
        "parameters": parameters,
        "slot": slot,
        "label": _LABEL,
        "so_pin": so_pin,
        "pin": pin,
        "init_token": not has_token,
    }
    subprocess.run(
        [sys.executable, _INIT],
        input=json.dumps(order).encode(),
        env={**os.environ, **environment},
        timeout=60,
        check=True,
    )
