"""Builds and drives the module that fails on demand (pkcs11_shim.c says how it works)."""

from __future__ import annotations

import mmap
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from strongroom_server.hsm.pool import SessionPoolSettings

__all__ = ["FUNCTIONS", "Shim", "build_shim"]

_SOURCE: Final = Path(__file__).with_suffix(".c")
FUNCTIONS: Final = tuple(
    dict.fromkeys(re.findall(r"\bX\((C_\w+)\)", _SOURCE.read_text(encoding="utf-8")))
)
"""The functions of a module, in the order of its table."""

_ANY: Final = len(FUNCTIONS)
_WHATS: Final = (
    "return",
    "delay",
    "hang",
    "crash",
    "corrupt",
    "hide-objects",
    "final-try",
    "lose-login",
    "drop-sessions",
)
_RULES: Final = 64
_WORD: Final = struct.Struct("@Q")
_RULE: Final = struct.Struct("@8Q")
_RULES_AT: Final = len(FUNCTIONS) * _WORD.size
_SIZE: Final = _RULES_AT + _RULES * _RULE.size
_ALWAYS: Final = 2**62


def build_shim(directory: Path) -> Path | None:
    """Compile the shim; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = directory / "libpkcs11_shim.so"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC", "-O1"]
    subprocess.run([compiler, *flags, "-o", target, _SOURCE, "-ldl"], check=True)
    return target


@dataclass(frozen=True)
class Shim:
    """Faults to come, and the calls that were made, in a directory of their own.

    What happens is a return code, or one of these texts: ``delay MILLISECONDS``, ``hang``,
    ``crash``, ``corrupt``, ``hide-objects``, ``final-try``, ``lose-login``,
    ``drop-sessions`` (all), ``drop-sessions N`` (the N-th that a process opened).
    """

    module: Path
    directory: Path
    behind: Path
    _control: mmap.mmap = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the control file, or take up the one that is there."""
        path = self.directory / "control"
        with path.open("ab+") as file:
            file.truncate(_SIZE)
            object.__setattr__(self, "_control", mmap.mmap(file.fileno(), _SIZE))

    @property
    def environment(self) -> dict[str, str]:
        """What the process that loads the shim needs."""
        return {"SHIM_MODULE": str(self.behind), "SHIM_CONTROL": str(self.directory / "control")}

    def wrap(self, settings: SessionPoolSettings) -> SessionPoolSettings:
        """Put the shim in front of a pool's module."""
        return replace(
            settings,
            module=self.module,
            module_environment={**settings.module_environment, **self.environment},
        )

    def once(self, function: str, what: str | int) -> None:
        """Let the next call of a function, in any process, fail."""
        self.rule(function, what)

    def always(self, function: str, what: str | int) -> None:
        """Let all calls of a function fail."""
        self.rule(function, what, times=_ALWAYS)

    def rule(self, function: str, what: str | int, *, nth: int = 1, times: int = 1) -> None:
        """Let something happen to the next `times` calls, beginning with the `nth` from now.

        `function` is ``*`` for calls of any function.
        """
        number = _ANY if function == "*" else FUNCTIONS.index(function)
        word, _, argument = ("return", "", what) if isinstance(what, int) else what.partition(" ")
        body = (number, nth, times, _WHATS.index(word), int(argument or 0), 0, 0)
        at = next(at for at, rule in self._rules() if not rule[0] or rule[7] >= rule[3])
        _RULE.pack_into(self._control, at, 0, *body)
        _WORD.pack_into(self._control, at, 1)  # last: a half-written rule would be another

    def heal(self) -> None:
        """Take back what has not happened yet."""
        for at, _ in self._rules():
            _WORD.pack_into(self._control, at, 0)

    def is_pending(self, function: str) -> bool:
        """Say whether a rule for a function has turns left."""
        number = _ANY if function == "*" else FUNCTIONS.index(function)
        return any(rule[0] and rule[1] == number and rule[7] < rule[3] for _, rule in self._rules())

    def calls(self, function: str) -> int:
        """Return how often a function was called, by all processes."""
        at = FUNCTIONS.index(function) * _WORD.size
        return int(_WORD.unpack_from(self._control, at)[0])

    @property
    def logins(self) -> int:
        """How often C_Login was called, by all processes."""
        return self.calls("C_Login")

    def _rules(self) -> list[tuple[int, tuple[int, ...]]]:
        places = range(_RULES_AT, _SIZE, _RULE.size)
        return [(at, _RULE.unpack_from(self._control, at)) for at in places]
