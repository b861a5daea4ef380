"""What is shown to nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.redaction import (
    is_secret,
    looks_secret,
    without_assigned,
    without_credentials,
)


@pytest.mark.parametrize(
    "name",
    [
        "TOKEN", "GITHUB_TOKEN", "EOS_TOKEN", "token", "githubToken", "GITHUBTOKEN", "TOKENS",
        "SECRET", "CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "SECRET_KEY",
        "PASSWORD", "PGPASSWORD", "db_password", "dbPassword", "PASSWORD2", "MYSQL_PWD", "DB_PASS",
        "PASSWD", "PASSPHRASE", "PGPASS", "CREDENTIALS", "CREDENTIAL", "CREDS", "PRIVATE_KEY",
        "SSH_PRIVATE_KEY", "API_KEY", "APIKEY", "api-key", "SIGNING_KEY", "DOCKER_AUTH_CONFIG",
        "AUTH", "BASIC_AUTH", "AUTHORIZATION", "BEARER", "COOKIE", "SESSION_COOKIE", "JWT",
        "GITLAB_PAT", "pat", "githubPat",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZER", "TOKENIZERS_PARALLELISM", "MONKEY", "KEY", "SORT_KEY", "KEYBOARD", "AUTHOR",
        "XAUTHORITY", "COMPASS", "BYPASS", "PASSAGE", "SECRETARY", "PWD", "OLDPWD", "COOKIECUTTER",
        "SSH_AUTH_SOCK", "X509_USER_PROXY", "KRB5CCNAME", "PATH", "LUMI", "STATS_METHOD", "",
        "PATTERN", "PATCH",
    ],
)  # fmt: skip
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name)
    assert is_secret(name, (name,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://user:hunter2@host/path", "https://***@host/path"),
        ("https://hunter2@github.com/a/b", "https://***@github.com/a/b"),
        ("postgres://user:hun/ter2@x@host:5432/db", "postgres://***@host:5432/db"),
        ("a=https://u:hunter2@h b=ftp://v:hunter2@i", "a=https://***@h b=ftp://***@i"),
        (
            "root://eos.cern.ch//f.root?authz=hunter2&x=1",
            "root://eos.cern.ch//f.root?authz=***&x=1",
        ),
        ("https://h/x?access_token=hunter2", "https://h/x?access_token=***"),
        ("https://h/x?a=1&X-Amz-Signature=hunter2", "https://h/x?a=1&X-Amz-Signature=***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n", "***"),
        ("https://host:8080/a/b?c=d", "https://host:8080/a/b?c=d"),
        ("https://host/a@b", "https://host/a@b"),
        ("ada@example.org", "ada@example.org"),
        ("user:hunter2@host", "***@host"),
        ("DSN=user:hun@ter2@host:5432/db", "DSN=***@host:5432/db"),
        ("on user:hunter2@host and v:hunter2@w", "on ***@host and ***@w"),
        ("Bearer hunter2", "Bearer ***"),
        ("basic aHVudGVyMg==", "basic ***"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("Bearer", "Bearer"),
        ("Basically well", "Basically well"),
        ("docker.io/library/debian:12@sha256:0123", "docker.io/library/debian:12@sha256:0123"),
        ("debian:12@sha256:0123", "debian:12@sha256:0123"),
        ("ada@host:/data", "ada@host:/data"),
        ("/opt/a@1/bin:/opt/b@2/bin", "/opt/a@1/bin:/opt/b@2/bin"),
        ("a=1;b=2", "a=1;b=2"),
        ("", ""),
    ],
)
def test_credentials_in_a_text(text: str, told: str) -> None:
    assert without_credentials(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("export TOKEN=hunter2", "export TOKEN=***"),
        ("A=1 TOKEN='hunter 2' ./run", "A=1 TOKEN=*** ./run"),
        ('TOKEN="hunter \\" 2";B=2', "TOKEN=***;B=2"),
        ("TOKEN=hunter\\ 2\nB=2", "TOKEN=***\nB=2"),
        ("TOKEN=a'hunter 2'\"hunter2\"", "TOKEN=***"),
        ("TOKEN='hunter2", "TOKEN=***"),
        ("TOKEN=$(cat token)", "TOKEN=$(cat token)"),
        ('TOKEN="$OTHER"', 'TOKEN="$OTHER"'),
        ("TOKEN=`cat token`", "TOKEN=`cat token`"),
        ("TOKEN=", "TOKEN="),
        ("TOKENIZER=fast", "TOKENIZER=fast"),
        ("source /a.sh --token=x", "source /a.sh --token=***"),
        ("", ""),
    ],
)
def test_values_that_lines_of_a_shell_give_to_secrets(text: str, told: str) -> None:
    assert without_assigned(text) == told


@given(st.text(), st.text(alphabet="abcXYZ019:@/?&=%", min_size=1))
def test_no_password_of_an_address_is_left(before: str, password: str) -> None:
    told = without_credentials(f"{before} https://user:hunter2{password}@host/path")
    assert "hunter2" not in told


def test_long_values_are_looked_through_at_once() -> None:
    for value in ("a:" * 2**16 + "@", "a:b " * 2**15 + "@x", "a=" * 2**16 + ":@", "@a:" * 2**15):
        assert without_credentials(value)
        looks_secret(value)
        looks_secret(value.replace(":", "-"))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("options: [--label, TOKEN=hunter2]", True),
        ('options: ["TOKEN=hunter2"]', True),
        ("--label=TOKEN=hunter2", True),
        ("--docker-password=hunter2", True),
        ("https://user:hunter2@host/", True),
        ("TOKEN= hunter", False),
        ("TOKENIZER=fast", False),
        ("--authfile=a.json --label colour=red", False),
    ],
)
def test_texts_that_look_like_secrets(text: str, is_one: bool) -> None:
    assert looks_secret(text) is is_one


def test_long_lines_are_looked_through_at_once() -> None:
    for value in ("A=" * 2**16, "TOKEN='" * 2**14, "TOKEN=" + "\\" * 2**16, 'T="\\"' * 2**14):
        assert without_assigned(value)
