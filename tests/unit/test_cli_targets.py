"""How commands name keys, contexts and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.cli.failures import CliError
from strongroom_server.cli.file_plan import Job, decrypted_name, encrypted_name, plan_jobs
from strongroom_server.cli.targets import parse_alias, parse_contexts, parse_target

UUID = "0198b5a6-1111-7222-8333-444455556666"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"regions/us-1/keys/{UUID}", f"regions/us-1/keys/{UUID}"),
        ("regions/us-1/aliases/a/b", "regions/us-1/aliases/a/b"),
        (f"keys/{UUID}", f"regions/eu-1/keys/{UUID}"),
        (UUID, f"regions/eu-1/keys/{UUID}"),
        ("aliases/orders", "regions/eu-1/aliases/orders"),
        ("orders/invoices", "regions/eu-1/aliases/orders/invoices"),
        ("orders", "regions/eu-1/aliases/orders"),
    ],
)
def test_short_names_take_the_default_region(text, name):
    """Every documented form of a name is read, and only short ones take the region."""
    assert str(parse_target(text, region="eu-1")) == name


@pytest.mark.parametrize(
    "text",
    ["", "regions/eu-1", "regions/EU/aliases/x", "keys/x", "a b", "/x", "x/", "aliases/", "ä"],
)
def test_other_spellings_are_refused(text):
    """A text that names nothing is a usage error."""
    with pytest.raises(CliError) as caught:
        parse_target(text, region="eu-1")
    assert caught.value.reason == "USAGE"


def test_a_short_name_needs_a_region():
    """Without any region a short name is refused, with the cure in a hint."""
    with pytest.raises(CliError) as caught:
        parse_target("orders", region=None)
    assert "--region" in caught.value.hints[0]
    assert isinstance(parse_target("regions/eu-1/aliases/orders", region=None), AliasName)


def test_a_key_is_not_an_alias():
    """Where an alias is wanted, a key is refused."""
    assert isinstance(parse_target(UUID, region="eu-1"), KeyName)
    with pytest.raises(CliError):
        parse_alias(UUID, region="eu-1")


def test_contexts_are_divided_at_the_first_equals_sign():
    """Values may hold = and be empty."""
    assert parse_contexts(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


@pytest.mark.parametrize("pairs", [["a"], ["=b"], ["a=1", "a=1"], [""]])
def test_bad_contexts_are_refused(pairs):
    """No =, no key, or a key twice is a usage error."""
    with pytest.raises(CliError):
        parse_contexts(pairs)


def _plan(
    sources: Sequence[Path],
    *,
    rename: Callable[[str], str] = encrypted_name,
    out: Path | None = None,
    output_dir: Path | None = None,
    force: bool = False,
) -> list[Job]:
    return plan_jobs(sources, rename, out=out, output_dir=output_dir, force=force)


def test_results_are_named_after_their_sources(tmp_path: Path):
    """FILE becomes FILE.srm beside it, or in --output-dir, and back."""
    source = tmp_path / "a.txt"
    source.touch()
    assert _plan([source]) == [Job(source, tmp_path / "a.txt.srm")]
    other = tmp_path / "other"
    assert _plan([source], output_dir=other) == [Job(source, other / "a.txt.srm")]
    assert decrypted_name("a.txt.srm") == "a.txt"


def test_a_dash_is_standard_input_and_output(tmp_path: Path):
    """- reads standard input; the result goes to standard output or --out."""
    assert _plan([Path("-")]) == [Job(None, None)]
    assert _plan([Path("-")], out=Path("-")) == [Job(None, None)]
    assert _plan([Path("-")], out=tmp_path / "x") == [Job(None, tmp_path / "x")]
    source = tmp_path / "a"
    source.touch()
    assert _plan([source], out=Path("-")) == [Job(source, None)]


def test_what_exists_is_replaced_only_by_force(tmp_path: Path):
    """An existing result is refused unless --force is given."""
    source, target = tmp_path / "a", tmp_path / "a.srm"
    source.touch()
    target.touch()
    with pytest.raises(CliError) as caught:
        _plan([source])
    assert caught.value.reason == "FILE_EXISTS"
    assert _plan([source], force=True) == [Job(source, target)]


def test_impossible_plans_are_refused(tmp_path: Path):
    """Options that do not go together, missing sources and clashing results are refused."""
    a, b = tmp_path / "a", tmp_path / "sub" / "a"
    b.parent.mkdir()
    a.touch()
    b.touch()
    impossible: list[dict[str, Any]] = [
        {"sources": [a, Path("-")]},
        {"sources": [a, b], "out": tmp_path / "x"},
        {"sources": [a], "out": tmp_path / "x", "output_dir": tmp_path},
        {"sources": [a, b], "output_dir": tmp_path / "out"},
        {"sources": [Path("-")], "output_dir": tmp_path},
        {"sources": [tmp_path / "missing"]},
        {"sources": [tmp_path]},
        {"sources": [a], "out": a, "force": True},
        {"sources": [a], "out": tmp_path, "force": True},
        {"sources": [a], "rename": decrypted_name},
    ]
    for arguments in impossible:
        with pytest.raises(CliError) as caught:
            _plan(**arguments)
        assert caught.value.reason == "USAGE", arguments
