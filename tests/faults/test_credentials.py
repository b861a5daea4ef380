"""Credentials that are not there, are none, or end: one clear error, and no task before it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.environments.credentials.made import HOUR_S, made_proxy, made_tickets, made_token
from tests.faults.conftest import Said, Site, kept_image, shell


class Desk(Site):
    """A site of a user with a proxy."""

    def __init__(self, root: Path, cache: Path) -> None:
        super().__init__(root, cache)
        self.proxy = root / "x509up"
        self.variables |= {
            "X509_USER_PROXY": str(self.proxy),
            "KRB5CCNAME": f"FILE:{root}/tickets",
            "BEARER_TOKEN_FILE": f"{root}/token",
        }

    def asks(self, credentials: Any, **environment: Any) -> None:
        """A workflow whose second task asks for these."""
        self.write(
            shell("first", ": >began"),
            shell(
                "second", ": >began", environment={"credentials": credentials, **environment}
            ),
        )  # fmt: skip

    def refused(self, *words: str) -> Said:
        """A run ends with these words, before the first task."""
        said = self.run()
        assert said.code == 4, said.both
        assert not self.up("began")
        assert not (self.work / "output").exists()
        for each in words:
            assert each in said.err
        assert "Traceback" not in said.both
        assert said.err.count("fasthep-flow: ") == 1
        return said


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


class TestBeforeTheFirstTask:
    def test_a_proxy_that_is_not_there(self, desk: Desk) -> None:
        desk.asks("x509")
        desk.refused(f"the x509 proxy {desk.proxy} is not there", "voms-proxy-init", "'second'")

    def test_a_proxy_that_has_ended(self, desk: Desk) -> None:
        made_proxy(desk.proxy, now_s=time.time() - HOUR_S, lasts_s=1800)
        desk.asks("x509")
        desk.refused(
            f"the x509 proxy {desk.proxy} ended 30 min ago",
            "renew it: voms-proxy-init -valid 12:00",
        )

    def test_attributes_that_have_ended(self, desk: Desk) -> None:
        """The proxy itself would last."""
        made_proxy(desk.proxy, now_s=time.time() - HOUR_S, vo="atlas", vo_lasts_s=1800)
        desk.asks("x509")
        desk.refused(
            f"the VOMS attribute certificate in {desk.proxy} ended 30 min ago",
            "renew it: voms-proxy-init -voms atlas -valid 12:00",
        )

    @pytest.mark.parametrize("resources", [True, False])
    def test_a_proxy_that_ends_before_the_task_may(self, desk: Desk, resources: bool) -> None:
        made_proxy(desk.proxy, now_s=time.time(), lasts_s=2 * HOUR_S + 630)
        desk.asks("x509", **({"resources": {"walltime": "8h"}} if resources else {}))
        if not resources:
            assert desk.run().code == 0
            return
        desk.refused(
            f"the x509 proxy {desk.proxy} ends in 2 h 10 min, and the task may take 8 h",
            "renew it (voms-proxy-init -valid 12:00), or give the task less time",
        )

    def test_a_proxy_that_others_may_read(self, desk: Desk) -> None:
        made_proxy(desk.proxy, now_s=time.time())
        desk.proxy.chmod(0o644)
        desk.asks("x509")
        desk.refused("may be read or written by others", f"chmod 600 {desk.proxy}")

    def test_what_is_no_proxy(self, desk: Desk) -> None:
        """Nothing of it is told."""
        desk.proxy.write_text("hunter2\n")
        desk.asks("x509")
        said = desk.refused(f"the x509 proxy {desk.proxy} is none: it holds nothing in PEM")
        assert "hunter2" not in said.both

    def test_tickets_that_have_ended(self, desk: Desk) -> None:
        made_tickets(desk.root / "tickets", now_s=time.time() - 20 * HOUR_S)
        desk.asks("kerberos")
        desk.refused(
            f"the Kerberos ticket in {desk.root}/tickets ended 10 h ago", "renew it: kinit"
        )

    def test_a_token_that_has_ended(self, desk: Desk) -> None:
        (desk.root / "token").write_text(made_token({"exp": int(time.time()) - 630}))
        desk.asks("bearer")
        said = desk.refused(f"the bearer token {desk.root}/token ended 10 min ago", "htgettoken")
        assert (desk.root / "token").read_text() not in said.both

    def test_all_that_is_wrong_at_once(self, desk: Desk) -> None:
        desk.asks(["x509", "kerberos", "bearer"])
        said = desk.run()
        assert said.code == 4
        for name in ("x509up", "tickets", "token"):
            assert f"{desk.root}/{name} is not there" in said.err

    def test_check_says_so_as_well(self, desk: Desk) -> None:
        desk.asks("x509")
        said = desk.run("check")
        assert said.code == 4
        assert f"the x509 proxy {desk.proxy} is not there" in said.words


class TestContainers:
    @pytest.fixture
    def image(self, container_runtime: str, sif_file: Path, busybox_root: Path) -> dict[str, str]:
        assert sif_file.parent == busybox_root.parent
        name = kept_image(container_runtime, "busybox", sif_file.parent)
        return {"name": name, "runtime": container_runtime}

    def test_a_proxy_that_has_ended(self, desk: Desk, image: dict[str, str]) -> None:
        made_proxy(desk.proxy, now_s=time.time() - HOUR_S, lasts_s=1800)
        desk.asks("x509", image=image)
        desk.refused(f"the x509 proxy {desk.proxy} ended 30 min ago")

    def test_tickets_that_no_container_can_see(self, desk: Desk, image: dict[str, str]) -> None:
        desk.variables["KRB5CCNAME"] = "KEYRING:persistent:1000"
        desk.asks("kerberos", image=image)
        desk.refused(
            "the Kerberos tickets are in KEYRING:persistent:1000, which no container can see",
            "kinit -c FILE:/tmp/krb5cc_",
        )

    def test_a_proxy_that_is_lost_meanwhile(self, desk: Desk, image: dict[str, str]) -> None:
        """It is looked at once more when the task starts."""
        made_proxy(desk.proxy, now_s=time.time())
        desk.write(
            shell("first", f"rm '{desk.proxy}'"),
            shell("second", ": >began", environment={"credentials": "x509", "image": image}),
            flow="local::sequential",
        )
        said = desk.run()
        assert said.code == 1, said.both
        assert desk.cause("second") == (
            "failed", "environment", f"the x509 proxy {desk.proxy} is not there",
        )  # fmt: skip
        assert not desk.up("began")


def test_a_proxy_that_is_lost_meanwhile(desk: Desk) -> None:
    made_proxy(desk.proxy, now_s=time.time())
    desk.write(
        shell("first", f"rm '{desk.proxy}'"),
        shell("second", ": >began", environment={"credentials": "x509"}),
        flow="local::sequential",
    )
    said = desk.run()
    assert said.code == 1, said.both
    assert desk.cause("second")[:2] == ("failed", "environment")
    assert f"the x509 proxy {desk.proxy} is not there" in said.both
    assert "voms-proxy-init" in said.both
    assert not desk.up("began")
