"""What shows credentials to a task, and what is said of them before."""

import time
from pathlib import Path

import pytest
from tests.environments.credentials.made import HOUR_S, made_proxy, made_tickets, made_token

from fasthep_flow.environments.credentials import present
from fasthep_flow.environments.credentials.found import time_text
from fasthep_flow.environments.preflight.credentials import check_credentials
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

X509 = Credential(kind="x509")


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time stands still."""
    now_s = float(int(time.time()))
    monkeypatch.setattr("time.time", lambda: now_s)
    return now_s


class Desk:
    """A credential of each kind."""

    def __init__(self, folder: Path, now_s: float) -> None:
        self.key = made_proxy(folder / "proxy", now_s=now_s, lasts_s=2 * HOUR_S + 600)
        made_tickets(folder / "tickets", now_s=now_s)
        self.token = made_token({"iss": "https://made.up", "exp": now_s + 40 * HOUR_S})
        (folder / "account").write_text("hunter2")
        self.folder = folder
        self.variables = {
            "X509_USER_PROXY": f"{folder}/proxy",
            "KRB5CCNAME": f"FILE:{folder}/tickets",
            "BEARER_TOKEN": self.token,
        }
        self.all = (
            X509,
            Credential(kind="kerberos"),
            Credential(kind="bearer"),
            Credential(kind="file", file=f"{folder}/account", variable="ACCOUNT"),
        )


@pytest.fixture
def desk(tmp_path: Path, now_s: float) -> Desk:
    return Desk(tmp_path, now_s)


class TestPresent:
    def test_nothing_for_nothing(self) -> None:
        shown = present((), contained=True, lasting_s=None, variables={})
        assert (shown.mounts, shown.variables, shown.facts) == ((), {}, {})

    def test_all_kinds_where_they_are(self, desk: Desk) -> None:
        shown = present(desk.all, contained=False, lasting_s=None, variables=desk.variables)
        assert shown.mounts == ()
        assert shown.variables == {**desk.variables, "ACCOUNT": f"{desk.folder}/account"}

    def test_all_kinds_in_a_container(self, desk: Desk) -> None:
        shown = present(desk.all, contained=True, lasting_s=None, variables=desk.variables)
        assert {mount.source for mount in shown.mounts} >= {
            f"{desk.folder}/{name}" for name in ("proxy", "tickets", "account")
        }
        assert all(mount.read_only for mount in shown.mounts)
        targets = [mount.target for mount in shown.mounts]
        assert len(set(targets)) == len(targets)
        assert shown.variables["BEARER_TOKEN"] == desk.token
        assert shown.variables["ACCOUNT"] in targets

    def test_the_facts_hold_no_secret(self, desk: Desk) -> None:
        facts = present(desk.all, contained=True, lasting_s=None, variables=desk.variables).facts
        assert facts.keys() == {"x509", "kerberos", "bearer", "file"}
        assert facts["x509"].startswith("until 20")
        assert desk.token not in str(facts)
        assert "hunter2" not in str(facts)

    def test_one_that_has_ended(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        later_s = time.time() + 5 * HOUR_S
        monkeypatch.setattr("time.time", lambda: later_s)
        with pytest.raises(CredentialUnavailable) as caught:
            present((X509,), contained=False, lasting_s=None, variables=desk.variables)
        assert caught.value.message == f"the x509 proxy {desk.folder}/proxy ended 2 h 50 min ago"
        assert caught.value.hint == "renew it: voms-proxy-init -valid 12:00"

    def test_one_that_ends_too_early(self, desk: Desk) -> None:
        with pytest.raises(CredentialUnavailable) as caught:
            present((X509,), contained=False, lasting_s=8 * HOUR_S, variables=desk.variables)
        assert caught.value.message == (
            f"the x509 proxy {desk.folder}/proxy ends in 2 h 10 min, and the task may take 8 h"
        )
        assert caught.value.hint == (
            "renew it (voms-proxy-init -valid 12:00), or give the task less time "
            "(timeout, walltime)"
        )
        present((X509,), contained=False, lasting_s=2 * HOUR_S, variables=desk.variables)

    def test_two_by_one_name(self, desk: Desk) -> None:
        account = Credential(kind="file", file=f"{desk.folder}/account", variable="ACCOUNT")
        for contained in (True, False):
            with pytest.raises(CredentialUnavailable, match="named by the variable ACCOUNT"):
                present((account, account), contained=contained, lasting_s=None, variables={})

    def test_a_file_that_its_variable_names_already(self, desk: Desk) -> None:
        account = Credential(kind="file", variable="ACCOUNT")
        variables = {"ACCOUNT": f"{desk.folder}/account"}
        shown = present((account,), contained=True, lasting_s=None, variables=variables)
        assert shown.mounts[0].source == f"{desk.folder}/account"
        with pytest.raises(CredentialUnavailable, match="the variable is not set"):
            present((account,), contained=True, lasting_s=None, variables={})

    def test_a_file_that_may_not_be_read_is_refused(self, desk: Desk) -> None:
        lost = Credential(kind="file", file=f"{desk.folder}/none", variable="ACCOUNT")
        with pytest.raises(CredentialUnavailable, match=r"/none is not there"):
            present((lost,), contained=True, lasting_s=None, variables={})
        (desk.folder / "none").touch()
        with pytest.raises(CredentialUnavailable, match=r"/none is empty"):
            present((lost,), contained=True, lasting_s=None, variables={})


class TestCheck:
    def test_a_row_for_each(self, desk: Desk) -> None:
        checks = check_credentials(
            desk.all, contained=True, lasting_s=HOUR_S, variables=desk.variables
        )
        assert [(check.what, check.verdict) for check in checks] == [
            ("x509", "ok"), ("kerberos", "ok"), ("bearer", "ok"), ("file", "note"),
        ]  # fmt: skip
        proxy, tickets, token, account = (check.detail for check in checks)
        assert proxy == (
            f"x509 proxy {desk.folder}/proxy of /DC=ch/O=Made Up/CN=Marie Curie "
            "lasts another 2 h 10 min"
        )
        assert tickets == (
            f"Kerberos ticket in {desk.folder}/tickets of marie@MADE.UP lasts another 10 h"
        )
        assert token == "bearer token in BEARER_TOKEN of https://made.up lasts another 40 h"  # noqa: S105
        assert account == (
            f"credential {desk.folder}/account: until when it lasts is not known "
            "(it may hold anything)"
        )

    def test_what_is_refused_is_told_for_each(self, desk: Desk) -> None:
        checks = check_credentials(
            desk.all, contained=True, lasting_s=20 * HOUR_S, variables=desk.variables
        )
        assert [check.verdict for check in checks] == ["refused", "refused", "ok", "note"]
        assert checks[0].error == "CredentialUnavailable"
        assert checks[0].hint is not None

    def test_what_is_wrong_with_none_of_them_alone(self, desk: Desk) -> None:
        account = Credential(kind="file", file=f"{desk.folder}/account", variable="ACCOUNT")
        checks = check_credentials(
            (account, account), contained=False, lasting_s=None, variables={}
        )
        assert [check.verdict for check in checks] == ["note", "note", "refused"]

    def test_odd_attributes_are_noted(self, tmp_path: Path, now_s: float) -> None:
        odd = {"extn_id": "1.3.6.1.4.1.8005.100.100.5", "critical": False, "extn_value": b"odd"}
        made_proxy(tmp_path / "proxy", now_s=now_s, extensions=[odd])
        (check,) = check_credentials(
            (X509,),
            contained=False,
            lasting_s=None,
            variables={"X509_USER_PROXY": f"{tmp_path}/proxy"},
        )
        assert check.verdict == "note"
        assert check.detail.endswith("lasts another 12 h; its VOMS attributes cannot be read")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7800, "2 h 10 min"),
        (8 * 3600, "8 h"),
        (47 * 3600, "47 h"),
        (49 * 3600, "2 d 1 h"),
        (10 * 86400, "10 d"),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert time_text(seconds) == text
