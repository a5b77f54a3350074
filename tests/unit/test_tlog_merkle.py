"""RFC 6962 trees, against a naive reading of its definitions."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.tlog import merkle
from strongroom.tlog.errors import ConsistencyInvalidError, ProofInvalidError
from strongroom_auditlog.edge import Edge


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def naive_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not entries:
        return sha256(b"")
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0])
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:]))


def naive_path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_proof(m: int, entries: list[bytes], *, known: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if m == len(entries):
        return [] if known else [naive_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m <= k:
        return [*naive_proof(m, entries[:k], known=known), naive_root(entries[k:])]
    return [*naive_proof(m - k, entries[k:], known=False), naive_root(entries[:k])]


def entries_of(size: int) -> list[bytes]:
    return [b"entry %d" % i for i in range(size)]


def subtree(entries: list[bytes], height: int, index: int) -> bytes:
    return naive_root(entries[index << height : (index + 1) << height])


# Inputs and roots of the reference tests of certificate-transparency-go, merkle package.
REFERENCE_INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
REFERENCE_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_known_roots_of_certificate_transparency(size: int) -> None:
    """Trees of 1 to 8 leaves have the roots that every RFC 6962 implementation tests."""
    edge, _ = Edge().extend(REFERENCE_INPUTS[:size])
    assert edge.root().hex() == REFERENCE_ROOTS[size - 1]
    assert naive_root(REFERENCE_INPUTS[:size]).hex() == REFERENCE_ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    """The root of no leaves is SHA-256 of the empty string."""
    assert Edge().root() == merkle.EMPTY_ROOT == sha256(b"")


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 1000])
def test_a_root_is_the_naive_root_however_the_leaves_arrive(size: int) -> None:
    """Appending in parts of any length leads to the root of the whole."""
    entries = entries_of(size)
    edge = Edge()
    position = 0
    for step in (1, 254, 1, 300, 7, 600, 1000):
        edge, _ = edge.extend(entries[position : position + step])
        position += step
    assert edge.size == size
    assert edge.root() == naive_root(entries)


def test_a_tree_of_three_levels_has_the_naive_root() -> None:
    """Past 65,536 leaves the edge has a third level of tiles."""
    entries = entries_of(65536 + 300)
    edge, files = Edge().extend(entries)
    assert edge.root() == naive_root(entries)
    names = {name for name, _ in files}
    assert {"tile/0/255", "tile/0/256", "tile/0/257.p/44", "tile/1/000", "tile/1/001.p/1"} <= names
    assert "tile/2/000.p/1" in names


@given(st.integers(1, 200), st.data())
def test_inclusion_proofs_are_those_of_the_rfc_and_verify(size: int, data: st.DataObject) -> None:
    """Every path equals the naive one, verifies, and verifies nothing else."""
    index = data.draw(st.integers(0, size - 1))
    entries = entries_of(size)
    root = naive_root(entries)
    proof = merkle.inclusion_proof(index, size, partial(subtree, entries))
    assert proof == naive_path(index, entries)
    leaf = merkle.leaf_hash(entries[index])
    merkle.verify_inclusion(index=index, size=size, leaf=leaf, proof=proof, root=root)
    for wrong in (
        {"leaf": merkle.leaf_hash(b"another")},
        {"root": sha256(b"another")},
        {"proof": [*proof, sha256(b"more")]},
        {"index": size},
    ):
        arguments = {"index": index, "size": size, "leaf": leaf, "proof": proof, "root": root}
        with pytest.raises(ProofInvalidError):
            merkle.verify_inclusion(**{**arguments, **wrong})  # type: ignore[arg-type]
    for at in range(len(proof)):
        flipped = [*proof]
        flipped[at] = bytes([flipped[at][0] ^ 1]) + flipped[at][1:]
        with pytest.raises(ProofInvalidError):
            merkle.verify_inclusion(index=index, size=size, leaf=leaf, proof=flipped, root=root)
    if proof:
        with pytest.raises(ProofInvalidError):
            merkle.verify_inclusion(index=index, size=size, leaf=leaf, proof=proof[1:], root=root)


@given(st.integers(1, 200), st.data())
def test_consistency_proofs_are_those_of_the_rfc_and_verify(size: int, data: st.DataObject) -> None:
    """Every proof equals the naive one, verifies, and verifies no other history."""
    first = data.draw(st.integers(1, size))
    entries = entries_of(size)
    proof = merkle.consistency_proof(first, size, partial(subtree, entries))
    assert proof == naive_proof(first, entries)
    old, new = naive_root(entries[:first]), naive_root(entries)
    verify = partial(merkle.verify_consistency, first=first, second=size)
    verify(first_root=old, second_root=new, proof=proof)
    other = sha256(b"another")
    with pytest.raises(ConsistencyInvalidError):
        verify(first_root=other, second_root=new, proof=proof)
    with pytest.raises(ConsistencyInvalidError):
        verify(first_root=old, second_root=other, proof=proof)
    with pytest.raises(ConsistencyInvalidError):
        verify(first_root=old, second_root=new, proof=[*proof, other])
    for at in range(len(proof)):
        with pytest.raises(ConsistencyInvalidError):
            verify(first_root=old, second_root=new, proof=proof[:at] + proof[at + 1 :])
        with pytest.raises(ConsistencyInvalidError):
            verify(first_root=old, second_root=new, proof=[*proof[:at], other, *proof[at + 1 :]])


def test_an_empty_tree_is_a_prefix_of_every_tree() -> None:
    """From size 0 there is nothing to prove, and a proof is refused."""
    root = naive_root(entries_of(3))
    verify = partial(merkle.verify_consistency, first=0, second=3, second_root=root)
    verify(first_root=merkle.EMPTY_ROOT, proof=[])
    with pytest.raises(ConsistencyInvalidError):
        verify(first_root=root, proof=[])
    with pytest.raises(ConsistencyInvalidError):
        verify(first_root=merkle.EMPTY_ROOT, proof=[root])


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=70))
def test_fold_and_range_hash_agree_with_the_definition(entries: list[bytes]) -> None:
    """Any entries, also empty and equal ones, hash as the RFC says."""
    edge, _ = Edge().extend(entries)
    assert edge.root() == naive_root(entries)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 3)])
def test_proofs_of_leaves_that_are_not_there_are_refused(index: int, size: int) -> None:
    """A proof is asked for a leaf within the tree only."""
    with pytest.raises(ValueError, match="no such leaf"):
        merkle.inclusion_proof(index, size, partial(subtree, []))


@pytest.mark.parametrize(("first", "second"), [(0, 5), (6, 5)])
def test_consistency_is_proved_forward_from_one(first: int, second: int) -> None:
    """The sizes of a consistency proof are ordered and not zero."""
    with pytest.raises(ValueError, match="smaller size"):
        merkle.consistency_proof(first, second, partial(subtree, entries_of(5)))


def test_hashes_of_other_lengths_and_endless_proofs_are_refused() -> None:
    """A proof is at most 64 hashes, of 32 bytes each."""
    leaf = merkle.leaf_hash(b"x")
    for proof in ([b"short"], [leaf] * 65):
        with pytest.raises(ProofInvalidError):
            merkle.verify_inclusion(index=0, size=2, leaf=leaf, proof=proof, root=leaf)
