"""Key policies: what is refused, what is decided, and docs/policies.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom_server.domain.policy import (
    DEFAULT_DENY,
    SCHEMA,
    Action,
    CompiledPolicy,
    check_lock_out,
    default_policy,
)
from strongroom_server.domain.policy_text import MAX_POLICY_BYTES
from strongroom_server.errors import PolicyInvalidError

ORDERS = "spiffe://example.org/orders"
BILLING = "spiffe://example.org/billing"
KEY = "regions/eu-1/keys/0b8d5f0e-6f3c-4b7e-9d1a-2f1f4a1b7c3d"
ALL = "(principal, action, resource)"


def decide(
    policy: CompiledPolicy | str,
    principal: str = ORDERS,
    action: Action = Action.ENCRYPT,
    context: Mapping[str, str] | None = None,
    *,
    administrator: bool = False,
    key: str = KEY,
) -> tuple[bool, str]:
    """Return what the policy answers, and which policy decided."""
    if isinstance(policy, str):
        policy = CompiledPolicy(policy)
    verdict = policy.evaluate(
        principal=principal,
        is_administrator=administrator,
        action=action,
        key=key,
        encryption_context=context or {},
    )
    return verdict.allowed, verdict.policy_id


def when(condition: str, effect: str = "permit") -> str:
    """Return a policy with a condition."""
    return f"{effect} {ALL} when {{ {condition} }};"


@pytest.mark.parametrize("action", list(Action))
def test_the_default_policy_is_for_creator_and_administrators(action):
    """Creator and administrators may do everything, everybody else nothing."""
    policy = CompiledPolicy(default_policy(ORDERS))
    assert decide(policy, ORDERS, action) == (True, "creator")
    assert decide(policy, BILLING, action, administrator=True) == (True, "administrators")
    assert decide(policy, BILLING, action) == (False, DEFAULT_DENY)
    assert decide(policy, ORDERS, action, administrator=True) == (True, "administrators,creator")


def test_an_empty_policy_permits_nothing():
    """Nothing is allowed that no policy permits."""
    for text in ("", "// nothing\n", f"forbid {ALL};"):
        assert not decide(text, administrator=True)[0]


def test_forbid_overrides_permit():
    """A forbid that applies decides, however many permits there are, and is named."""
    text = f'permit {ALL}; @id("no") forbid (principal, action == Action::"Decrypt", resource);'
    assert decide(text) == (True, "policy0")
    assert decide(text, action=Action.DECRYPT) == (False, "no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('permit (principal, action == Action::"Shred", resource);', "Shred"),
        ('permit (principal, action == Action::"encrypt", resource);', "encrypt"),
        ('permit (principal, action in [Action::"Encrypt", Action::"Shred"], resource);', "Shred"),
        ('permit (principal == User::"a", action, resource);', "User"),
        ('permit (principal, action, resource == Alias::"a");', "Alias"),
        ('permit (principal == Key::"a", action, resource);', "applicable action"),
        (when('principal.team == "a"'), "team"),
        (when("context.mfa"), "mfa"),
        (when('resource.tag == "a"'), "tag"),
        (when('context.encryption_context.contains({name: "a"})'), "not compatible"),
        (when('context.encryption_context.contains({name: "a", value: 1})'), "not compatible"),
        (when('context.encryption_context == "a"'), ""),
        (when("1"), ""),
        ("permit (principal, action, resource)", "end of input"),
        ("permit everything;", "everything"),
        ("allow (principal, action, resource);", "allow"),
        ('permit (principal == "a", action, resource);', "entity uid"),
        ("permit (principal == ?principal, action, resource);", "no meaning here"),
        ("permit (principal, action, resource in ?resource);", "no meaning here"),
        ("\ud800", "not valid Unicode"),
        ("x" * (MAX_POLICY_BYTES + 1), "longer than 32768 bytes"),
        ("é" * (MAX_POLICY_BYTES // 2 + 1), "longer than 32768 bytes"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_and_explained(text, message):
    """Unknown actions, entity types and attributes, and bad syntax, are named in the message."""
    with pytest.raises(PolicyInvalidError) as refusal:
        CompiledPolicy(text)
    assert refusal.value.message.startswith("policy: ")
    assert message in refusal.value.message
    assert len(refusal.value.message) < 1000


def test_a_long_list_of_mistakes_is_cut():
    """The message of a policy full of mistakes fits into an answer's headers."""
    text = 'permit (principal, action == Action::"Nope", resource);\n' * 500
    with pytest.raises(PolicyInvalidError, match=r"more$") as refusal:
        CompiledPolicy(text)
    assert len(refusal.value.message) < 1000


