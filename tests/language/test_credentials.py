"""Credentials as authors ask for them."""

from __future__ import annotations

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.model import Credential

X509, KERBEROS, BEARER = (
    Credential(kind="x509"),
    Credential(kind="kerberos"),
    Credential(kind="bearer"),
)


def asked(bench: Bench, own: str, general: str = "") -> tuple[Credential, ...]:
    text = f"global: {{{general}}}\n{TASK}    environment: {{{own}}}\n"
    (task,) = bench.plan(text).tasks
    credentials: tuple[Credential, ...] = task.environment.credentials
    return credentials


def refusal(bench: Bench, own: str) -> str:
    problem = bench.problem(f"{TASK}    environment: {{{own}}}\n")
    path = problem.location.path.removeprefix("tasks[0].environment.")
    return f"{problem.location.column - 19} {path}: {problem.message} | {problem.hint}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("x509", (X509,)),
        ("[x509, kerberos, bearer]", (X509, KERBEROS, BEARER)),
        ("[voms, krb5, token]", (X509, KERBEROS, BEARER)),
        ("[X509, Kerberos]", (X509, KERBEROS)),
        ("[]", ()),
        ("null", ()),
        ("{kind: x509, file: /data/proxy}", (Credential(kind="x509", file="/data/proxy"),)),
        (
            "{kind: token, variable: MY_TOKEN_FILE}",
            (Credential(kind="bearer", variable="MY_TOKEN_FILE"),),
        ),
        (
            "{file: ~/.aws/credentials, variable: AWS_SHARED_CREDENTIALS_FILE}",
            (
                Credential(
                    kind="file",
                    file="~/.aws/credentials",
                    variable="AWS_SHARED_CREDENTIALS_FILE",
                ),
            ),
        ),
        (
            "[x509, {file: /a, variable: A}, {kind: file, file: /b, variable: B}]",
            (
                X509,
                Credential(kind="file", file="/a", variable="A"),
                Credential(kind="file", file="/b", variable="B"),
            ),
        ),
    ],
)
def test_what_is_meant(bench: Bench, written: str, meant: tuple[Credential, ...]) -> None:
    assert asked(bench, f"credentials: {written}") == meant


def test_a_file_is_looked_for_beside_the_workflow(bench: Bench) -> None:
    (credential,) = asked(bench, "credentials: {kind: x509, file: proxy.pem}")
    assert credential.file == f"{bench.folder.resolve()}/proxy.pem"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("", (X509, KERBEROS)),
        ("variables: {A: 1}", (X509, KERBEROS)),
        ("credentials: bearer", (BEARER,)),
        ("credentials: []", ()),
        ("credentials: null", ()),
    ],
)
def test_a_task_replaces_the_global_ones(
    bench: Bench, own: str, expected: tuple[Credential, ...]
) -> None:
    assert asked(bench, own, "credentials: [x509, kerberos]") == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            "credentials: [x509, kerberso]",
            "20 credentials[1]: there is no such kind of credential | did you mean 'kerberos'?",
        ),
        (
            "credentials: password",
            (
                "13 credentials: there is no such kind of credential | "
                "known are x509, kerberos, bearer, and a file: {file: PATH, variable: NAME}"
            ),
        ),
        ("credentials: <kind>", "'<kind>' is a placeholder | known are x509, kerberos, bearer"),
        ("credentials: 3", "must be text, a mapping, or a list of these, not a number"),
        ("credentials: [3]", "14 credentials[0]: must be text or a mapping, not a number"),
        ("credentials: file", "which file? | write {file: PATH, variable: NAME}"),
        ("credentials: {}", "this names no credential | such as x509, kerberos, bearer"),
        ("credentials: {kind: file, variable: A}", "which file? | add 'file: PATH'"),
        (
            "credentials: {file: /a}",
            "how is the task to find the file? | add 'variable: NAME', the variable that names it",
        ),
        ("credentials: {file: /a, variable: 1A}", "'1A' is not the name of a variable"),
        ("credentials: {file: /a, variable: FASTHEP_A}", "FASTHEP_A cannot be set"),
        ("credentials: {file: /a, variable: PATH}", "PATH tells programs something else"),
        (
            "credentials: {file: /a, variable: CUDA_VISIBLE_DEVICES}",
            "CUDA_VISIBLE_DEVICES tells programs something else than where a file is",
        ),
        ("credentials: {file: '', variable: A}", "this is empty, and no file"),
        ("credentials: {file: <path to key>, variable: A}", "'<path to key>' is a placeholder"),
        ("credentials: {file: $HOME/a, variable: A}", "no shell reads this"),
        ("credentials: {kind: x509, fiel: /a}", "there is no key 'fiel' here | did you mean 'fi"),
        ("credentials: {kind: x590}", "there is no such kind of credential | did you mean 'x509'"),
        (
            "credentials: [x509, {kind: voms, file: /a}]",
            "20 credentials[1]: x509 is asked for twice, each time another one | keep one of them",
        ),
        (
            "credentials: [{file: /a, variable: A}, {file: /b, variable: A}]",
            "A is asked for twice, each time another one",
        ),
        (
            "variables: {A: 1}, credentials: {file: /a, variable: A}",
            (
                "A is to name the file, and is set under 'variables', too | "
                "remove it from one of the two; it is set at workflow.yaml:5"
            ),
        ),
        (
            "variables: {X509_USER_PROXY: /b}, credentials: {kind: x509, file: /a}",
            "X509_USER_PROXY is to name the file, and is set under 'variables', too",
        ),
        (
            "variables: {BEARER_TOKEN: b}, credentials: {kind: bearer, file: /a}",
            "the token is to be that of a file, and BEARER_TOKEN is set under 'variables', too",
        ),
        (
            "credentials: {kind: kerberos, file: 'FILE:/tmp/cc'}",
            "of a cache of tickets, and no path | write the path alone, without 'FILE:'",
        ),
        (
            "credentials: {kind: krb5, file: 'KCM:'}",
            "no path | leave 'file' out, and set the variable KRB5CCNAME to it",
        ),
    ],
)
def test_what_is_refused(bench: Bench, own: str, expected: str) -> None:
    assert expected in refusal(bench, own)


