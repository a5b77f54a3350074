"""``strongroom policy check`` and ``test``: policies before they are put, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strongroom_server.cli.options import Format, OutputOption

__all__ = ["check", "run_cases"]

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Cedar policy set.")]
TEST_COLUMNS = ("case", "principal", "action", "context", "expected", "answer", "decided_by")


def check(
    file: FileArgument,
    *,
    author: Annotated[
        str | None,
        typer.Option(
            metavar="SPIFFE-ID", help="Who will put it: neither they nor administrators locked out."
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check a policy as the service would, without asking it.

    That it fits the schema, and, with --author, that it locks nobody out.
    """
    from strongroom_server.cli.output import print_fields
    from strongroom_server.domain.policy import CompiledPolicy, check_lock_out, check_new_ids
    from strongroom_server.domain.policy_cases import TEST_KEY

    policy = CompiledPolicy(file.read_text(encoding="utf-8"))
    check_new_ids(policy)
    if author is not None:
        check_lock_out(policy, creator=author, creator_is_administrator=False, key=TEST_KEY)
    print_fields(
        {
            "policies": len(policy.statements),
            "policy_sha256": policy.text_sha256,
            "lock_out": "checked" if author is not None else "not checked: give --author",
        },
        output,
    )


def run_cases(
    file: FileArgument,
    *,
    cases: Annotated[
        Path, typer.Option(metavar="CASES", help="Test cases, TOML or JSON (docs/policies.md).")
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask a policy what it answers, and compare that with test cases; no service is asked.

    The exit code is 1 when an answer is another one than expected.
    """
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note, print_rows
    from strongroom_server.domain.policy import CompiledPolicy
    from strongroom_server.domain.policy_cases import CasesError, load_cases, run_case

    policy = CompiledPolicy(file.read_text(encoding="utf-8"))
    try:
        wanted = load_cases(cases.read_bytes(), is_json=cases.suffix.lower() == ".json")
    except CasesError as exc:
        raise CliError.usage(f"{cases}: {exc}") from exc
    rows: list[dict[str, str | int | float | bool | None]] = []
    for number, case in enumerate(wanted, 1):
        verdict, is_expected = run_case(policy, case)
        if not is_expected:
            rows.append(
                {
                    "case": number,
                    "principal": case.principal,
                    "action": case.action.value,
                    "context": " ".join(f"{name}={value}" for name, value in case.context.items()),
                    "expected": "allow" if case.allow else "deny",
                    "answer": "allow" if verdict.allowed else "deny",
                    "decided_by": verdict.policy_id,
                    "expected_by": case.by,
                }
            )
    if rows:
        print_rows(rows, TEST_COLUMNS, output)
        raise CliError(
            "POLICY_CASES_FAILED", f"{len(rows)} of {len(wanted)} cases are not as expected"
        )
    if output is Format.JSON:
        print_rows([], TEST_COLUMNS, output)
    note(f"{len(wanted)} cases as expected")
