"""Builds and drives the module that fails on demand (pkcs11_shim.c)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from strongroom_server.hsm.pool import SessionPoolSettings

__all__ = ["Shim", "build_shim"]

_SOURCE = Path(__file__).with_suffix(".c")


def build_shim(directory: Path) -> Path | None:
    """Compile the shim; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = directory / "libpkcs11_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, _SOURCE, "-ldl"], check=True)
    return target


@dataclass(frozen=True)
class Shim:
    """Faults to come, in a directory of their own."""

    module: Path
    directory: Path
    behind: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the process that loads the shim needs."""
        return {"SHIM_MODULE": str(self.behind), "SHIM_DIRECTORY": str(self.directory)}

    def wrap(self, settings: SessionPoolSettings) -> SessionPoolSettings:
        """Put the shim in front of a pool's module."""
        return replace(
            settings,
            module=self.module,
            module_environment={**settings.module_environment, **self.environment},
        )

    def once(self, function: str, what: str | int) -> None:
        """Let the next call of a function, in any process, fail."""
        self._set(f"{function}.once", what)

    def always(self, function: str, what: str | int) -> None:
        """Let all calls of a function fail."""
        self._set(f"{function}.always", what)

    def heal(self) -> None:
        """Take back what has not happened yet."""
        for path in self.directory.glob("C_*"):
            path.unlink(missing_ok=True)

    def is_pending(self, function: str) -> bool:
        """Say whether a `once` has not happened yet."""
        return (self.directory / f"{function}.once").exists()

    @property
    def logins(self) -> int:
        """How often C_Login was called, by all processes."""
        path = self.directory / "logins"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _set(self, name: str, what: str | int) -> None:
        # Written beside, then renamed: a half-written fault would be another one.
        draft = self.directory / f"draft-{name}"
        draft.write_text(f"{what}\n")
        draft.rename(self.directory / name)
