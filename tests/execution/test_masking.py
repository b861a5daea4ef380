"""What is said of a job does not hold the values of its secrets; its own logs do."""

import base64
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.execution.conftest import Bench

from fasthep_flow.model import JobResult, to_json

VALUE = "hun+ter2/XYZ"
TOKEN = {"TOKEN": VALUE}
FORMS = [
    'printf %s "$TOKEN"',
    'printf "Bearer %s and more\\n" "$TOKEN" >&2',
    'printf ":%s" "$TOKEN" | base64',
    f"echo '{quote(VALUE, safe='')}'",
]


def _holds(result: JobResult) -> bool:
    coded = base64.b64encode(VALUE.encode()).decode()
    text = to_json(result)
    return any(form in text for form in (VALUE, coded, coded[2:-2], quote(VALUE, safe="")))


@pytest.mark.parametrize("line", FORMS)
def test_ends_of_logs_are_masked_and_the_logs_are_not(bench: Bench, line: str) -> None:
    result = bench.sh(line, variables=TOKEN)
    assert result.status == "succeeded"
    assert "***" in result.stdout_tail + result.stderr_tail
    assert not _holds(result)
    logs = (bench.attempt() / "stdout.log", bench.attempt() / "stderr.log")
    assert all(b"***" not in log.read_bytes() for log in logs)


def test_what_the_author_calls_a_secret_is_one(bench: Bench) -> None:
    line = 'echo "$LUMI" "$OTHER"'
    variables = {"LUMI": VALUE, "OTHER": "4.9 fb"}
    assert bench.sh(line, variables=variables).stdout_tail == f"{VALUE} 4.9 fb\n"
    result = bench.sh(line, variables=variables, secrets=("LUMI",), slug="again")
    assert result.stdout_tail == "*** 4.9 fb\n"


def test_secrets_that_a_task_inherits_are_masked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", VALUE)
    assert bench.sh('echo "$GITLAB_TOKEN"').stdout_tail == "***\n"
    own = bench.sh('echo "$GITLAB_TOKEN"', variables={"GITLAB_TOKEN": "another"}, slug="own")
    assert own.stdout_tail == "***\n"


@pytest.mark.parametrize("end", ["2", "12", "90012", "2 and more"])
def test_what_a_secret_ends_with_is_no_secret_where_nothing_is_cut(bench: Bench, end: str) -> None:
    variables = {"API_TOKEN": "A6vxQjfEkqoM90012"}
    result = bench.sh(f"echo '{end}'; echo '{end}' >&2", variables=variables)
    assert (result.stdout_tail, result.stderr_tail) == (f"{end}\n", f"{end}\n")


def test_where_a_log_is_cut_within_a_value_the_rest_of_it_is_masked(bench: Bench) -> None:
    # 64 KiB are shown: of the value's first line all but three characters.
    line = 'printf %s "$TOKEN"; head -c 65527 /dev/zero | tr "\\0" x'
    result = bench.sh(line, variables=TOKEN)
    assert result.stdout_tail.startswith("***xxx")
    assert "ter2" not in result.stdout_tail


def _module(bench: Bench, text: str) -> None:
    Path(bench.directory, "mine.py").write_text(f"import os\n\n\n{text}")


def test_an_exception_and_its_traceback_are_masked(bench: Bench) -> None:
    _module(bench, "def fit():\n    raise ValueError(repr(os.environ['TOKEN']) + ' is wrong')\n")
    result = bench.call("mine:fit", variables=TOKEN)
    assert result.failure is not None
    assert result.failure.message == "ValueError: '***' is wrong"
    assert result.failure.traceback is not None
    assert "ValueError: '***' is wrong" in result.failure.traceback
    assert not _holds(result)


def test_the_reason_why_a_value_cannot_be_returned_is_masked(bench: Bench) -> None:
    _module(bench, "def fit():\n    return {os.environ['TOKEN']: object()}\n")
    result = bench.call("mine:fit", variables=TOKEN)
    assert result.failure is not None
    assert result.failure.message.startswith("the returned value['***'] is of type object")
    assert not _holds(result)


def test_a_returned_value_is_masked_and_that_is_told(bench: Bench) -> None:
    _module(
        bench,
        "def fit():\n    token = os.environ['TOKEN']\n"
        "    return {'n': 1, 'of ' + token: ['a', {'url': 'https://h?t=' + token}]}\n",
    )
    result = bench.call("mine:fit", variables=TOKEN)
    assert result.value == {"n": 1, "of ***": ["a", {"url": "https://h?t=***"}]}
    assert result.remarks == (
        "what it returned holds the value of a secret: it is recorded as ***",
    )
    _module(bench, "def fit():\n    return {'n': 1}\n")
    other = bench.call("mine:fit", variables=TOKEN, slug="other")
    assert (other.value, other.remarks) == ({"n": 1}, ())


def test_of_a_returned_mapping_no_item_is_lost_where_its_keys_are_masked(bench: Bench) -> None:
    _module(
        bench,
        "def fit():\n    names = ('TOKEN', 'A_TOKEN', 'B_TOKEN')\n"
        "    return {**{os.environ[name]: name for name in names},\n"
        "        '*** (2)': 'own', 'in': [{'x' + os.environ['A_TOKEN']: 1, 'x***': 2}]}\n",
    )
    tokens = {**TOKEN, "A_TOKEN": "first-secret", "B_TOKEN": "second-secret"}
    result = bench.call("mine:fit", variables=tokens)
    assert result.value == {
        "***": "TOKEN",
        "*** (3)": "A_TOKEN",
        "*** (4)": "B_TOKEN",
        "*** (2)": "own",
        "in": [{"x*** (2)": 1, "x***": 2}],
    }
    (remark,) = result.remarks
    assert remark.endswith("it is recorded as ***, and keys that are the same then have numbers")


def test_the_message_of_what_could_not_begin_is_masked(bench: Bench) -> None:
    result = bench.sh("true", variables=TOKEN, inputs=(f"{bench.directory}/{VALUE}",))
    assert result.failure is not None
    assert result.failure.kind == "input"
    assert not _holds(result)
