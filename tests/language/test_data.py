"""Extra data as authors name it: sources, targets, digests."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.language.made import TASK, Bench

from fasthep_flow.language.data import DIGESTS, parse_digest, parse_target
from fasthep_flow.language.refusals import Refusal
from fasthep_flow.language.sources import is_glob, is_url, name_of, parse_source
from fasthep_flow.model import DataItem

FOLDER = Path("/data/analysis")
SHA256 = "0123456789abcdef" * 4


def items(bench: Bench, own: str, general: str = "") -> tuple[DataItem, ...]:
    text = f"global: {{{general}}}\n{TASK}    environment: {{{own}}}\n"
    (task,) = bench.plan(text).tasks
    read: tuple[DataItem, ...] = task.environment.extra_data
    return read


def refusals(bench: Bench, own: str) -> list[str]:
    return [
        f"{problem.location.column - 19} "
        f"{problem.location.path.removeprefix('tasks[0].environment.')}: "
        f"{problem.message} | {problem.hint}"
        for problem in bench.refuse(f"{TASK}    environment: {{{own}}}\n").problems
    ]


def refusal(parse: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as caught:
        parse(*arguments)
    return f"{caught.value.message} | {caught.value.hint}"


class TestSource:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("data/pileup.root", "/data/analysis/data/pileup.root"),
            ("./pileup.root", "/data/analysis/pileup.root"),
            ("../common/pileup.root", "/data/analysis/../common/pileup.root"),
            ("/eos/pileup.root", "/eos/pileup.root"),
            ("folder/", "/data/analysis/folder/"),
            ("a:b.root", "/data/analysis/a:b.root"),
            ("x=1.root", "/data/analysis/x=1.root"),
            ("data/*.root", "/data/analysis/data/*.root"),
            ("data/run?[0-9].root", "/data/analysis/data/run?[0-9].root"),
            ("file:///abs/a%20b.root", "/abs/a b.root"),
            ("file://localhost/abs/a.root", "/abs/a.root"),
            ("https://host/x.root", "https://host/x.root"),
            ("HTTP://host:8080/x.root?v=1", "http://host:8080/x.root?v=1"),
            ("s3://bucket/key", "s3://bucket/key"),
            ("s3://bucket/data/*.root", "s3://bucket/data/*.root"),
            ("s3://bucket/folder/", "s3://bucket/folder/"),
            ("root://host:1094//eos/x.root", "root://host:1094//eos/x.root"),
            ("root://ada@host//eos/x.root", "root://ada@host//eos/x.root"),
            ("xroot://host//eos/x.root", "root://host//eos/x.root"),
            ("xroots://host//eos/x.root", "roots://host//eos/x.root"),
            ("root://host//eos/*.root", "root://host//eos/*.root"),
            ("https://[::1]:8080/x.root", "https://[::1]:8080/x.root"),
            ("  https://host/x.root ", "https://host/x.root"),
        ],
    )
    def test_in_full(self, written: str, meant: str) -> None:
        assert parse_source(written, FOLDER) == (meant, ())

    def test_home_is_the_users(self) -> None:
        assert parse_source("~/x.root", FOLDER)[0] == f"{Path.home()}/x.root"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "this is empty, and no path or URL"),
            ("<path to file>", "'<path to file>' is a placeholder | write your own path or URL"),
            ("a\nb", "'a\\nb' holds control characters"),
            ("a\0b", "holds control characters"),
            ("/", "'/' is all of this machine | name a folder, or a file"),
            ("$DATA/x.root", "no shell reads this | write the path itself"),
            ("~nobody-here/x.root", "there is no such home | write the whole path"),
            ("https:/host/x", "is no URL | write '//' behind the ':' of 'https'"),
            ("root:host//x", "is no URL | write '//' behind the ':' of 'root'"),
            ("file://host/x", "is no address of a file | write the path alone, or three slashes"),
            ("https://", "names no host"),
            ("https://host", "'https://host' names no file | write the file's path behind it"),
            ("https://host/", "names no file"),
            ("https://host:port/x", "'https://host:port/x' is no URL"),
            ("https://[::1/x", "is no URL"),
            ("s3://", "names no bucket"),
            ("s3://bucket", "names no object | write the object's path behind it"),
            ("root://host//", "names no file"),
            ("https://host/a b", "holds a blank | write %20 for it"),
            ("https://host/*.root", "holds a '*', and no web server lists its files | name each"),
            ("https://host/folder/", "is a folder, and no web server lists its files"),
            ("davs://host/x", "nothing to read davs:// with | WebDAV is read as https: write htt"),
            ("srm://host/x", "nothing to read srm:// with | write root://HOST//store/..."),
            ("gsiftp://host/x", "nothing to read gsiftp:// with | write root://HOST//... or "),
            ("ftp://host/x", "nothing to read ftp:// with | fetch it first, and name the file"),
            ("rooot://host//x", "nothing to read rooot:// with | did you mean 'root'?"),
            ("scp://host/x", "nothing to read scp:// with | "),
        ],
    )
    def test_refused(self, text: str, expected: str) -> None:
        assert expected in refusal(parse_source, text, FOLDER)

    @pytest.mark.skipif(Path("/store").is_dir(), reason="here it is a folder")
    def test_a_logical_file_name_says_not_where_the_file_is(self) -> None:
        said = refusal(parse_source, "/store/data/x.root", FOLDER)
        assert "is a logical file name" in said
        assert "write 'root://REDIRECTOR//store/data/x.root'" in said

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://ada:hunter2@host/x.root", "holds a password | remove it: ~/.netrc"),
            ("http://ada:hunter2@host/x.root?a=1", "holds a password | remove it: ~/.netrc"),
            ("s3://key:hunter2@bucket/x.root", "holds a password | remove it: AWS_PROFILE"),
            ("root://ada:hunter2@host//x.root", "holds a password | remove it: X509_USER_PROXY"),
            ("xroot://ada:hunter2@host//x", "holds a password | remove it: X509_USER_PROXY"),
            ("root://host//x.root?authz=hunter2", "holds a token or a signature | remove it: X509"),
            ("https://host/x.root?a=1&token=hunter2", "a token or a signature | remove it if the"),
            ("https://host/x?access_token=hunter2#a", "a token or a signature | remove it if the"),
            ("https://host/x.root?X-Amz-Signature=hunter2", "a token or a signature | remove it"),
        ],
    )
    def test_a_credential_in_a_url_is_refused(self, bench: Bench, text: str, expected: str) -> None:
        said = str(bench.refuse(f'{TASK}    environment:\n      extra_data: ["{text}"]\n'))
        what, hint = expected.split(" | ")
        assert f"{what}, which would stand in the records\n" in said
        assert hint in said
        assert "tasks[0].environment.extra_data[0]" in said
        assert "hunter2" not in said

    @pytest.mark.parametrize(
        "text",
        [
            "root://ada@host//x.root",
            "https://host/x.root?pass=2",
            "https://host:8443/x@y.root?run=1;version=2",
        ],
    )
    def test_what_is_no_credential_is_taken(self, text: str) -> None:
        assert parse_source(text, FOLDER) == (text, ())

    @pytest.mark.parametrize(
        "text",
        [
            "https://ada:hunter2@host/*",
            "https://ada:hunter2@host/a b",
            "https://ada:hunter2@host",
            "https://ada:hun/ter2@host/x",
            "sftp://ada:hunter2@host/x",
        ],
    )
    def test_nor_is_it_repeated_where_the_url_is_refused(self, bench: Bench, text: str) -> None:
        said = str(bench.refuse(f'{TASK}    environment:\n      extra_data: ["{text}"]\n'))
        assert "hunter2" not in said
        assert "ter2" not in said

    def test_one_slash_behind_the_host_is_told(self) -> None:
        _, ((message, hint),) = parse_source("root://host/eos/x.root", FOLDER)
        assert "with one slash behind the host" in message
        assert hint == "write 'root://host//eos/x.root'"

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("/data/*.root", True),
            ("/data/run?.root", True),
            ("/data/run[0-9].root", True),
            ("/data/run[0.root", False),
            ("/data/run.root", False),
            ("s3://b/*.root", True),
            ("s3://b/run?.root", True),
            ("root://h//eos/x[12].root", True),
            ("root://h//eos/x.root?xrd.wantprot=krb5", False),
            ("https://h/x[1].root?a=*", False),
        ],
    )
    def test_which_may_be_several_files(self, source: str, *, expected: bool) -> None:
        assert is_glob(source) is expected

    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("/data/x.root", "x.root"),
            ("/data/folder/", "folder"),
            ("https://h/a/x%20y.root?v=1", "x y.root"),
            ("s3://b/folder/", "folder"),
            ("s3://b/a?b#c%20d", "a?b#c d"),
            ("root://h//eos/x.root?authz=a/b", "x.root"),
            ("https://h/a%2Fb", ""),
            ("https://h/a/..", ""),
            ("https://h/a/%2e%2e", ""),
        ],
    )
    def test_its_name(self, source: str, name: str) -> None:
        assert name_of(source) == name

    @given(st.text(max_size=30) | st.text(alphabet="/.*?[]:@ahs3", max_size=20))
    def test_any_text_is_a_source_or_refused(self, text: str) -> None:
        try:
            source, _ = parse_source(text, FOLDER)
        except Refusal:
            return
        assert is_url(source) or source.startswith("/")
        assert parse_source(source, FOLDER)[0] == source


class TestTarget:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("x.root", "x.root"),
            ("in/x.root", "in/x.root"),
            ("./in//x.root", "in/x.root"),
            ("in/../x.root", "x.root"),
            ("in/", "in/"),
            ("in/.", "in/"),
            ("/opt/calib/x.root", "/opt/calib/x.root"),
            ("/opt/calib/", "/opt/calib/"),
            ("//opt/../x", "/x"),
            ("a b,c:d", "a b,c:d"),
        ],
    )
    def test_in_full(self, written: str, meant: str) -> None:
        assert parse_target(written) == meant

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "this is no name | leave 'target' out for the data's own name"),
            ("  ", "this is no name"),
            ("a\0b", "holds control characters"),
            ("a\nb", "holds control characters"),
            ("..", "'..' leaves the data folder | write a path below it, or a whole one"),
            ("../x", "leaves the data folder"),
            ("a/../../x", "leaves the data folder"),
            (".", "'.' is the data folder itself | leave 'target' out"),
            ("./", "is the data folder itself"),
            ("a/..", "is the data folder itself"),
            ("/", "'/' is the root of everything"),
            ("//", "'/' is the root of everything"),
            ("~/x", "no shell reads this, and a container may have another home"),
            ("$HOME/x", "no shell reads this"),
            ("https://host/x", "is an address, not a path"),
        ],
    )
    def test_refused(self, text: str, expected: str) -> None:
        assert expected in refusal(parse_target, text)

    @given(st.text(max_size=30) | st.text(alphabet="/.a", max_size=12))
    def test_nothing_leaves_the_folder(self, text: str) -> None:
        try:
            target = parse_target(text)
        except Refusal:
            return
        assert target.isprintable()
        where = posixpath.normpath(posixpath.join("/data/folder", target))
        assert target.startswith("/") or where.startswith("/data/folder/")
        assert where != "/"
        assert parse_target(target) == target


class TestDigest:
    @pytest.mark.parametrize("kind", DIGESTS)
    def test_in_full(self, kind: str) -> None:
        digits = "aB3F" * (DIGESTS[kind] // 4)
        assert parse_digest(f"{kind.upper()}:{digits}") == f"{kind}:{digits.lower()}"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (SHA256, f"does not say of which kind it is | did you mean 'sha256:{SHA256}'?"),
            ("0a1b2c3d", "did you mean 'adler32:0a1b2c3d'?"),
            ("latest", "'latest' is no digest | such as sha256: and 64 digits"),
            ("sha256:abc", "sha256: and 64 digits of 0-9 and a-f; here are 3 characters"),
            (f"sha256:{SHA256[:-1]}g", "is no digest"),
            (f"sha265:{SHA256}", "there is no kind of digest 'sha265' | did you mean 'sha256'?"),
            (f"blake:{SHA256}", "there is no kind of digest 'blake' | known are sha256, sha512"),
            (":", "there is no kind of digest ''"),
        ],
    )
    def test_refused(self, text: str, expected: str) -> None:
        assert expected in refusal(parse_digest, text)

    @pytest.mark.parametrize("kind", ["adler32", "crc32"])
    def test_leading_zeros_may_be_left_out(self, kind: str) -> None:
        assert parse_digest(f"{kind}:1a2b3c") == f"{kind}:001a2b3c"
        assert "8 digits" in refusal(parse_digest, f"{kind}:")
        assert "here are 9 characters" in refusal(parse_digest, f"{kind}:012345678")

    def test_a_hyphen_is_no_other_kind(self) -> None:
        assert parse_digest(f"SHA-256:{SHA256}") == f"sha256:{SHA256}"

    @given(st.text(max_size=20), st.sampled_from([*DIGESTS, "", "sha3"]))
    def test_any_text_is_a_digest_or_refused(self, text: str, kind: str) -> None:
        try:
            digest = parse_digest(f"{kind}:{text}")
        except Refusal:
            return
        kind, _, digits = digest.partition(":")
        assert DIGESTS[kind] == len(digits)
        assert parse_digest(digest) == digest


class TestItems:
    def test_text_alone(self, bench: Bench) -> None:
        where = f"{bench.folder.resolve()}/pileup.root"
        assert items(bench, "extra_data: pileup.root") == (DataItem(source=where),)

    def test_the_long_form_alone(self, bench: Bench) -> None:
        own = (
            "extra_data: {source: 's3://bucket/key', target: inputs/x.root, "
            f"digest: 'SHA256:{SHA256.upper()}', mode: copy}}"
        )
        assert items(bench, own) == (
            DataItem(
                source="s3://bucket/key",
                target="inputs/x.root",
                digest=f"sha256:{SHA256}",
                mode="copy",
            ),
        )

    def test_a_list_of_either(self, bench: Bench) -> None:
        own = "extra_data: ['https://host/x.root', {source: 'https://host/y.root', mode: ro}]"
        assert items(bench, own) == (
            DataItem(source="https://host/x.root"),
            DataItem(source="https://host/y.root"),
        )

    @pytest.mark.parametrize(
        ("own", "names"),
        [
            ("", ["a", "b"]),
            ("variables: {A: 1}", ["a", "b"]),
            ("extra_data: ['https://h/c']", ["c"]),
            ("extra_data: []", []),
            ("extra_data: null", []),
        ],
    )
    def test_a_task_replaces_the_global_ones(
        self, bench: Bench, own: str, names: list[str]
    ) -> None:
        general = "extra_data: ['https://h/a', 'https://h/b']"
        assert [name_of(item.source) for item in items(bench, own, general)] == names

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            (
                "extra_data: TBC",
                "12 extra_data: 'TBC' is a placeholder | remove 'extra_data': it is not needed",
            ),
            ("extra_data: [TBC]", "13 extra_data[0]: 'TBC' is a placeholder | remove 'extra_data'"),
            ("extra_data: <path>", "12 extra_data: '<path>' is a placeholder | write your own pat"),
            ("extra_data: 3", "12 extra_data: must be text, a mapping, or a list of these, not a"),
            ("extra_data: [[a]]", "13 extra_data[0]: must be text or a mapping, not a list"),
            ("extra_data: {}", "12 extra_data: this names no data | add 'source: PATH or URL'"),
            ("extra_data: ['']", "13 extra_data[0]: this names no data"),
            ("extra_data: {target: a}", "this names no data | add 'source: PATH or URL'"),
            (
                "extra_data: {source: a, targt: b}",
                "24 extra_data.targt: there is no key 'targt' here | did you mean 'target'?",
            ),
            (
                "extra_data: [{source: a, mode: rw}]",
                "31 extra_data[0].mode: 'rw' is not a way to hand data over | ",
            ),
            ("extra_data: {source: a, target: ../b}", "32 extra_data.target: '../b' leaves the "),
            ("extra_data: {source: a, target: ''}", "32 extra_data.target: this is no name"),
            ("extra_data: {source: a, digest: abc}", "32 extra_data.digest: 'abc' is no digest"),
            ("extra_data: {source: a, digest: 12}", "extra_data.digest: must be text, not a num"),
            ("extra_data: {source: 'ftp://h/x'}", "21 extra_data.source: there is nothing to"),
            ("extra_data: 'https://h/..'", "this source has no name of its own to be seen by"),
            (
                "extra_data: ['https://h/x', 'https://i/x']",
                "the task would see this as 'x', and so it would another item (line 5)",
            ),
            (
                "extra_data: [{source: a, target: x/}, {source: 'https://h/a', target: x/a}]",
                (
                    "the task would see this as 'x/a', and so it would another item (line 5) | "
                    "give it a 'target' of its own, or remove one of them"
                ),
            ),
            (
                "extra_data: [{source: a, mode: copy}, {source: b/a, mode: copy}]",
                "the task would see this as 'a', and so it would another item (line 5)",
            ),
            ("extra_data: [a, ./a]", "/a', and so it would another item (line 5)"),
        ],
    )
    def test_refused(self, bench: Bench, own: str, expected: str) -> None:
        (problem,) = refusals(bench, own)
        assert expected in problem

    def test_all_that_is_wrong_is_told_at_once(self, bench: Bench) -> None:
        own = "extra_data: [{source: 'ftp://h/x', target: .., digest: abc}, '<x>']"
        assert [problem.partition(":")[0] for problem in refusals(bench, own)] == [
            "22 extra_data[0].source",
            "43 extra_data[0].target",
            "55 extra_data[0].digest",
            "61 extra_data[1]",
        ]

    def test_a_file_that_is_not_there_is_told_once(self, bench: Bench) -> None:
        bench.write("there.root", "")
        own = "{extra_data: [there.root, no-such.root, 'no-such-*.root', /cvmfs/no/such]}"
        other = TASK.replace("tasks:\n", "").replace("name: fit", "name: plot")
        plan = bench.plan(f"{TASK}    environment: {own}\n{other}    environment: {own}\n")
        (warning,) = plan.warnings
        assert "extra_data[1]: there is no such file or folder on this machine" in warning
        assert f"it was looked for as {bench.folder.resolve()}/no-such.root" in warning

    def test_a_digest_of_digits_alone_stays_as_it_is_written(self, bench: Bench) -> None:
        (item,) = items(bench, "extra_data: {source: 'https://h/x', digest: adler32:00120034}")
        assert item.digest == "adler32:00120034"


def test_all_that_is_wrong_in_lists_of_several_is_told_at_once(bench: Bench) -> None:
    said = str(
        bench.refuse(
            """\
global:
  extra_data: {sorce: x}
tasks:
  - name: a
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "true"}
    environment:
      extra_data:
        - {source: a.root, tagret: b}
        - "ftp://x/y"
        - 7
        - {source: b.root, mode: rw}
        - {source: b.root, digest: abc}
      credentials: [{kind: x509, fiel: a}, foo]
      setup: [{script: a.sh, argumets: [1]}, ""]
"""
        )
    )
    told = [line.split(": ")[1] for line in said.splitlines() if line.startswith("workflow.yaml")]
    here = "tasks[0].environment"
    assert told == [
        "global.extra_data.sorce",
        f"{here}.extra_data[0].tagret",
        f"{here}.extra_data[1]",
        f"{here}.extra_data[2]",
        f"{here}.extra_data[3].mode",
        f"{here}.extra_data[4].digest",
        f"{here}.credentials[0].fiel",
        f"{here}.credentials[1]",
        f"{here}.setup[0].argumets",
        f"{here}.setup[1]",
    ]
