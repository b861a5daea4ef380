"""Kerberos tickets: where they are looked for, and what is known of them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.environments.credentials.made import HOUR_S, made_ticket, made_tickets

from fasthep_flow.environments.credentials import tickets
from fasthep_flow.environments.credentials.found import MalformedError
from fasthep_flow.environments.credentials.tickets import find_tickets, read_tickets
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

KERBEROS = Credential(kind="kerberos")
UID = os.getuid()


@pytest.fixture
def cache(tmp_path: Path, now_s: float) -> Path:
    path = tmp_path / "krb5cc_1000"
    made_tickets(path, now_s=now_s)
    return path


class TestRead:
    @pytest.mark.parametrize("version", [3, 4])
    def test_whose_they_are_and_until_when(
        self, tmp_path: Path, now_s: float, version: int
    ) -> None:
        """What counts is the one that others are got with, not theirs, nor settings."""
        made_tickets(tmp_path / "cc", now_s=now_s, renewable_s=100 * HOUR_S, version=version)
        found = read_tickets((tmp_path / "cc").read_bytes())
        assert found.principal == "marie@MADE.UP"
        assert found.ends_s == now_s + 10 * HOUR_S
        assert found.renewable_until_s == now_s + 100 * HOUR_S
        assert found.grants

    def test_the_last_of_several(self, tmp_path: Path, now_s: float) -> None:
        entries = tuple(
            made_ticket(("krbtgt", "MADE.UP"), now_s=now_s, lasts_s=lasts_s)
            for lasts_s in (60, 3600, 600)
        )
        made_tickets(tmp_path / "cc", now_s=now_s, entries=entries)
        assert read_tickets((tmp_path / "cc").read_bytes()).ends_s == now_s + 3600

    def test_for_one_service(self, tmp_path: Path, now_s: float) -> None:
        entries = (made_ticket(("afs", "made.up"), now_s=now_s, lasts_s=60),)
        made_tickets(tmp_path / "cc", now_s=now_s, entries=entries)
        found = read_tickets((tmp_path / "cc").read_bytes())
        assert not found.grants
        assert found.ends_s == now_s + 60

    @pytest.mark.skipif(shutil.which("klist") is None, reason="there is no klist")
    @pytest.mark.parametrize("version", [3, 4])
    def test_as_klist_does(self, tmp_path: Path, now_s: float, version: int) -> None:
        made_tickets(tmp_path / "cc", now_s=now_s, version=version)
        done = subprocess.run(
            ["klist", "-c", tmp_path / "cc"],
            capture_output=True,
            text=True,
            check=True,
            env={"LC_ALL": "C", "TZ": "UTC"},
        )
        found = read_tickets((tmp_path / "cc").read_bytes())
        assert f"Default principal: {found.principal}\n" in done.stdout
        (line,) = [line for line in done.stdout.splitlines() if "krbtgt" in line]
        assert time.strftime("%m/%d/%y %H:%M:%S", time.gmtime(found.ends_s)) in line

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "it is cut off"),
            (b"\x05", "it is cut off"),
            (b"hello", "it is no cache of Kerberos tickets"),
            (b"\x05\x02", "version 2 of the format is not known"),
            (b"\x05\x04\0\0\0\0\0\1\xff\xff\xff\xff", "it is cut off"),
            (b"\x05\x04\0\0" + b"\0" * 12, "there is no ticket in it"),
        ],
    )
    def test_what_is_none(self, content: bytes, words: str) -> None:
        with pytest.raises(MalformedError) as caught:
            read_tickets(content)
        assert str(caught.value) == words

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_anything_else_is_refused_in_our_words(self, cache: Path, data: st.DataObject) -> None:
        content = bytearray(cache.read_bytes())
        for _ in range(data.draw(st.integers(0, 8))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        del content[data.draw(st.integers(0, len(content))) :]
        for tried in (bytes(content), b"\x05\x04" + data.draw(st.binary(max_size=200))):
            try:
                found = read_tickets(tried)
            except MalformedError:
                continue
            assert found.principal.isprintable()


class TestFind:
    def test_by_the_variable(self, cache: Path, now_s: float) -> None:
        for said in (f"FILE:{cache}", str(cache)):
            found = find_tickets(KERBEROS, {"KRB5CCNAME": said}, contained=False, now_s=now_s)
            assert found.addition.variables == {"KRB5CCNAME": f"FILE:{cache}"}
            assert found.holder == "marie@MADE.UP"

    def test_at_the_usual_place(
        self, tmp_path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tickets, "_USUAL", f"FILE:{tmp_path}/krb5cc_{{}}")
        monkeypatch.setattr(tickets, "_SETTINGS", f"{tmp_path}/krb5.conf")
        made_tickets(tmp_path / f"krb5cc_{UID}", now_s=now_s)
        found = find_tickets(KERBEROS, {}, contained=False, now_s=now_s)
        assert found.name == f"the Kerberos ticket in {tmp_path}/krb5cc_{UID}"

    def test_where_the_settings_say(
        self, tmp_path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tickets, "_SETTINGS", f"{tmp_path}/krb5.conf")
        (tmp_path / "krb5.conf").write_text(
            "[logging]\n default_ccache_name = FILE:/no\n[libdefaults]\n default_realm = X\n"
            f" default_ccache_name = FILE:{tmp_path}/cc_%{{uid}}\n"
        )
        made_tickets(tmp_path / f"cc_{UID}", now_s=now_s)
        found = find_tickets(KERBEROS, {}, contained=False, now_s=now_s)
        assert found.addition.variables == {"KRB5CCNAME": f"FILE:{tmp_path}/cc_{UID}"}

    def test_where_settings_beside_them_say(
        self, tmp_path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As sssd has it on Enterprise Linux."""
        folder = tmp_path / "krb5.conf.d"
        folder.mkdir()
        (folder / "kcm_default_ccache").write_text(
            "[libdefaults]\n    default_ccache_name = KCM:\n"
        )
        (folder / "other~").write_text("[libdefaults]\n    default_ccache_name = FILE:/no\n")
        (tmp_path / "krb5.conf").write_text(f"includedir {folder}/\n[libdefaults]\n")
        variables = {"KRB5_CONFIG": f"{tmp_path}/krb5.conf", "PATH": "/nowhere"}
        monkeypatch.setattr(tickets, "_SETTINGS", "/nowhere")
        found = find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
        assert found.addition.variables == {"KRB5CCNAME": "KCM:"}
        assert (found.ends_s, found.why_unknown) == (None, "a cache of the kind KCM cannot be read")

    def test_what_is_no_file_is_not_for_containers(self, now_s: float) -> None:
        for said in ("KEYRING:persistent:1000", "KCM:", "API:y"):
            # Where there is no klist, nobody knows whether there are any.
            variables = {"KRB5CCNAME": said, "PATH": "/nowhere"}
            found = find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
            assert found.addition.variables == {"KRB5CCNAME": said}
            assert found.ends_s is None
            with pytest.raises(CredentialUnavailable) as caught:
                find_tickets(KERBEROS, variables, contained=True, now_s=now_s)
            assert said in caught.value.message
            assert caught.value.hint is not None
            assert "kinit -c FILE:" in caught.value.hint

    @pytest.mark.parametrize("contained", [False, True])
    def test_what_no_task_could_see_is_refused(self, now_s: float, contained: bool) -> None:
        with pytest.raises(CredentialUnavailable, match="only the program that got them") as caught:
            find_tickets(KERBEROS, {"KRB5CCNAME": "MEMORY:x"}, contained=contained, now_s=now_s)
        assert "kinit -c FILE:" in (caught.value.hint or "")
        with pytest.raises(CredentialUnavailable) as caught:
            find_tickets(KERBEROS, {"KRB5CCNAME": "FLIE:/a"}, contained=contained, now_s=now_s)
        assert caught.value.message == (
            "KRB5CCNAME names FLIE:/a, and there is no kind FLIE of caches of tickets"
        )
        assert "known are FILE, DIR, " in (caught.value.hint or "")

    @pytest.mark.parametrize("code", [0, 1, 64])
    def test_of_what_is_no_file_klist_tells(self, tmp_path: Path, now_s: float, code: int) -> None:
        """Its code is 1 where no ticket holds; any other failure is its own."""
        klist = tmp_path / "klist"
        klist.write_text(f'#!/bin/sh\necho "$*" >"{tmp_path}/asked"\nexit {code}\n')
        klist.chmod(0o755)
        variables = {"KRB5CCNAME": "KCM:1000", "PATH": f"{tmp_path}:/usr/bin:/bin"}
        if code == 1:
            with pytest.raises(CredentialUnavailable, match="no Kerberos ticket in KCM:1000"):
                find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
        else:
            found = find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
            assert found.addition.variables == {"KRB5CCNAME": "KCM:1000"}
        assert (tmp_path / "asked").read_text() == "-s -c KCM:1000\n"

    def test_in_a_container(self, cache: Path, now_s: float) -> None:
        found = find_tickets(KERBEROS, {"KRB5CCNAME": str(cache)}, contained=True, now_s=now_s)
        (mount,) = found.addition.mounts
        assert (mount.source, mount.read_only) == (str(cache), True)
        assert found.addition.variables == {"KRB5CCNAME": f"FILE:{mount.target}"}

    def test_several_in_a_folder(self, tmp_path: Path, now_s: float) -> None:
        folder = tmp_path / "krb5"
        folder.mkdir()
        (folder / "primary").write_text("tktabc\n")
        made_tickets(folder / "tktabc", now_s=now_s)
        made_tickets(folder / "tkt", now_s=now_s, lasts_s=60)
        variables = {"KRB5CCNAME": f"DIR:{folder}"}
        found = find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
        assert found.ends_s == now_s + 10 * HOUR_S
        assert found.addition.variables == variables
        inside = find_tickets(KERBEROS, variables, contained=True, now_s=now_s).addition
        (mount,) = inside.mounts
        assert mount.source == str(folder)
        assert inside.variables == {"KRB5CCNAME": f"DIR:{mount.target}"}
        # One that would lead out of the folder is not followed, as the library has it.
        (folder / "primary").write_text("../../other\n")
        found = find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
        assert found.ends_s == now_s + 60
        one = {"KRB5CCNAME": f"DIR::{folder}/tktabc"}
        found = find_tickets(KERBEROS, one, contained=False, now_s=now_s)
        assert found.addition.variables == one
        inside = find_tickets(KERBEROS, one, contained=True, now_s=now_s).addition
        assert [mount.source for mount in inside.mounts] == [f"{folder}/tktabc"]
        assert (inside.variables["KRB5CCNAME"] or "").startswith("FILE:/fasthep/")

    def test_one_that_can_be_renewed(self, tmp_path: Path, now_s: float) -> None:
        made_tickets(tmp_path / "cc", now_s=now_s, renewable_s=100 * HOUR_S)
        credential = Credential(kind="kerberos", file=f"{tmp_path}/cc")
        found = find_tickets(credential, {}, contained=False, now_s=now_s)
        assert found.renewal == (
            f"kinit -R -c FILE:{tmp_path}/cc, for 4 d 4 h at most, or kinit -c FILE:{tmp_path}/cc"
        )
        ended = find_tickets(credential, {}, contained=False, now_s=now_s + 11 * HOUR_S)
        assert ended.renewal == f"kinit -c FILE:{tmp_path}/cc"

    def test_what_is_not_there_or_none(self, tmp_path: Path, now_s: float) -> None:
        variables = {"KRB5CCNAME": f"FILE:{tmp_path}/cc"}
        with pytest.raises(CredentialUnavailable) as caught:
            find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
        assert caught.value.message == f"the Kerberos ticket in {tmp_path}/cc is not there"
        assert caught.value.hint == "get one: kinit"
        (tmp_path / "cc").write_text("no ticket")
        with pytest.raises(CredentialUnavailable, match="no cache of Kerberos tickets"):
            find_tickets(KERBEROS, variables, contained=False, now_s=now_s)
