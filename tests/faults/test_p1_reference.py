"""P1: the service decides as a second, independent model does, on generated cases."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from tests.support.memory_permissions import MemoryPermissions
from tests.support.permission_reference import (
    USES,
    WITHOUT_CONTEXT,
    ModelGrant,
    Pairs,
    Statement,
    decide,
    to_cedar,
)
from tests.support.soak import rounds
from tests.support.store_samples import make_key

from strongroom_server.domain.explaining import consider_grant, consider_policies
from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action, CompiledPolicy, Question
from strongroom_server.errors import KeyNotFoundError, PolicyDeniedError
from strongroom_server.services.authorization import Authorization

CASES = 10_000
CASES_A_POLICY = 25
ADMIN = "spiffe://example.org/admin"
# Names that could be taken for each other: case, a prefix, a wildcard, a Unicode form.
PRINCIPALS = (
    ADMIN,
    "spiffe://example.org/orders",
    "spiffe://example.org/orders/api",
    "spiffe://example.org/Orders",
    "spiffe://example.org/*",
)
PAIRS = (
    ("tenant", "7"),
    ("tenant", "8"),
    ("Tenant", "7"),
    ("7", "tenant"),
    ("table", "é"),
    ("table", "e\u0301"),
    ("*", ""),
    ('"', '"}])'),
)
ACTIONS = (*USES, *WITHOUT_CONTEXT, "DisableKey", "PutKeyPolicy", "RevokeGrant")


def _pairs(dice: random.Random, most: int = 2) -> Pairs:
    chosen = dict(dice.sample(PAIRS, dice.randint(1, most)))
    return tuple(sorted(chosen.items()))


def _statement(dice: random.Random) -> Statement:
    actions = dice.choice(
        [None, ("UseKey",), ("ManageKey",), tuple(dice.sample(ACTIONS, dice.randint(1, 3)))]
    )
    return Statement(
        forbids=dice.random() < 0.25,
        principal=dice.choice([None, "administrators", *PRINCIPALS]),
        actions=actions,
        has=_pairs(dice) if dice.random() < 0.3 else (),
        exactly=_pairs(dice) if dice.random() < 0.15 else None,
        lacks=_pairs(dice) if dice.random() < 0.2 else (),
        spares_administrators=dice.random() < 0.1,
    )


def _grant(dice: random.Random) -> ModelGrant:
    kind = dice.choice(["free", "equals", "contains"])
    operations = tuple(sorted(dice.sample((*USES, *WITHOUT_CONTEXT), dice.randint(1, 4))))
    pairs = _pairs(dice, 3)
    return ModelGrant(
        dice.choice(PRINCIPALS),
        operations,
        equals=pairs if kind == "equals" else None,
        contains=pairs if kind == "contains" else None,
    )


def _to_grant(key: Key, model: ModelGrant) -> Grant:
    constraint = None
    if model.equals is not None:
        constraint = Constraint(ConstraintKind.EQUALS, model.equals)
    elif model.contains is not None:
        constraint = Constraint(ConstraintKind.SUBSET, model.contains)
    return Grant(
        grant_id=uuid.uuid4(),
        region=key.region,
        key_id=key.key_id,
        grantee=model.grantee,
        operations=tuple(map(Action, model.operations)),
        constraint=constraint,
        retiring="",
        name="",
        issuer=ADMIN,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.timeout(1800)
async def test_no_decision_differs_from_the_model(figures: Callable[..., None]) -> None:
    """Policies of the documented shapes and grants: allowed by both, or by neither."""
    dice = random.Random(20260101)  # noqa: S311 - the same cases in every run
    authorization = Authorization(
        administrators=frozenset({ADMIN}), key_creators=frozenset(), on_decision=lambda _: None
    )
    wanted, tally, start = rounds(CASES), Counter[str](), time.process_time()
    for _ in range(wanted // CASES_A_POLICY):
        statements = [_statement(dice) for _ in range(dice.randint(0, 5))]
        models = [_grant(dice) for _ in range(dice.randint(0, 4))]
        text = "\n".join(itertools.starmap(to_cedar, enumerate(statements)))
        key = dataclasses.replace(make_key(), policy=text)
        grants = [_to_grant(key, model) for model in models]
        permissions = MemoryPermissions(grants={grant.grant_id: grant for grant in grants})
        for _ in range(CASES_A_POLICY):
            principal, action = dice.choice(PRINCIPALS), dice.choice(ACTIONS)
            context = dict(dice.sample(PAIRS, dice.randint(0, 3)))
            expected = decide(
                statements,
                models,
                principal,
                action,
                context,
                is_administrator=principal == ADMIN,
            )
            try:
                decided_by = await authorization.authorize(
                    principal,
                    Action(action),
                    key,
                    context,
                    asked_name="x",
                    permissions=permissions,
                )
            except (PolicyDeniedError, KeyNotFoundError) as refused:
                decided_by = refused.policy_id
                assert not expected, (text, models, principal, action, context)
                tally["denied, by a forbid" if decided_by != "default-deny" else "denied"] += 1
            else:
                assert expected, (text, models, principal, action, context, decided_by)
                by_grant = decided_by.startswith("grant/")
                tally["allowed, by a grant" if by_grant else "allowed, by a policy"] += 1
            question = Question(principal, principal == ADMIN, Action(action), "k", context)
            _explanation_agrees(authorization.compiled(text), grants, question, decided_by)
    assert tally.total() == wanted // CASES_A_POLICY * CASES_A_POLICY
    assert min(tally.values()) > wanted // 100
    seconds = time.process_time() - start
    figures(cases=tally.total(), divergences=0, cpu_seconds=seconds, **dict(tally))


def _explanation_agrees(
    policy: CompiledPolicy, grants: list[Grant], asked: Question, decided_by: str
) -> None:
    """Check that what ExplainAccess says of each policy and grant adds up to the decision."""
    considered = list(consider_policies(policy, asked))
    forbidding = {each.policy_id for each in considered if each.applies and each.forbids}
    permitting = {each.policy_id for each in considered if each.applies and not each.forbids}
    by_grants = {
        grant.policy_id
        for grant in grants
        if grant.grantee == asked.principal
        and consider_grant(grant, asked.action, asked.encryption_context).applies
    }
    if forbidding or permitting:
        assert set(decided_by.split(",")) == (forbidding or permitting)
    elif by_grants:
        assert decided_by in by_grants
    else:
        assert decided_by == "default-deny"
