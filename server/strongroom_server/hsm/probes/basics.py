"""The token itself: who it is, its generator, its sessions, its objects."""

from __future__ import annotations

import os
import time
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.probes.probe import (
    AES,
    Finding,
    Probe,
    Scratch,
    missing,
    quirk,
    works,
)
from strongroom_server.hsm.return_codes import HsmFaultError, ModuleUnusableError

__all__ = ["FIRST", "LAST"]

_GROUP: Final = "token"
_REFUSED: Final = "refuses to start"
_MAX_SESSIONS: Final = 64  # [[shards]] sessions
_RANDOM_BYTES: Final = 1024


def _identity(scratch: Scratch) -> Finding:
    info = scratch.session.info()
    return works(
        f"{info.library_manufacturer}, {info.library} {_version(info.library_version)}; "
        f"{info.manufacturer} {info.model}, firmware {_version(info.firmware_version)}; "
        f"PKCS#11 {_version(info.cryptoki_version)}",
        "known quirks",
    )


def _version(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _mechanisms(scratch: Scratch) -> Finding:
    return works(f"{len(scratch.mechanisms)} mechanisms", "those named below")


def _start_check(scratch: Scratch) -> Finding:
    began = time.perf_counter()
    try:
        capabilities, probe = check_module(scratch.session)
    except (ModuleUnusableError, HsmFaultError) as exc:
        return missing(str(exc), _REFUSED)
    scratch.keep(probe)
    milliseconds = 1000 * (time.perf_counter() - began)
    storage = "resident and wrapped" if capabilities.can_wrap else "resident"
    return works(f"{milliseconds:.1f} ms at each worker's start", f"storage: {storage}")


def _random(scratch: Scratch) -> Finding:
    made = {scratch.session.random(_RANDOM_BYTES) for _ in range(4)}
    if len(made) != 4 or any(len(set(each)) < 128 for each in made):  # noqa: PLR2004 - of 4; of 256 values, far below chance
        return missing("repeats itself", _REFUSED)
    return works(f"{_RANDOM_BYTES} bytes at once", "IVs, data keys")


def _sessions(scratch: Scratch) -> Finding:
    limit = scratch.session.info().max_session_count
    opened = scratch.session.count_openable_sessions(_MAX_SESSIONS)
    told = "no limit told" if limit is None else f"limit {limit}"
    if opened < _MAX_SESSIONS:
        return quirk(
            f"{told}; {opened} more could be opened", f"sessions: at most {max(1, opened // 2)}"
        )
    return works(f"{told}; {opened} more could be opened", "sessions: as configured, 1 to 64")


def _reopen(scratch: Scratch) -> Finding:
    """Take another session of the same login, as after CKR_SESSION_HANDLE_INVALID."""
    scratch.aes()
    scratch.session.reopen()
    scratch.forget()
    key = scratch.aes()
    scratch.session.encrypt(key, ck.aes_gcm(bytes(IV_BYTES), b"x"), b"x")
    return works("another session of the same login works", "after a lost session")


def _objects(scratch: Scratch) -> Finding:
    began = time.perf_counter()
    found = scratch.session.find({"TOKEN": True})
    milliseconds = 1000 * (time.perf_counter() - began)
    ours = sum(
        str(scratch.session.attributes(handle, ("LABEL",)).get("LABEL", "")).startswith(
            "strongroom"
        )
        for handle in found
    )
    return works(
        f"{len(found)} on the token, {ours} of ours; a search takes {milliseconds:.1f} ms",
        "searched at start and after creation only",
    )


def _token_object(scratch: Scratch) -> Finding:
    """Make a key as a version's is made, find it, destroy it."""
    capabilities, probe = check_module(scratch.session)
    scratch.keep(probe)
    label = f"strongroom-doctor/{os.getpid()}"
    object_id = scratch.session.random(20)
    template = key_template.resident_secret(AES).named(object_id, label)
    key = scratch.keep(
        scratch.session.generate_key(
            ck.plain(AES.generate), template.to_make(capabilities.hardening)
        )
    )
    if scratch.session.find({"TOKEN": True, "ID": object_id}) != [key]:
        return missing("the new object is not found", "resident storage is refused")
    shown = scratch.session.attributes(key, tuple(template.fixed))
    wrong = [name for name, value in template.fixed.items() if shown.get(name) != value]
    if wrong:
        return missing(f"shows another CKA_{', CKA_'.join(wrong)}", "resident storage is refused")
    scratch.drop(key)
    if scratch.session.find({"TOKEN": True, "ID": object_id}):
        return missing("the destroyed object is still found", "reconcile looks again")
    return works("made, found, destroyed", "resident storage")


FIRST: Final = (
    Probe("identity", _GROUP, _identity, _REFUSED, is_needed=True),
    Probe("mechanisms", _GROUP, _mechanisms, _REFUSED, is_needed=True),
    Probe("start-check", _GROUP, _start_check, _REFUSED, is_needed=True),
    Probe("random", _GROUP, _random, _REFUSED, is_needed=True),
    Probe("objects", _GROUP, _objects, _REFUSED, is_needed=True),
)
LAST: Final = (
    Probe("reopen", _GROUP, _reopen, "the worker is replaced instead"),
    Probe("sessions", _GROUP, _sessions, "one session"),
    Probe("token-object", _GROUP, _token_object, "resident storage is refused", writes=True),
)
