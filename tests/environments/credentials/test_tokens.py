"""Bearer tokens: where they are looked for, and what is known of them."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.environments.credentials.made import made_token

from fasthep_flow.environments.credentials import tokens
from fasthep_flow.environments.credentials.found import MalformedError
from fasthep_flow.environments.credentials.tokens import find_token, read_token
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

BEARER = Credential(kind="bearer")
UID = os.getuid()


class TestRead:
    def test_whose_it_is_and_until_when(self, now_s: float) -> None:
        claims = {"sub": "marie", "iss": "https://made.up/", "exp": now_s + 60, "nbf": now_s}
        found = read_token(f"  {made_token(claims)}\n".encode())
        assert found.holder == "marie of https://made.up/"
        assert (found.starts_s, found.ends_s) == (now_s, now_s + 60)
        assert not found.is_opaque

    @pytest.mark.parametrize(
        "text", ["opaque", "a.b", "a.b.c", "e30.e30.x", "bm8.bm8.bm8", "....", "ä".encode().hex()]
    )
    def test_what_says_nothing(self, text: str) -> None:
        found = read_token(text.encode())
        assert found.is_opaque
        assert (found.starts_s, found.ends_s) == (None, None)

    @pytest.mark.parametrize(
        "time_of_end", [None, "soon", True, [1], {}, float("nan"), float("inf")]
    )
    def test_times_that_are_none(self, time_of_end: Any) -> None:
        assert read_token(made_token({"exp": time_of_end}).encode()).ends_s is None

    @pytest.mark.parametrize("time_of_end", [-(10**30), 10**30, 1e300])
    def test_times_that_are_far_away(self, time_of_end: float) -> None:
        found = read_token(made_token({"exp": time_of_end}).encode())
        assert found.ends_s in {0, tokens._LATEST_S, None}

    @pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"a\nb", b"\xff", b"a\0"])
    def test_what_is_none(self, content: bytes) -> None:
        with pytest.raises(MalformedError):
            read_token(content)

    @given(content=st.binary(max_size=100), claims=st.dictionaries(st.text(), st.integers()))
    def test_anything_is_read_or_refused_in_our_words(
        self, content: bytes, claims: dict[str, int]
    ) -> None:
        text = made_token(claims).encode()
        for tried in (content, text, text[: len(content)], text.replace(b"e", b"f")):
            try:
                found = read_token(tried)
            except MalformedError:
                continue
            assert found.holder.isprintable()


class TestFind:
    def test_in_the_order_of_the_discovery(
        self, tmp_path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "_USUAL", f"{tmp_path}/bt_u{{}}")
        run = tmp_path / "run"
        run.mkdir()
        files = [tmp_path / f"bt_u{UID}", run / f"bt_u{UID}", tmp_path / "named"]
        variables: dict[str, str] = {}
        steps = [{}, {"XDG_RUNTIME_DIR": str(run)}, {"BEARER_TOKEN_FILE": str(files[2])}]
        for step, file in zip(steps, files, strict=True):
            variables |= step
            file.write_text("token")
            found = find_token(BEARER, variables, contained=False, now_s=now_s)
            # What comes first in the discovery is taken away.
            assert found.addition.variables == {
                "BEARER_TOKEN_FILE": str(file),
                "BEARER_TOKEN": None,
            }
        variables |= {"BEARER_TOKEN": " a-token\n"}
        found = find_token(BEARER, variables, contained=True, now_s=now_s)
        assert found.addition.variables == {"BEARER_TOKEN": "a-token"}
        assert found.addition.mounts == ()
        assert "a-token" not in found.name + found.holder + found.renewal + found.why_unknown
        credential = Credential(kind="bearer", file=str(files[0]))
        found = find_token(credential, variables, contained=False, now_s=now_s)
        assert found.addition.variables["BEARER_TOKEN_FILE"] == str(files[0])

    def test_a_named_file_that_is_not_there_is_not_passed_over(
        self, tmp_path: Path, now_s: float
    ) -> None:
        variables = {"BEARER_TOKEN_FILE": f"{tmp_path}/none", "XDG_RUNTIME_DIR": str(tmp_path)}
        (tmp_path / f"bt_u{UID}").write_text("token")
        with pytest.raises(CredentialUnavailable, match=r"/none is not there"):
            find_token(BEARER, variables, contained=False, now_s=now_s)

    def test_in_a_container(self, tmp_path: Path, now_s: float) -> None:
        (tmp_path / "token").write_text("token")
        variables = {"BEARER_TOKEN_FILE": f"{tmp_path}/token"}
        found = find_token(BEARER, variables, contained=True, now_s=now_s)
        (mount,) = found.addition.mounts
        assert (mount.source, mount.read_only) == (f"{tmp_path}/token", True)
        assert found.addition.variables["BEARER_TOKEN_FILE"] == mount.target
        assert (found.ends_s, found.why_unknown) == (None, "it is no JWT")

    def test_one_that_does_not_hold_yet(self, now_s: float) -> None:
        token = made_token({"nbf": now_s + 600})
        with pytest.raises(CredentialUnavailable) as caught:
            find_token(BEARER, {"BEARER_TOKEN": token}, contained=False, now_s=now_s)
        assert caught.value.message == "the bearer token in BEARER_TOKEN holds only in 10 min"
        # Clocks differ a little.
        find_token(BEARER, {"BEARER_TOKEN": token}, contained=False, now_s=now_s + 570)

    def test_a_value_is_no_file(self, now_s: float) -> None:
        credential = Credential(kind="bearer", variable="TOKEN_FILE")
        with pytest.raises(CredentialUnavailable, match="TOKEN_FILE is to name a file"):
            find_token(credential, {"BEARER_TOKEN": "token"}, contained=False, now_s=now_s)

    def test_what_is_none_is_not_shown(self, now_s: float) -> None:
        with pytest.raises(CredentialUnavailable) as caught:
            find_token(BEARER, {"BEARER_TOKEN": "hunter2 hunter3"}, contained=False, now_s=now_s)
        assert (
            caught.value.message == "the bearer token in BEARER_TOKEN is none: a token is one word"
        )
        assert "hunter" not in str(caught.value)
