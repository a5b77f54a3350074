"""An inclusion proof as a text (C2SP tlog-proof).

c2sp.org/tlog-proof@v1
[extra {base64}]
index {decimal}
{hash, base64}           from the leaf's sibling up, a line each

{checkpoint, a signed note}
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.cosignature import NO_WITNESSES, WitnessPolicy
from strongroom.tlog.errors import ProofInvalidError
from strongroom.tlog.merkle import HASH_BYTES, MAX_PROOF_HASHES, leaf_hash, verify_inclusion

__all__ = ["TlogProof", "verify_proof"]

MAX_PROOF_CHARACTERS: Final = 2**18
_HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_WHERE: Final = "proof"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An inclusion proof that verifies offline, with the record and the verifier key.

    `extra` is not authenticated by anything.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def __str__(self) -> str:
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(item).decode() for item in self.hashes)
        return "\n".join(lines) + f"\n\n{self.checkpoint}"

    @classmethod
    def parse(cls, text: str) -> TlogProof:
        """Parse the text form; the checkpoint in it is not opened yet.

        Raises:
            ProofInvalidError: It is not a tlog-proof, or not in its only spelling.
        """
        if len(text) > MAX_PROOF_CHARACTERS:
            raise ProofInvalidError(_WHERE, f"longer than {MAX_PROOF_CHARACTERS} characters")
        head, separator, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not separator or lines.pop(0) != _HEADER:
            raise ProofInvalidError(_WHERE, f"does not begin with {_HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = _decode(lines.pop(0).removeprefix("extra "))
        match = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if match is None:
            raise ProofInvalidError(_WHERE, "no index, or not a decimal number")
        hashes = tuple(_decode(line) for line in lines[: MAX_PROOF_HASHES + 1])
        if len(lines) > MAX_PROOF_HASHES or any(len(item) != HASH_BYTES for item in hashes):
            raise ProofInvalidError(_WHERE, "expected at most 64 hashes of 32 bytes")
        return cls(int(match[1]), hashes, checkpoint, extra)


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProofInvalidError(_WHERE, "a line is not base64") from exc
    if base64.b64encode(data).decode() != text:
        raise ProofInvalidError(_WHERE, "a line is not canonical base64")
    return data


def verify_proof(
    proof: TlogProof,
    *,
    record: bytes,
    key: VerifierKey,
    witnesses: WitnessPolicy = NO_WITNESSES,
) -> Checkpoint:
    """Verify that `record` is in the log of `key`.

    Returns:
        The checkpoint that the proof leads to.

    Raises:
        CheckpointInvalidError: The checkpoint is not signed by `key`, or not cosigned by
            enough `witnesses`.
        ProofInvalidError: The proof does not lead from `record` to it.
    """
    checkpoint = open_checkpoint(proof.checkpoint, key, witnesses)
    verify_inclusion(
        index=proof.index,
        size=checkpoint.size,
        leaf=leaf_hash(record),
        proof=proof.hashes,
        root=checkpoint.root,
    )
    return checkpoint