@pytest.mark.parametrize(
    "policy_id", ["", " ", "a b", "a,b", "é", "a\\n", "default-deny", "a" * 65, "-a", '\\"']
)
def test_policy_ids_are_short_words(policy_id):
    """An id that could not stand in an audit record, or would mislead, is refused."""
    with pytest.raises(PolicyInvalidError, match="@id"):
        CompiledPolicy(f'@id("{policy_id}") permit {ALL};')
    with pytest.raises(PolicyInvalidError, match="@id"):
        CompiledPolicy(f"@id permit {ALL};")


def test_policy_ids_are_unique():
    """Two policies with one id are refused; other annotations are not ids."""
    with pytest.raises(PolicyInvalidError, match=r'two policies have @id\("a"\)'):
        CompiledPolicy(f'@id("a") permit {ALL}; @id("a") forbid {ALL};')
    assert decide(f'@note("a b") permit {ALL}; @note("a b") @id("b") permit {ALL};')[0]


def test_the_policies_named_in_a_verdict_are_bounded():
    """However many policies apply, what goes into the audit record stays short."""
    allowed, policy_id = decide("".join(f'@id("{n:064}") permit {ALL};' for n in range(200)))
    assert allowed
    assert policy_id.endswith(",and 192 more")
    assert len(policy_id) < 700


