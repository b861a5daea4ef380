"""A proxy certificate: where it is looked for, and what is known of it."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from asn1crypto import pem  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.environments.credentials.made import HOUR_S, VOMS_EXTENSION, made_proxy

from fasthep_flow.environments.credentials import proxies
from fasthep_flow.environments.credentials.found import MalformedError
from fasthep_flow.environments.credentials.proxies import find_proxy, read_proxy
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

X509 = Credential(kind="x509")


@pytest.fixture
def proxy(tmp_path: Path, now_s: float) -> Path:
    path = tmp_path / "x509up_u1000"
    made_proxy(path, now_s=now_s)
    return path


class TestRead:
    def test_whose_it_is_and_until_when(self, proxy: Path, now_s: float) -> None:
        """Of the user, without the names that proxies add."""
        found = read_proxy(proxy.read_bytes())
        assert found.subject == "/DC=ch/O=Made Up/CN=Marie Curie"
        assert found.ends_s == now_s + 12 * HOUR_S
        assert (found.vo, found.attributes_end_s) == ("", None)

    def test_the_certificate_of_the_user_may_end_first(self, tmp_path: Path, now_s: float) -> None:
        path = tmp_path / "proxy"
        made_proxy(path, now_s=now_s, user_lasts_s=60)
        assert read_proxy(path.read_bytes()).ends_s == now_s + 60

    def test_the_attributes_of_voms(self, tmp_path: Path, now_s: float) -> None:
        path = tmp_path / "proxy"
        made_proxy(path, now_s=now_s, vo="cms", vo_lasts_s=90)
        found = read_proxy(path.read_bytes())
        assert (found.vo, found.attributes_end_s) == ("cms", now_s + 90)
        assert found.ends_s == now_s + 12 * HOUR_S
        assert not found.has_odd_attributes

    def test_attributes_that_cannot_be_read(self, tmp_path: Path, now_s: float) -> None:
        path = tmp_path / "proxy"
        odd = {"extn_id": VOMS_EXTENSION, "critical": False, "extn_value": b"0\x84\xff"}
        made_proxy(path, now_s=now_s, extensions=[odd])
        found = read_proxy(path.read_bytes())
        assert found.has_odd_attributes
        assert found.ends_s == now_s + 12 * HOUR_S

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
    def test_as_openssl_does(self, proxy: Path, tmp_path: Path) -> None:
        done = subprocess.run(
            ["openssl", "x509", "-in", proxy, "-noout", "-enddate", "-dateopt", "iso_8601"],
            capture_output=True,
            text=True,
            check=True,
        )
        ends = time.strptime(done.stdout.strip(), "notAfter=%Y-%m-%d %H:%M:%SZ")
        found = read_proxy(proxy.read_bytes())
        assert time.gmtime(found.ends_s)[:6] == ends[:6]
        # And of one that is not of our own making.
        made, key = tmp_path / "made.pem", tmp_path / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/DC=ch/CN=Pierre Curie", "-keyout", key, "-out", made],
            capture_output=True,
            check=True,
        )  # fmt: skip
        found = read_proxy(made.read_bytes() + key.read_bytes())
        assert found.subject == "/DC=ch/CN=Pierre Curie"
        assert 47 * HOUR_S < found.ends_s - time.time() < 49 * HOUR_S

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "it holds nothing in PEM"),
            (b"hello", "it holds nothing in PEM"),
            (pem.armor("RSA PRIVATE KEY", b"x"), "it holds no certificate"),
            (pem.armor("CERTIFICATE", b"x"), "it cannot be read as PEM and X.509 (ValueError)"),
            (pem.armor("CERTIFICATE", b"0\0"), "it cannot be read as PEM and X.509"),
        ],
    )
    def test_what_is_none(self, content: bytes, words: str) -> None:
        with pytest.raises(MalformedError) as caught:
            read_proxy(content)
        assert str(caught.value).startswith(words)

    def test_without_a_key_it_is_none(self, proxy: Path) -> None:
        blocks = list(pem.unarmor(proxy.read_bytes(), multiple=True))
        content = b"".join(pem.armor(kind, der) for kind, _, der in blocks if "KEY" not in kind)
        with pytest.raises(MalformedError, match="it holds no private key"):
            read_proxy(content)

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_anything_else_is_refused_in_our_words(self, proxy: Path, data: st.DataObject) -> None:
        """Bytes that are not those of a proxy, or no longer."""
        blocks = list(pem.unarmor(proxy.read_bytes(), multiple=True))
        which = data.draw(st.integers(0, len(blocks) - 1))
        der = bytearray(blocks[which][2])
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(der) - 1))
            der[at] = data.draw(st.integers(0, 255))
        del der[data.draw(st.integers(1, len(der))) :]
        content = b"".join(
            pem.armor(kind, bytes(der) if index == which else block)
            for index, (kind, _, block) in enumerate(blocks)
        )
        for tried in (content, data.draw(st.binary(max_size=200))):
            try:
                found = read_proxy(tried)
            except MalformedError:
                continue
            assert found.subject.isprintable()


class TestFind:
    def test_in_the_order_of_the_tools(
        self, proxy: Path, tmp_path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usual = tmp_path / f"x509up_u{os.getuid()}"
        made_proxy(usual, now_s=now_s)
        monkeypatch.setattr(proxies, "_USUAL", f"{tmp_path}/x509up_u{{}}")
        other = tmp_path / "other"
        made_proxy(other, now_s=now_s)
        named = {"X509_USER_PROXY": str(proxy)}
        for credential, variables, path in (
            (X509, {}, usual),
            (X509, {"X509_USER_PROXY": ""}, usual),
            (X509, named, proxy),
            (Credential(kind="x509", file=str(other)), named, other),
        ):
            found = find_proxy(credential, variables, contained=False)
            assert found.addition.variables == {"X509_USER_PROXY": str(path)}
            assert found.addition.mounts == ()

    def test_below_home(self, proxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(proxy.parent))
        found = find_proxy(Credential(kind="x509", file=f"~/{proxy.name}"), {}, contained=False)
        assert found.addition.variables == {"X509_USER_PROXY": str(proxy)}

    def test_in_a_container(self, proxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(proxies, "_TRUST", {})
        found = find_proxy(X509, {"X509_USER_PROXY": str(proxy)}, contained=True)
        (mount,) = found.addition.mounts
        assert (mount.source, mount.read_only) == (str(proxy), True)
        assert found.addition.variables == {"X509_USER_PROXY": mount.target}
        assert mount.target.startswith("/fasthep/")

    def test_by_another_variable(self, proxy: Path) -> None:
        credential = Credential(kind="x509", file=str(proxy), variable="MY_PROXY")
        found = find_proxy(credential, {}, contained=False)
        assert found.addition.variables == {"MY_PROXY": str(proxy)}

    def test_with_the_authorities_of_the_host(
        self, proxy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where they are set, or at their usual places; in a container alone."""
        usual, chosen = tmp_path / "vomsdir", tmp_path / "my certificates"
        usual.mkdir()
        chosen.mkdir()
        places = {
            "X509_CERT_DIR": (str(tmp_path / "nowhere"),),
            "X509_VOMS_DIR": (str(tmp_path / "nowhere"), str(usual)),
            "X509_VOMSES": (str(tmp_path / "nowhere"),),
        }
        monkeypatch.setattr(proxies, "_TRUST", places)
        variables = {"X509_USER_PROXY": str(proxy), "X509_CERT_DIR": str(chosen)}
        found = find_proxy(X509, variables, contained=True)
        sources = {mount.target: mount.source for mount in found.addition.mounts}
        assert all(mount.read_only for mount in found.addition.mounts)
        named = found.addition.variables
        assert named.keys() == {"X509_USER_PROXY", "X509_CERT_DIR", "X509_VOMS_DIR"}
        assert sources[named["X509_CERT_DIR"] or ""] == str(chosen)
        assert sources[named["X509_VOMS_DIR"] or ""] == str(usual)
        outside = find_proxy(X509, variables, contained=False)
        assert outside.addition.variables == {"X509_USER_PROXY": str(proxy)}
        # Of the image, then.
        variables["X509_CERT_DIR"] = "/of/the/image"
        named = find_proxy(X509, variables, contained=True).addition.variables
        assert "X509_CERT_DIR" not in named

    def test_attributes_that_end_first_count(self, tmp_path: Path, now_s: float) -> None:
        path = tmp_path / "proxy"
        made_proxy(path, now_s=now_s, vo="cms", vo_lasts_s=90)
        found = find_proxy(
            Credential(kind="x509", file=str(path)), {}, contained=False, lasting_s=30 * HOUR_S
        )
        assert found.ends_s == now_s + 90
        assert found.name == f"the VOMS attribute certificate in {path}"
        assert found.renewal == "voms-proxy-init -voms cms -valid 31:00"
        assert found.holder == "/DC=ch/O=Made Up/CN=Marie Curie (cms)"

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialUnavailable) as caught:
            find_proxy(X509, {"X509_USER_PROXY": f"{tmp_path}/none"}, contained=False)
        assert caught.value.message == f"the x509 proxy {tmp_path}/none is not there"
        assert caught.value.hint == (
            "make one (voms-proxy-init -valid 12:00), or name its file in X509_USER_PROXY"
        )

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        """Nor does a pipe keep one waiting."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(CredentialUnavailable, match="is not a file"):
                find_proxy(X509, {"X509_USER_PROXY": str(path)}, contained=False)

    def test_what_is_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(CredentialUnavailable, match="is larger than any credential"):
            find_proxy(X509, {"X509_USER_PROXY": str(path)}, contained=False)

    def test_what_others_may_read(self, proxy: Path) -> None:
        for mode in (0o640, 0o604, 0o660):
            proxy.chmod(mode)
            with pytest.raises(CredentialUnavailable, match="grid tools refuse") as caught:
                find_proxy(X509, {"X509_USER_PROXY": str(proxy)}, contained=False)
            assert caught.value.hint == f"chmod 600 {proxy}"
        proxy.chmod(0o400)
        find_proxy(X509, {"X509_USER_PROXY": str(proxy)}, contained=False)

    def test_a_path_that_depends_on_the_folder(self) -> None:
        with pytest.raises(CredentialUnavailable, match="not an absolute path") as caught:
            find_proxy(X509, {"X509_USER_PROXY": "my/proxy"}, contained=False)
        assert "X509_USER_PROXY names the file my/proxy" in caught.value.message
