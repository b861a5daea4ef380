"""What is shown to nobody."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fasthep_flow.redaction import (
    HIDDEN,
    is_secret,
    looks_secret,
    secret_values,
    without_assigned,
    without_credentials,
    without_values,
)

VALUE = "hun'ter+2/é"


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
        ('A_TOKEN="der-$MY_TOKEN"', 'A_TOKEN="der-$MY_TOKEN"'),
        ("A_TOKEN=der-${MY_TOKEN}-x", "A_TOKEN=der-${MY_TOKEN}-x"),
        ('A_TOKEN="it\'s $MY_TOKEN"', 'A_TOKEN="it\'s $MY_TOKEN"'),
        ("A_TOKEN='der-$MY_TOKEN'", "A_TOKEN=***"),
        ('A_TOKEN="der-\\$MY_TOKEN"', "A_TOKEN=***"),
        ('A_TOKEN="hunter2-$USER"', "A_TOKEN=***"),
        ("A_TOKEN=hunter2 B=$MY_TOKEN", "A_TOKEN=*** B=$MY_TOKEN"),
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
    for value in (
        "A=" * 2**16,
        "TOKEN='" * 2**14,
        "TOKEN=" + "\\" * 2**16,
        "TOKEN=a" + "$T" * 2**16,
        'T="\\"' * 2**14,
    ):
        assert without_assigned(value)


@pytest.mark.parametrize(
    ("variables", "declared", "values"),
    [
        ({"TOKEN": "hunter2", "LUMI": "4.9fb"}, (), {"hunter2"}),
        ({"LUMI": "4.9fb"}, ("LUMI",), {"4.9fb"}),
        ({"TOKEN": "2.5"}, (), set()),
        ({"TOKEN": None}, (), set()),
        ({"TOKEN": "", "PGPASSWORD": "four"}, (), {"four"}),
    ],
)
def test_values_that_are_looked_for(
    variables: dict[str, str | None], declared: tuple[str, ...], values: set[str]
) -> None:
    assert secret_values(variables, declared) == values


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        repr(VALUE)[1:-1],
        json.dumps(VALUE)[1:-1],
        json.dumps({"token": VALUE}, ensure_ascii=False),
        shlex.quote(VALUE),
        VALUE.replace("'", "'\\''"),
        quote(VALUE),
        quote(VALUE, safe=""),
        quote_plus(VALUE),
        urlencode({"a": "b", "token": VALUE}),
        *(base64.b64encode(f"{user}:{VALUE}".encode()).decode() for user in ("", "a", "ab")),
        *(base64.urlsafe_b64encode(f"{VALUE}{end}".encode()).decode() for end in ("\n", "xy")),
    ],
)
def test_a_value_is_masked_in_every_usual_form(form: str) -> None:
    told = without_values(f"before {form} at last", frozenset({VALUE}))
    assert HIDDEN in told
    assert told.startswith("before ")
    assert told.endswith(" at last")
    assert not any(part in told for part in ("hun", "ter", base64.b64encode(b"ter+2").decode()))


SHOWN = "before\n{}\nat last"


@pytest.mark.parametrize("value", ["it's$ecret", 'pa$$w`or"d', "a\\b\\'c d", "#a b'", "tab\there"])
@pytest.mark.parametrize(
    "line",
    [
        "export -p | grep ^declare.*TOKEN=",
        "declare -p TOKEN",
        'printf "%q\\n" "$TOKEN"',
        'echo "${TOKEN@Q}"',
        "set | grep ^TOKEN=",
        'alias a="$TOKEN"; alias a',
        "LC_ALL=C; declare -p TOKEN",
        'set -x; : "$TOKEN" 2>&1',
    ],
)
def test_a_value_is_masked_as_bash_quotes_it(value: str, line: str) -> None:
    done = subprocess.run(
        ["bash", "-c", line],
        env={"TOKEN": value, "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    shown = done.stdout.strip().removeprefix("declare -x ")
    told = without_values(SHOWN.format(shown), frozenset({value}))
    assert told.removesuffix("\nat last").rstrip("'\"").endswith("***")
    assert len(told) < len(SHOWN) + 20
    # As what was read is shown again.
    assert "***" in without_values(json.dumps([shown]), frozenset({value}))


@pytest.mark.parametrize(
    "form",
    ["it\\'s\\$ecret", "'it'\"'\"'s$ecret'", "it\\'s$ecret", "'it''s$ecret'", 'it"\'"s\\$ecret'],
)
def test_a_value_is_masked_whatever_a_shell_sets_quotes_around(form: str) -> None:
    told = without_values(f"before {form} at last", frozenset({"it's$ecret"}))
    assert told in {"before *** at last", "before '***' at last"}


def test_what_is_no_form_of_a_value_stays() -> None:
    assert without_values('it is "its" own', frozenset({"it's"})) == 'it is "its" own'
    text = "say 'hunter' once\nmore"
    assert without_values(text, frozenset({"hunt'er", "hunter2"})) == text


LONG = "".join(f"{number:04}+/xyz" for number in range(40))


@pytest.mark.parametrize("width", [1, 20, 64, 76])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("before", ["", "a", "ab"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n    ", "\\n"])
def test_a_value_is_masked_where_its_base64_is_wrapped(
    width: int, end: str, before: str, newline: str
) -> None:
    coded = base64.b64encode(f"{before}{LONG}{end}".encode()).decode()
    lines = [coded[start : start + width] for start in range(0, len(coded), width)]
    told = without_values(f"of: {newline.join(lines)} at last", frozenset({LONG, "another one"}))
    assert told.startswith("of: ")
    assert told.endswith(" at last")
    assert "***" in told
    # What stands beside the value, and what is filled up at the end.
    assert len(told) < len("of: *** at last") + 8 + 2 * len(newline) * (1 + 8 // width)


@pytest.mark.parametrize("text", ["2", "2\n", "90\n", "012\n"])
def test_less_than_is_looked_for_is_no_rest_of_a_value(text: str) -> None:
    assert without_values(text, frozenset({"A6vxQjfEkqoM90012"}), is_cut=True) == text


def test_what_is_left_of_a_wrapped_value_where_a_log_is_cut_is_masked() -> None:
    coded = base64.encodebytes(LONG.encode()).decode()
    told = without_values(coded[50:] + "more", frozenset({LONG}), is_cut=True)
    assert told.startswith("***")
    assert len(told) < 20


def test_many_values_are_looked_for_at_once() -> None:
    values = frozenset(f"it's the ${number} of them" for number in range(1000))
    text = "".join(f'"some \\$ words" and {number}\n' for number in range(2000))
    assert without_values(text, values, is_cut=True) == text
    assert without_values(text + "it\\'s the \\$999 of them", values) == text + "***"


def test_of_a_value_of_several_lines_each_one_is_masked() -> None:
    key = "-----BEGIN KEY-----\nAAAA\n  bbbb\nc\n-----END KEY-----\n"
    told = without_values("x AAAA\n> bbbb <\nc\nand " + key, frozenset({key}))
    assert told == "x ***\n> *** <\nc\nand ***"


def test_of_two_values_the_longer_one_goes_first() -> None:
    assert without_values("hunter2 hunter22", frozenset({"hunter2", "hunter22"})) == "*** ***"


def test_bytes_that_are_no_text_are_masked_as_they_are_shown() -> None:
    value = b"hunter\xff2".decode("utf-8", "surrogateescape")
    shown = b"a hunter\xff2 b".decode("utf-8", "backslashreplace")
    assert without_values(shown, frozenset({value})) == "a *** b"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ter-2-is-long\nmore", "***\nmore"),
        ("long\nmore", "***\nmore"),
        ("ong\nmore", "ong\nmore"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_what_is_left_of_a_value_where_a_log_is_cut_is_masked(text: str, told: str) -> None:
    values = frozenset({"hunter-2-is-long"})
    assert without_values(text, values, is_cut=True) == told
    assert without_values(text, values) == text


@given(st.text(), st.text(min_size=4), st.text())
def test_no_value_is_left_in_any_text(before: str, value: str, after: str) -> None:
    assume(value.strip() not in HIDDEN and value not in before + HIDDEN + after)
    assume(len(value.strip()) >= 4)
    assert value not in without_values(before + value + after, frozenset({value}))


@given(st.text(), st.text(max_size=3))
def test_where_there_is_no_secret_a_text_is_as_it_was(text: str, short: str) -> None:
    assert without_values(text, secret_values({"LUMI": text, "TOKEN": short})) == text


def test_long_values_are_masked_at_once() -> None:
    value = "ab" * 2**19
    text = value[1:] + " and " + value
    assert without_values(text, frozenset({value}), is_cut=True).endswith("and ***")
