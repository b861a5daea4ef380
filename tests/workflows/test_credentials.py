"""Credentials, as tasks see them: on the host, and in containers of every runtime."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.environments.credentials.made import HOUR_S, made_proxy, made_tickets, made_token
from tests.faults.conftest import Site, kept_image, said_by, shell, wait_until

LOOK = (
    'mkdir "$OUT"; env -0 >"$OUT/env";'
    " for name in X509_USER_PROXY KRB5CCNAME BEARER_TOKEN_FILE ACCOUNT; do"
    ' eval "file=\\$$name"; file="${file#FILE:}";'
    ' sha256sum <"$file" | cut -d" " -f1 >"$OUT/$name.sha256";'
    ' stat -c "%a %u" "$file" >"$OUT/$name.stat";'
    " done"
)
CHANGE = (
    '; for file in "$X509_USER_PROXY" "$BEARER_TOKEN_FILE" "$ACCOUNT"; do'
    ' (echo x >>"$file") && echo written >>"$OUT/trouble";'
    ' rm -f "$file" && echo gone >>"$OUT/trouble";'
    ' chmod 777 "$file" && echo changed >>"$OUT/trouble"; done; true'
)


class Desk(Site):
    """A site where the user has a credential of each kind."""

    def __init__(self, root: Path, cache: Path) -> None:
        super().__init__(root, cache)
        self.home = root / "home of: the user, me"
        self.home.mkdir()
        self.proxy = self.home / "my proxy"
        self.tickets = self.home / "krb5cc"
        self.token = self.home / "bt"
        self.account = self.home / "account.json"
        now_s = time.time()
        self.key = made_proxy(self.proxy, now_s=now_s, vo="cms")
        made_tickets(self.tickets, now_s=now_s)
        text = made_token({"sub": "marie", "exp": now_s + 5 * HOUR_S})
        self.secrets = [self.key, text.encode(), b"hunter2"]
        self.token.write_text(text)
        self.token.chmod(0o600)
        self.account.write_text("hunter2")
        self.variables |= {
            "X509_USER_PROXY": str(self.proxy),
            "KRB5CCNAME": f"FILE:{self.tickets}",
            "BEARER_TOKEN_FILE": str(self.token),
        }
        self.credentials: list[Any] = [
            "x509",
            "kerberos",
            "bearer",
            {"kind": "file", "file": str(self.account), "variable": "ACCOUNT"},
        ]

    @property
    def named(self) -> dict[str, Path]:
        return {
            "X509_USER_PROXY": self.proxy,
            "KRB5CCNAME": self.tickets,
            "BEARER_TOKEN_FILE": self.token,
            "ACCOUNT": self.account,
        }

    def seen(self, name: str = "seen") -> dict[str, str]:
        """The variables that the task found."""
        entries = (self.work / name / "env").read_bytes().split(b"\0")
        pairs = [entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries]
        return {name: value for name, _, value in pairs}

    def said(self, name: str) -> str:
        return (self.work / "seen" / name).read_text().strip()

    def found_secrets(self) -> list[Path]:
        """The files of runs, caches and temporary folders that hold something of a secret."""
        below = (self.work, self.cache, self.temporary)
        return [
            path
            for folder in below
            for path in folder.rglob("*")
            if path.is_file() and any(secret in path.read_bytes() for secret in self.secrets)
        ]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


@pytest.fixture
def image(container_runtime: str, sif_file: Path, busybox_root: Path) -> dict[str, str]:
    assert sif_file.parent == busybox_root.parent
    name = kept_image(container_runtime, "busybox", sif_file.parent)
    return {"name": name, "runtime": container_runtime}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def looking(line: str, desk: Desk, **environment: Any) -> dict[str, Any]:
    environment = {"variables": {"OUT": f"{desk.work}/seen"}, **environment}
    return shell("look", line, environment={"credentials": desk.credentials, **environment})


class TestAllKinds:
    def test_on_the_host_they_are_where_they_are(self, desk: Desk) -> None:
        desk.write(looking(LOOK, desk))
        said = desk.run()
        assert said.code == 0, said.both
        seen = desk.seen()
        assert seen["X509_USER_PROXY"] == str(desk.proxy)
        assert seen["KRB5CCNAME"] == f"FILE:{desk.tickets}"
        assert seen["ACCOUNT"] == str(desk.account)
        for name, path in desk.named.items():
            assert desk.said(f"{name}.sha256") == sha256(path)
        assert desk.found_secrets() == []

    def test_in_a_container_they_are_read_only(self, desk: Desk, image: dict[str, str]) -> None:
        before = {path: (sha256(path), path.stat()) for path in desk.named.values()}
        desk.write(looking(LOOK + CHANGE, desk, image=image))
        said = desk.run()
        assert said.code == 0, said.both
        seen = desk.seen()
        for name, path in desk.named.items():
            assert seen[name].removeprefix("FILE:").startswith("/fasthep/credentials/")
            assert desk.said(f"{name}.sha256") == sha256(path)
            found = path.stat()
            assert desk.said(f"{name}.stat") == f"{found.st_mode & 0o777:o} {found.st_uid}"
        assert "BEARER_TOKEN" not in seen
        # Nothing of the home folder is seen beside them.
        assert str(desk.home) not in str(seen)
        assert not (desk.work / "seen" / "trouble").exists()
        for path, (digest, found) in before.items():
            assert (sha256(path), path.stat().st_mode) == (digest, found.st_mode)
        assert desk.found_secrets() == []

    def test_a_callable_sees_them_too(
        self, desk: Desk, container_runtime: str, python_sif: Path, python_root: Path
    ) -> None:
        assert python_sif.parent == python_root.parent
        (desk.work / "mine.py").write_text(
            "import os\n\ndef look():\n    return len(open(os.environ['X509_USER_PROXY']).read())\n"
        )
        name = kept_image(container_runtime, "python", python_sif.parent)
        task = {
            "name": "look",
            "type": "fasthep_flow.operators.PythonOperator",
            "kwargs": {"python_callable": "mine:look"},
            "environment": {
                "image": {"name": name, "runtime": container_runtime},
                "credentials": "x509",
            },
        }
        desk.write(task)
        said = desk.run()
        assert said.code == 0, said.both
        assert desk.result("look").value == desk.proxy.stat().st_size


class TestTokenInAVariable:
    """It is handed on as it is, and written nowhere."""

    def test_on_the_host(self, desk: Desk) -> None:
        desk.variables["BEARER_TOKEN"] = desk.token.read_text()
        self.check(desk)

    def test_in_a_container(self, desk: Desk, image: dict[str, str]) -> None:
        desk.variables["BEARER_TOKEN"] = desk.token.read_text()
        self.check(desk, image=image)

    def test_it_is_on_no_command_line(self, desk: Desk, image: dict[str, str]) -> None:
        """Of no process on this machine, for as long as the task runs."""
        token = desk.token.read_text()
        desk.variables["BEARER_TOKEN"] = token
        line = ": >began; until [ -e go ]; do sleep 0.05; done"
        desk.write(shell("look", line, environment={"credentials": "bearer", "image": image}))
        driver = desk.start()
        wait_until(lambda: desk.up("began"))
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            # One may end meanwhile.
            with contextlib.suppress(OSError):
                lines.append(path.read_bytes())
        (desk.work / "go").touch()
        assert said_by(driver).code == 0
        assert not any(token.encode() in line for line in lines)

    def check(self, desk: Desk, **environment: Any) -> None:
        line = 'printf %s "$BEARER_TOKEN" | sha256sum | cut -d" " -f1 >digest'
        desk.write(shell("look", line, environment={"credentials": "bearer", **environment}))
        said = desk.run()
        assert said.code == 0, said.both
        assert (desk.work / "digest").read_text().strip() == sha256(desk.token)
        assert desk.found_secrets() == []
        assert desk.token.read_text() not in said.both


class TestRenewed:
    """Whoever renews a proxy puts another file into its place: the next task finds that one."""

    def test_on_the_host(self, desk: Desk) -> None:
        self.check(desk)

    def test_in_a_container_that_is_kept(self, desk: Desk, image: dict[str, str]) -> None:
        self.check(desk, image=image)

    def check(self, desk: Desk, **environment: Any) -> None:
        renewed = desk.home / "renewed"
        made_proxy(renewed, now_s=time.time())
        digests = [sha256(desk.proxy), sha256(desk.proxy), sha256(renewed)]
        environment |= {"credentials": ["x509"]}
        tasks = [
            shell(name, f'sha256sum <"$X509_USER_PROXY" >{name}', environment=environment)
            for name in ("first", "second", "third")
        ]
        tasks.insert(2, shell("renew", f"mv '{renewed}' '{desk.proxy}'"))
        desk.write(*tasks, flow="local::sequential")
        said = desk.run()
        assert said.code == 0, said.both
        seen = [(desk.work / name).read_text().split()[0] for name in ("first", "second", "third")]
        assert seen == digests


class TestTrust:
    """In a container the host's authorities are there, where the host has them."""

    def test_they_are_named_and_read_only(self, desk: Desk, image: dict[str, str]) -> None:
        certificates = desk.home / "certificates"
        certificates.mkdir()
        (certificates / "0a1b2c3d.0").write_text("an authority")
        desk.variables["X509_CERT_DIR"] = str(certificates)
        line = (
            'cat "$X509_CERT_DIR/0a1b2c3d.0" >seen; (: >"$X509_CERT_DIR/x") 2>&- || echo no >>seen'
        )
        desk.write(shell("look", line, environment={"credentials": "x509", "image": image}))
        said = desk.run()
        assert said.code == 0, said.both
        assert (desk.work / "seen").read_text() == "an authorityno\n"
        assert [path.name for path in certificates.iterdir()] == ["0a1b2c3d.0"]


class TestCheck:
    def test_says_until_when_they_last(self, desk: Desk) -> None:
        desk.write(looking("true", desk))
        said = desk.run("check")
        assert said.code == 0, said.both
        for words in (
            f"x509 proxy {desk.proxy} of /DC=ch/O=Made Up/CN=Marie Curie (cms) lasts another 11 h",
            f"Kerberos ticket in {desk.tickets} of marie@MADE.UP lasts another 9 h 59 min",
            f"bearer token {desk.token} lasts another 4 h 59 min",
            f"credential {desk.account}: until when it lasts is not known",
        ):
            assert words in said.out