def test_a_variable_of_the_global_settings_is_set_besides(bench: Bench) -> None:
    text = f"global: {{credentials: {{file: /a, variable: A}}}}\n{TASK}"
    assert bench.plan(text).tasks
    problem = bench.problem(f"{text}    environment: {{variables: {{A: 1}}}}\n")
    assert "A is to name the file" in problem.message
    assert problem.location.line == 1


def test_what_is_asked_for_twice_is_told(bench: Bench) -> None:
    plan = bench.plan(f"{TASK}    environment: {{credentials: [x509, token, voms]}}\n")
    (warning,) = plan.warnings
    assert "tasks[0].environment.credentials[2]: x509 is asked for twice" in warning
    assert plan.tasks[0].environment.credentials == (X509, BEARER)


@pytest.mark.parametrize(
    "own",
    [
        "eyJhbGciOiJIUzI1NiJ9.hunter2",
        "[hunter2]",
        "{kind: hunter2}",
        "{hunter2: x}",
        '"hunter2\\n"',
    ],
)
def test_a_credential_that_stands_there_itself_is_not_repeated(bench: Bench, own: str) -> None:
    said = str(bench.refuse(f"{TASK}    environment:\n      credentials: {own}\n"))
    assert "hunter2" not in said.replace("'hunter2' here", "").replace("credentials.hunter2", "")


def test_below_the_environment_is_where_it_belongs(bench: Bench) -> None:
    problem = bench.problem(f"{TASK}    credentials: [x509]\n")
    assert problem.hint == "put it under 'environment': a task's credentials is part of that"
    problem = bench.problem(f"{TASK}credentials: [x509]\n")
    assert problem.hint == "put it under 'global': credentials for every task is part of that"


@pytest.mark.parametrize(
    "own",
    [
        # They say where it is looked for, and what the task is to be told.
        "variables: {X509_USER_PROXY: /a}, credentials: x509",
        "variables: {BEARER_TOKEN: a}, credentials: bearer",
        "variables: {KRB5CCNAME: /b}, credentials: {kind: kerberos, file: /a, variable: MINE}",
        "variables: {A: 1}, credentials: {kind: x509, file: /a}",
        "credentials: {kind: x509, file: 'FILE:odd'}",
    ],
)
def test_what_goes_together(bench: Bench, own: str) -> None:
    assert bench.plan(f"{TASK}    environment: {{{own}}}\n").tasks
