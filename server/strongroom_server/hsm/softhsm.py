"""SoftHSM 2 for development and tests: find it, make a token.

SoftHSM keeps keys in files and does not fsync them: never for production.
"""

from __future__ import annotations

import os
import pty
import secrets
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from strongroom_server.errors import StartRefusedError

__all__ = ["SoftHsm", "SoftHsmToken", "find_softhsm", "init_token"]

_PREFIX_VARIABLE: Final = "STRONGROOM_SOFTHSM_PREFIX"
_INSTALL: Final = (
    "install SoftHSM 2: `apt-get install softhsm2` (Debian, Ubuntu), `dnf install softhsm` "
    "(Fedora) or `brew install softhsm` (macOS)"
)
_MODULE_NAMES: Final = ("libsofthsm2.so", "libsofthsm2.dylib")
_SYSTEM_ROOTS: Final = ("/usr", "/usr/local", "/opt/homebrew", "/opt/local")
_LIBRARY_DIRECTORIES: Final = ("lib/softhsm", "lib/*/softhsm", "lib64/softhsm", "lib64", "lib")
_UTIL_SECONDS: Final = 30.0
_CONFIGURATION: Final = """\
directories.tokendir = {tokens}
objectstore.backend = file
objectstore.umask = 0077
log.level = ERROR
slots.removable = false
slots.mechanisms = ALL
library.reset_on_fork = false
"""


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """An installation.

    Attributes:
        module: libsofthsm2.
        util: softhsm2-util.
        environment: What both need in their environment to run.
    """

    module: Path
    util: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """An initialised token: what a shard's configuration needs of it, but for the PIN."""

    module: Path
    environment: Mapping[str, str]
    label: str


def find_softhsm(
    *, environ: Mapping[str, str] = os.environ, directory: Path | None = None
) -> SoftHsm:
    """Find SoftHSM 2.

    In this order: the directory in STRONGROOM_SOFTHSM_PREFIX, into which Debian's packages
    softhsm2 and libsofthsm2 were unpacked (and only there, when it is set);
    ``.cache/softhsm`` in `directory` (default: the working directory); the system.

    Raises:
        StartRefusedError: It is not there; the message names what to install.
    """
    named = environ.get(_PREFIX_VARIABLE)
    if named:
        found = _find_unpacked(Path(named).absolute(), environ)
        if found is None:
            raise StartRefusedError(f"{_PREFIX_VARIABLE}={named}: no SoftHSM there; {_INSTALL}")
        return found
    found = _find_unpacked((directory or Path.cwd()) / ".cache" / "softhsm", environ)
    if found is not None:
        return found
    for root in _SYSTEM_ROOTS:
        found = _find_under(Path(root))
        if found is not None:
            return found
    raise StartRefusedError(f"SoftHSM was not found; {_INSTALL}")


def _find_unpacked(prefix: Path, environ: Mapping[str, str]) -> SoftHsm | None:
    found = _find_under(prefix / "usr")
    if found is None:
        return None
    # Libraries that came along with the packages, which no loader knows of.
    libraries = [str(path) for path in sorted((prefix / "usr" / "lib").glob("*-linux-*"))]
    inherited = environ.get("LD_LIBRARY_PATH")
    path = ":".join([*libraries, *([inherited] if inherited else [])])
    return SoftHsm(found.module, found.util, {"LD_LIBRARY_PATH": path} if path else {})


def _find_under(root: Path) -> SoftHsm | None:
    modules = (
        path
        for directory in _LIBRARY_DIRECTORIES
        for name in _MODULE_NAMES
        for path in sorted(root.glob(f"{directory}/{name}"))
        if path.is_file()  # a link into another prefix leads nowhere
    )
    module = next(modules, None)
    util = root / "bin" / "softhsm2-util"
    return SoftHsm(module, util) if module is not None and util.is_file() else None


def init_token(
    directory: Path, label: str, pin: str, *, softhsm: SoftHsm | None = None
) -> SoftHsmToken:
    """Make ``softhsm2.conf`` and ``tokens/`` in `directory`, and a token there.

    The security officer's PIN is random and kept nowhere: whoever loses the user PIN of a
    development token makes another token.

    Args:
        directory: Created when missing, mode 0700. One token each.
        label: 1 to 32 bytes.
        pin: 4 to 255 printable ASCII characters.
        softhsm: Default: `find_softhsm`.

    Raises:
        StartRefusedError: There is a token already, or SoftHSM is missing or refuses.
    """
    if not 1 <= len(label.encode()) <= 32:  # noqa: PLR2004 - CK_TOKEN_INFO.label
        raise StartRefusedError("token label: expected 1 to 32 bytes")
    if not 4 <= len(pin) <= 255 or not pin.isascii() or not pin.isprintable():  # noqa: PLR2004
        raise StartRefusedError("token PIN: expected 4 to 255 printable ASCII characters")
    installed = softhsm or find_softhsm()
    tokens = directory.absolute() / "tokens"
    configuration = directory.absolute() / "softhsm2.conf"
    tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    if any(tokens.iterdir()):
        raise StartRefusedError(f"{tokens}: there is a token already")
    configuration.write_text(_CONFIGURATION.format(tokens=tokens))
    environment = {**installed.environment, "SOFTHSM2_CONF": str(configuration)}
    _run_util(
        [
            str(installed.util),
            "--module",
            str(installed.module),
            "--init-token",
            "--free",
            "--label",
            label,
        ],
        environment,
        {"SO PIN": secrets.token_hex(16), "user PIN": pin},
    )
    return SoftHsmToken(installed.module, environment, label)


def _run_util(argv: list[str], environment: Mapping[str, str], pins: Mapping[str, str]) -> None:
    """Run softhsm2-util on a terminal of its own.

    It reads PINs from a terminal only, or from its arguments, where every user of the
    machine could see them.
    """
    ours, theirs = pty.openpty()
    try:
        try:
            process = subprocess.Popen(  # noqa: S603 - the path was found by find_softhsm
                argv,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            output = _answer_prompts(ours, pins)
            code = process.wait(timeout=_UTIL_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise StartRefusedError("softhsm2-util does not answer") from None
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
    if code != 0:
        # Only its own complaints: a terminal may echo what was typed.
        said = [line for line in output.splitlines() if line.startswith(("ERROR", "Could not"))]
        raise StartRefusedError(f"softhsm2-util: {' '.join(said) or f'exit code {code}'}")


def _answer_prompts(terminal: int, pins: Mapping[str, str]) -> str:
    """Type each PIN where it is asked for; return everything that was shown."""
    shown = ""
    prompt_at = 0
    end = time.monotonic() + _UTIL_SECONDS
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: Linux's way to say that the other side was closed
            return shown
        if not data:
            return shown
        shown += data.decode(errors="replace")
        asked = shown[prompt_at:]
        if asked.rstrip(" ").endswith(":"):
            for name, pin in pins.items():
                if f"enter {name}" in asked:
                    os.write(terminal, pin.encode() + b"\n")
                    prompt_at = len(shown)