DEEP = {
    "parentheses": when("(" * 8000 + "true" + ")" * 8000),
    "sets": when("[" * 8000 + "1" + "]" * 8000 + ".isEmpty()"),
    "records": when("{a:" * 5000 + "1" + "}" * 5000 + " has a"),
    "calls": when("[true].contains(" * 1500 + "true" + ")" * 1500),
    "conditions": when("if true then " * 1300 + "true" + " else true" * 1300),
    "attributes": when("principal" + ".a" * 16000 + " == 1"),
    "indexes": when("context" + '["a"]' * 6000 + " == 1"),
    "has": when("context has a" + ".a" * 16000),
    "has, commented": when("context has a" + ".//\na" * 6000),
    "sums": when("1+" * 16000 + "principal.a == 1"),
    "closers in strings": when('[")", ' * 3000 + "1" + "]" * 3000),
    "closers in comments": when("( // )\n" * 3000 + "true" + ")" * 3000),
    "an unfinished string": when("(" * 100 + '"' + '\\"' * 10000),
    "never closed": "(" * 30000,
    "many quotes": '"\\' * 16000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_texts_too_deep_for_the_parser_are_refused_before_it(text):
    """What would overflow the native stack or take seconds is refused at once."""
    assert len(text) <= MAX_POLICY_BYTES
    check = (
        "import sys, time\n"
        "from strongroom_server.domain.policy import CompiledPolicy\n"
        "from strongroom_server.errors import PolicyInvalidError\n"
        "start = time.process_time()\n"
        "try:\n"
        "    CompiledPolicy(sys.stdin.read())\n"
        "except PolicyInvalidError:\n"
        "    sys.exit(3 if time.process_time() - start < 2 else 4)\n"
    )
    # In a process of its own: a stack overflow would end this one.
    done = subprocess.run([sys.executable, "-c", check], input=text.encode(), check=False)
    assert done.returncode == 3


def test_limits_leave_room_for_large_policies():
    """32 brackets deep, 50 conditions in a policy and 250 policies are accepted."""
    assert decide(when("(" * 30 + "true" + ")" * 30))[0]
    pair = 'context.encryption_context.contains({name: "a", value: "b"})'
    assert decide(when(" || ".join([pair] * 50)), context={"a": "b"})[0]
    rows = [
        f'permit (principal == Principal::"spiffe://e.org/{n}", action, resource);'
        for n in range(250)
    ]
    assert decide("\n".join(rows), "spiffe://e.org/249") == (True, "policy249")


@pytest.mark.parametrize("action", list(Action))
def test_action_groups_are_those_of_the_schema(action):
    """An action is in its group, in a permit and in a forbid, and in no other."""
    for group, members in GROUPS.items():
        permit = f'permit (principal, action in Action::"{group}", resource);'
        forbid = f'permit {ALL}; forbid (principal, action in Action::"{group}", resource);'
        assert decide(permit, action=action)[0] == (action.value in members)
        assert decide(forbid, action=action)[0] == (action.value not in members)
        by_schema = cedarpy.is_authorized(
            {
                "principal": 'Principal::"a"',
                "action": f'Action::"{action}"',
                "resource": 'Key::"k"',
                "context": {"encryption_context": []},
            },
            permit,
            "[]",
            SCHEMA,
        )
        assert by_schema.allowed == (action.value in members)


def test_conditions_on_the_encryption_context():
    """A condition sees every pair, exactly, and no others."""
    text = when('context.encryption_context.contains({name: "tenant", value: "7"})')
    assert decide(text, context={"tenant": "7", "x": "y"})[0]
    for context in ({}, {"tenant": "8"}, {"Tenant": "7"}, {"tenant": "7 "}, {"7": "tenant"}):
        assert not decide(text, context=context)[0]
    assert CompiledPolicy(text).depends_on_context
    assert not CompiledPolicy(default_policy(ORDERS)).depends_on_context


HOSTILE = [
    'a"b',
    "a\\",
    'a\\"b',
    '" || true || "',
    '"}]} , "principal": "x',
    "a\nb",
    "a\x00b",
    "é",
    "\u202e",
    "\U0001f511",
    '{"__entity": {"type": "Role", "id": "administrator"}}',
    "__extn",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_values_are_data_and_never_syntax(text):
    """Quotes, backslashes, line ends and other scripts match themselves and nothing else."""
    quoted = json.dumps(text, ensure_ascii=False).replace("\\u0000", "\\0")
    for policy in (
        f"permit (principal == Principal::{quoted}, action, resource);",
        f"permit (principal, action, resource == Key::{quoted});",
        when(f"context.encryption_context == [{{name: {quoted}, value: {quoted}}}]"),
    ):
        if text == "":
            continue
        compiled = CompiledPolicy(policy)
        assert decide(compiled, text, key=text, context={text: text})[0]
        other = text + "x"
        assert not decide(compiled, other, key=other, context={other: text})[0]
        assert not decide(compiled, ORDERS, context={ORDERS: text})[0]
    # Whatever the names are, they give nobody a role or another name.
    default = CompiledPolicy(default_policy(ORDERS))
    for principal in (text, f'{ORDERS}"{text}', f"{ORDERS}{text}x", f"{text}{ORDERS}x"):
        assert not decide(default, principal, key=text, context={text: text})[0]


def test_a_context_that_is_not_unicode_is_denied():
    """Cedar cannot read a lone surrogate: the answer is no, not an exception."""
    assert not decide(f"permit {ALL};", context={"a": "\ud800"})[0]


def test_lock_out_is_refused():
    """A policy must leave creator or administrators able to see, enable and disable."""
    good = [
        default_policy(ORDERS),
        'permit (principal in Role::"administrator", action in Action::"ManageKey", resource);',
        f'permit (principal == Principal::"{ORDERS}", action in Action::"ManageKey", resource);',
    ]
    bad = [
        "",
        f'permit (principal == Principal::"{BILLING}", action, resource);',
        f'permit (principal == Principal::"{ORDERS}", action in Action::"UseKey", resource);',
        f'permit {ALL}; forbid (principal, action == Action::"EnableKey", resource);',
        f'permit {ALL}; forbid (principal, action == Action::"PutKeyPolicy", resource);',
        when('context.encryption_context.contains({name: "a", value: "b"})'),
        'permit (principal == Principal::"spiffe://invalid/administrator", action, resource);',
        f"permit {ALL}; forbid {ALL};",
    ]
    for text in good:
        check_lock_out(
            CompiledPolicy(text), creator=ORDERS, creator_is_administrator=False, key=KEY
        )
    for text in bad:
        with pytest.raises(PolicyInvalidError, match="locks everybody out"):
            check_lock_out(
                CompiledPolicy(text), creator=ORDERS, creator_is_administrator=False, key=KEY
            )


# --- a reference evaluator: Cedar's rules for the small policies generated below -----------------

PRINCIPALS = [ORDERS, BILLING, "spiffe://example.org/admin"]
ADMINISTRATOR = PRINCIPALS[2]
GROUPS = {
    "ManageKey": {
        "GetKey",
        "EnableKey",
        "DisableKey",
        "RotateKey",
        "ListKeyVersions",
        "CreateAlias",
        "UpdateKey",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
        "GetKeyVersion",
        "ScheduleKeyVersionDeletion",
        "CancelKeyVersionDeletion",
        "UpdateAlias",
        "DeleteAlias",
        "TagResource",
        "UntagResource",
        "GetKeyPolicy",
        "PutKeyPolicy",
        "ListKeyPolicyRevisions",
        "ExplainAccess",
        "CreateGrant",
        "ListGrants",
        "RetireGrant",
        "RevokeGrant",
        "GetImportParameters",
        "ImportKeyMaterial",
        "DeleteImportedKeyMaterial",
    },
    "UseKey": {
        "Encrypt",
        "Decrypt",
        "ReEncryptFrom",
        "ReEncryptTo",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "Sign",
        "Verify",
        "GetPublicKey",
        "GenerateMac",
        "VerifyMac",
        "DeriveSharedSecret",
    },
}
PAIRS = [("a", "1"), ("a", "2"), ("A", "1"), ("b", 'q"\\')]

statements = st.fixed_dictionaries(
    {
        "effect": st.sampled_from(["permit", "forbid"]),
        "principal": st.sampled_from([None, "administrators", *PRINCIPALS]),
        "action": st.sampled_from([None, *GROUPS, *(action.value for action in Action)]),
        "pair": st.sampled_from([None, *PAIRS]),
        "unless": st.booleans(),
    }
)


def to_cedar(statement: Mapping[str, object]) -> str:
    """Write a generated statement in Cedar."""
    match statement["principal"]:
        case None:
            principal = "principal"
        case "administrators":
            principal = 'principal in Role::"administrator"'
        case name:
            principal = f'principal == Principal::"{name}"'
    action = statement["action"]
    operator = "in" if action in GROUPS else "=="
    scope = "action" if action is None else f'action {operator} Action::"{action}"'
    text = f"{statement['effect']} ({principal}, {scope}, resource)"
    if (pair := statement["pair"]) is not None:
        assert isinstance(pair, tuple)
        name, value = map(json.dumps, pair)
        word = "unless" if statement["unless"] else "when"
        condition = f"context.encryption_context.contains({{name: {name}, value: {value}}})"
        text += f" {word} {{ {condition} }}"
    return text + ";"


def applies(
    statement: Mapping[str, object], principal: str, action: str, context: Mapping[str, str]
) -> bool:
    """Say whether a statement applies to a request."""
    scope, who, pair = statement["action"], statement["principal"], statement["pair"]
    if who == "administrators" and principal != ADMINISTRATOR:
        return False
    if who not in {None, "administrators", principal}:
        return False
    if scope is not None and scope != action and action not in GROUPS.get(str(scope), ()):
        return False
    return pair is None or (pair in list(context.items())) != statement["unless"]


def reference(
    policy: list[Mapping[str, object]], principal: str, action: str, context: Mapping[str, str]
) -> tuple[bool, set[str]]:
    """Decide as Cedar says: a forbid that applies, else a permit that applies, else deny."""
    hits: dict[str, set[str]] = {"permit": set(), "forbid": set()}
    for number, statement in enumerate(policy):
        if applies(statement, principal, action, context):
            hits[str(statement["effect"])].add(f"policy{number}")
    if hits["forbid"]:
        return False, hits["forbid"]
    return bool(hits["permit"]), hits["permit"] or {DEFAULT_DENY}


@settings(max_examples=100, deadline=None)
@given(
    policy=st.lists(statements, max_size=5),
    chosen=st.lists(st.sampled_from(PAIRS), max_size=3).map(dict),
)
def test_decisions_are_those_of_the_reference(policy, chosen):
    """For every principal and action, a generated policy decides as the reference does."""
    compiled = CompiledPolicy("\n".join(map(to_cedar, policy)))
    for principal in PRINCIPALS:
        for action in Action:
            allowed, policy_id = decide(
                compiled, principal, action, chosen, administrator=principal == ADMINISTRATOR
            )
            expected = reference(policy, principal, action.value, chosen)
            assert (allowed, set(policy_id.split(","))) == expected
