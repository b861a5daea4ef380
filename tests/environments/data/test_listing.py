"""Files of folders, in one order whatever the file system's is."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthep_flow.environments.data.listing import (
    Listed,
    Listing,
    below,
    files_below,
    folder_listing,
    listing_digest,
)

NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: name not in {b".", b".."} and not {0, ord("/")} & set(name)
)
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12)


def make(folder: Path, tree: list[list[bytes]]) -> None:
    """The files, but for those that others stand in the way of."""
    for parts in tree:
        path = os.path.join(os.fsencode(folder), *parts)  # noqa: PTH118 - bytes
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
            with open(path, "xb") as file:  # noqa: PTH123 - bytes
                file.write(parts[-1])
        except OSError:
            continue


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TREES)
def test_files_come_in_the_order_of_their_names_as_bytes(tree: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        make(folder, tree)
        names = [os.fsencode(name) for _, name in files_below(folder)]
        assert names == sorted(names)
        assert len(names) == sum(len(files) for _, _, files in os.walk(os.fsencode(folder)))
        # So the digest of what comes one by one is that of all of them.
        listing = Listing()
        for file in folder_listing(folder):
            listing.add(file)
        assert listing.hexdigest() == listing_digest(list(folder_listing(folder))[::-1])


@settings(max_examples=15, deadline=None)
@given(TREES.filter(lambda tree: not any(part[:1] in b".-" for path in tree for part in path)))
def test_the_digest_is_that_of_what_sha256sum_prints(tree: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as text:
        make(Path(text), tree)
        line = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r sha256sum | sha256sum"
        done = subprocess.run(["bash", "-c", line], cwd=text, capture_output=True, check=True)
        assert listing_digest(folder_listing(Path(text))) == done.stdout.split()[0].decode()


def test_folders_come_before_what_is_in_them_and_links_are_files(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "link").symlink_to("e")
    (tmp_path / "d-1").touch()
    found = [(entry.name, entry.is_folder) for entry in below(tmp_path)]
    assert found == [("d-1", False), ("d", True), ("d/e", True), ("d/link", False)]
    line = b"link  d/link -> e\n"
    empty = hashlib.sha256(b"").hexdigest()
    expected = hashlib.sha256(f"{empty}  d-1\n".encode() + line).hexdigest()
    assert listing_digest(folder_listing(tmp_path)) == expected
    assert listing_digest([Listed(name="d-1", digest=empty), Listed(name="d/link", link="e")]) == (
        expected
    )
