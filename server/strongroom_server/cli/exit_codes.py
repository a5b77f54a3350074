"""Exit codes, and which reason ends with which: one table (docs/cli.md, Exit codes)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["EXIT_CODES_HELP", "HINTS", "REASON_EXIT_CODES", "ExitCode", "exit_code_of"]


class ExitCode(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    OTHER = 1
    USAGE = 2
    PERMISSION = 3
    NOT_FOUND = 4
    STATE = 5
    UNVERIFIABLE = 6
    UNAVAILABLE = 7
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it


EXIT_CODES_HELP: Final = """\b
Exit codes:
  0    done
  1    something else went wrong
  2    wrong usage, argument or configuration
  3    no permission, or not authenticated
  4    no such key, or you may not see it
  5    state: disabled, exhausted, not supported, wrong region, exists, changed meanwhile
  6    does not verify: bad ciphertext, signature or MAC, wrong key or context, bad log or proof
  7    unavailable or overloaded: try again
  130  interrupted (Ctrl-C)
"""

REASON_EXIT_CODES: Final[Mapping[str, ExitCode]] = MappingProxyType(
    {
        # The service's reasons (enum ErrorReason).
        "ARGUMENT_INVALID": ExitCode.USAGE,
        "CHECKSUM_MISMATCH": ExitCode.OTHER,
        "CIPHERTEXT_INVALID": ExitCode.UNVERIFIABLE,
        "WRONG_KEY": ExitCode.UNVERIFIABLE,
        "SIGNATURE_INVALID": ExitCode.UNVERIFIABLE,
        "MAC_INVALID": ExitCode.UNVERIFIABLE,
        "POLICY_INVALID": ExitCode.USAGE,
        "KEY_NOT_FOUND": ExitCode.NOT_FOUND,
        "GRANT_NOT_FOUND": ExitCode.NOT_FOUND,
        "ALIAS_EXISTS": ExitCode.STATE,
        "REQUEST_ID_REUSED": ExitCode.STATE,
        "KEY_DISABLED": ExitCode.STATE,
        "KEY_EXHAUSTED": ExitCode.STATE,
        "KEY_SPEC_UNSUPPORTED": ExitCode.STATE,
        "KEY_STATE_INVALID": ExitCode.STATE,
        "KEY_USAGE_MISMATCH": ExitCode.STATE,
        "KEY_ORIGIN_MISMATCH": ExitCode.STATE,
        "KEY_MATERIAL_MISMATCH": ExitCode.UNVERIFIABLE,
        "IMPORT_TOKEN_INVALID": ExitCode.UNVERIFIABLE,
        "IMPORT_TOKEN_EXPIRED": ExitCode.STATE,
        "IMPORT_TOKEN_USED": ExitCode.STATE,
        "LIMIT_EXCEEDED": ExitCode.STATE,
        "WRONG_REGION": ExitCode.STATE,
        "POLICY_DENIED": ExitCode.PERMISSION,
        "PEER_UNAUTHENTICATED": ExitCode.PERMISSION,
        "OVERLOADED": ExitCode.UNAVAILABLE,
        "QUOTA_EXCEEDED": ExitCode.UNAVAILABLE,
        "HSM_UNAVAILABLE": ExitCode.UNAVAILABLE,
        "SHARD_UNAVAILABLE": ExitCode.UNAVAILABLE,
        "AUDIT_UNAVAILABLE": ExitCode.UNAVAILABLE,
        "ETAG_MISMATCH": ExitCode.STATE,
        "INTERNAL": ExitCode.OTHER,
        # The SDK's own.
        "UNREACHABLE": ExitCode.UNAVAILABLE,
        "UNAVAILABLE": ExitCode.UNAVAILABLE,
        "DEADLINE_EXCEEDED": ExitCode.UNAVAILABLE,
        "UNEXPECTED_STATUS": ExitCode.OTHER,
        "RESPONSE_INVALID": ExitCode.OTHER,
        "NO_ENDPOINT": ExitCode.USAGE,
        "CLIENT_CLOSED": ExitCode.OTHER,
        "OPTIONS_INVALID": ExitCode.USAGE,
        "ENVELOPE_INVALID": ExitCode.UNVERIFIABLE,
        "FORK_DETECTED": ExitCode.UNVERIFIABLE,
        # The audit log's own.
        "RECORD_NOT_FOUND": ExitCode.NOT_FOUND,
        "RECORD_ARCHIVED": ExitCode.STATE,
        "UNVERIFIABLE": ExitCode.UNVERIFIABLE,
        # The command line's own.
        "POLICY_CASES_FAILED": ExitCode.OTHER,
        "USAGE": ExitCode.USAGE,
        "CONFIGURATION": ExitCode.USAGE,
        "FILE": ExitCode.OTHER,
        "ARCHIVE": ExitCode.OTHER,
        "FILE_EXISTS": ExitCode.STATE,
        "START_REFUSED": ExitCode.OTHER,
        "NO_WRAPPING_ROOT": ExitCode.STATE,
        "CHILD_DIED": ExitCode.OTHER,
        "HSM_UNFIT": ExitCode.STATE,
        "HSM_DIFFERS": ExitCode.STATE,
        "KEY_UNSAFE": ExitCode.STATE,
        "PIN_REFUSED": ExitCode.PERMISSION,
        "INTERRUPTED": ExitCode.INTERRUPTED,
    }
)

HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CIPHERTEXT_INVALID": "is it the right file, whole, with the context of its encryption?",
        "ENVELOPE_INVALID": "is it the right file, whole, with the context of its encryption?",
        "FORK_DETECTED": "keep what you have: the kept checkpoint and this log cannot both be true",
        "RECORD_NOT_FOUND": "a record is in the log a moment after its answer: try again",
        "RECORD_ARCHIVED": "`strongroom audit restore-archive` fetches and proves it",
        "UNREACHABLE": "is the server running? `strongroom dev up` starts a development deployment",
        "NO_ENDPOINT": "add the region to [endpoints] of the configuration",
        "OPTIONS_INVALID": "--config FILE, or `strongroom dev init` for a development deployment",
        "KEY_NOT_FOUND": "`strongroom keys list` shows the keys that you may see",
        "ALIAS_EXISTS": "`strongroom aliases show NAME` says which key it names",
        "KEY_DISABLED": "`strongroom keys enable KEY` lets it be used again",
        "KEY_EXHAUSTED": "`strongroom keys rotate KEY` makes a new version",
        "KEY_STATE_INVALID": "`strongroom keys show KEY` and `keys versions KEY` say the states",
        "KEY_SPEC_UNSUPPORTED": "`strongroom hsm doctor` shows what the region's HSM supports",
        "WRONG_REGION": "name the region: --region, or the full name regions/REGION/keys/UUID",
        "GRANT_NOT_FOUND": "`strongroom grants list KEY` shows the grants of a key",
        "POLICY_INVALID": "`strongroom policy check FILE` checks a policy without the service",
        "POLICY_DENIED": "`strongroom policy explain KEY OPERATION` says what decides",
        "PEER_UNAUTHENTICATED": "check the certificate that the configuration file names",
        "ETAG_MISMATCH": "somebody changed it meanwhile: look, then try again",
        "QUOTA_EXCEEDED": "the operator of the service sets the limits of each caller ([limits])",
        "INTERNAL": "the server's log has the details under the request id",
        "FILE_EXISTS": "--force replaces it",
        "HSM_UNFIT": "docs/hsm/ has the modules that are known, and how to bring another",
        "HSM_DIFFERS": "docs/hsm/README.md says what to do about each",
        "KEY_UNSAFE": "the server does not start on such a key: find out who made it",
        "PIN_REFUSED": "nobody may try again with this PIN: each wrong one brings a lock nearer",
        "HSM_UNAVAILABLE": "/readyz on the server's ops port says what is wrong",
        "SHARD_UNAVAILABLE": "is the server running? /readyz on its ops port says more",
        "AUDIT_UNAVAILABLE": "is the audit log running? The spool is full, or cannot be written",
    }
)


def exit_code_of(reason: str) -> ExitCode:
    """Return the exit code of `reason`; OTHER for one that is not in the table."""
    return REASON_EXIT_CODES.get(reason, ExitCode.OTHER)
