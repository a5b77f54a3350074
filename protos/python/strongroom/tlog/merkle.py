"""Merkle trees as in RFC 6962, section 2.1: hashes, proofs, and their verification.

    leaf      SHA-256(0x00 || entry)
    node      SHA-256(0x01 || left || right)
    empty     SHA-256()

Runs of hashes are contiguous `bytes`, 32 to a hash, which is also what a tile file holds.
Nothing here reads files: proofs are computed over a `SubtreeHash`, a function that returns
the hash of a complete, aligned subtree. Memory is O(log n) hashes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final

from strongroom.tlog.errors import (
    ConsistencyInvalidError,
    ProofInvalidError,
    VerificationError,
)

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_PROOF_HASHES",
    "SubtreeHash",
    "consistency_proof",
    "fold",
    "inclusion_proof",
    "leaf_hash",
    "range_hash",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES: Final = 32
MAX_PROOF_HASHES: Final = 64  # one for each bit of a 64-bit size, both kinds of proof
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_sha256: Final = hashlib.sha256

SubtreeHash = Callable[[int, int], bytes]
"""``(height, index)`` to the hash of leaves ``[index << height, (index + 1) << height)``."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return _sha256(b"\x00" + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


def fold(hashes: bytes) -> bytes:
    """Return the root over `hashes`, whose number is a power of two."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [
                _sha256(b"\x01" + hashes[i : i + 2 * HASH_BYTES]).digest()
                for i in range(0, len(hashes), 2 * HASH_BYTES)
            ]
        )
    return hashes


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size` (RFC 6962's k)."""
    return 1 << ((size - 1).bit_length() - 1)


def range_hash(start: int, end: int, subtree: SubtreeHash) -> bytes:
    """Return MTH(D[start:end]); `start` is a multiple of the next power of two of the length."""
    size = end - start
    if size == 0:
        return EMPTY_ROOT
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return subtree(height, start >> height)
    middle = start + _split(size)
    return _node_hash(range_hash(start, middle, subtree), range_hash(middle, end, subtree))


def inclusion_proof(index: int, size: int, subtree: SubtreeHash) -> list[bytes]:
    """Compute PATH(index, D[size]) (RFC 6962, 2.1.1), from the leaf's sibling up.

    Raises:
        ValueError: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("no such leaf in a tree of this size")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(middle, end, subtree))
            end = middle
        else:
            path.append(range_hash(start, middle, subtree))
            start = middle
    path.reverse()
    return path


def consistency_proof(first: int, second: int, subtree: SubtreeHash) -> list[bytes]:
    """Compute PROOF(first, D[second]) (RFC 6962, 2.1.2).

    Raises:
        ValueError: Not ``1 <= first <= second``.
    """
    if not 1 <= first <= second:
        raise ValueError("a consistency proof leads from a smaller size, at least 1, to a larger")
    proof: list[bytes] = []
    start, end = 0, second
    known = True  # whether D[start:first] is the whole first tree, whose root the verifier has
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(range_hash(middle, end, subtree))
            end = middle
        else:
            proof.append(range_hash(start, middle, subtree))
            start = middle
            known = False
    if not known:
        proof.append(range_hash(start, end, subtree))
    proof.reverse()
    return proof


def verify_inclusion(
    *, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` (a leaf hash) is at `index` in the tree of `size` with `root`.

    Source: RFC 9162, section 2.1.3.2.

    Raises:
        ProofInvalidError: It is not, or the proof has another length.
    """
    where = f"inclusion of leaf {index}"
    if not 0 <= index < size:
        raise ProofInvalidError(where, f"the tree has {size} leaves")
    current = leaf
    for sibling, is_left in _climb(index, size - 1, proof, ProofInvalidError, where):
        current = _node_hash(sibling, current) if is_left else _node_hash(current, sibling)
    if not hmac.compare_digest(current, root):
        raise ProofInvalidError(where, "the proof does not lead to the signed root")


def verify_consistency(
    *, first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of size `first` is a prefix of the tree of size `second`.

    An empty first tree is a prefix of every tree; its proof is empty.
    Source: RFC 9162, section 2.1.4.2.

    Raises:
        ConsistencyInvalidError: It is not.
    """
    where = f"consistency of {first} with {second}"
    if not 0 <= first <= second:
        raise ConsistencyInvalidError(where, "the first size is larger than the second")
    if first in (0, second):
        expected = EMPTY_ROOT if first == 0 else second_root
        if proof or not hmac.compare_digest(first_root, expected):
            raise ConsistencyInvalidError(where, "the roots differ")
        return
    # A first tree of 2**k leaves is itself a complete subtree: its root starts the climb.
    hashes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not hashes:
        raise ConsistencyInvalidError(where, "the proof is empty")
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling, is_left in _climb(position, last, hashes[1:], ConsistencyInvalidError, where):
        if is_left:
            old, new = _node_hash(sibling, old), _node_hash(sibling, new)
        else:
            new = _node_hash(new, sibling)
    if not hmac.compare_digest(old, first_root) or not hmac.compare_digest(new, second_root):
        raise ConsistencyInvalidError(where, "the proof does not lead to both roots")


def _climb(
    position: int,
    last: int,
    proof: Sequence[bytes],
    error: type[VerificationError],
    where: str,
) -> list[tuple[bytes, bool]]:
    """Pair each hash of `proof` with whether it is the left sibling on the way to the root.

    `position` and `last` are RFC 9162's fn and sn. The number of hashes must be exactly
    the height that is climbed: a longer or shorter proof is for another tree.
    """
    if len(proof) > MAX_PROOF_HASHES or any(len(item) != HASH_BYTES for item in proof):
        raise error(where, "a proof has at most 64 hashes of 32 bytes")
    steps: list[tuple[bytes, bool]] = []
    for sibling in proof:
        if last == 0:
            raise error(where, "the proof is too long")
        is_left = bool(position & 1) or position == last
        if is_left:
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        steps.append((sibling, is_left))
        position >>= 1
        last >>= 1
    if last != 0:
        raise error(where, "the proof is too short")
    return steps
