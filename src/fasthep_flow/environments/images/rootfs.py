"""The layers of an image, laid one on another in a folder.

As the `OCI image specification
<https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md#applying-changesets>`_ says.
A layer is nobody's to trust: no path of it leads out of the folder, also not by way of the
links of an earlier one. All files belong to the caller; the bits by which a program would run
as somebody else are left out, and so are devices: the container has the host's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

__all__ = ["BadLayerError", "apply_layer", "remove_folder", "within_root"]

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST_LINKS: Final = 40
_IMPOSSIBLE: Final = frozenset(
    {
        errno.EEXIST,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
    }
)
"""What the kernel says to names and links that make no sense."""

_CHUNK: Final = 2**20


class BadLayerError(Exception):
    """A layer is damaged, or not what it should be; says why."""


def apply_layer(folder: Path, layer: IO[bytes], digest: str | None = None) -> None:
    """Lay a layer on what is in the folder.

    Args:
        folder: Absolute path without symbolic links in it; nobody else writes there.
        layer: A tar file, compressed or not, from its start.
        digest: ``sha256:...`` of what ``layer`` holds; not looked at if ``None``.

    Raises:
        BadLayerError: It cannot be read, is another one than the digest says, or leads out.
        OSError: The disk is full, or the folder cannot be written to.
    """
    source = _Hashed(layer)
    target = _Folder(os.fspath(folder))
    try:
        with (
            _uncompressed(source) as stream,
            tarfile.open(fileobj=stream, mode="r|*", bufsize=_CHUNK) as archive,
        ):
            for member in archive:
                target.add(archive, member)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise BadLayerError(f"a layer of it cannot be read ({error})") from None
    except OSError as error:
        # Damage is told in the same way as a disk that is full, but has no number.
        if error.errno is None:
            raise BadLayerError(f"a layer of it cannot be read ({error})") from None
        if error.errno in _IMPOSSIBLE:
            raise BadLayerError(f"a layer of it has what no folder can hold ({error})") from None
        raise
    found = source.digest()
    if digest is not None and found != digest:
        raise BadLayerError(f"a layer of it is {found}, and should be {digest}")


class _Hashed:
    """Reads a file and adds up its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: Final = file
        self._ahead = file.read(len(_ZSTD))
        self.is_zstd: Final = self._ahead == _ZSTD
        self._hash: Final = hashlib.sha256(self._ahead)

    def read(self, size: int = -1) -> bytes:
        """As a file does."""
        if self._ahead:
            chunk, self._ahead = self._ahead, b""
            return chunk
        chunk = self._file.read(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """Of the whole file, read to its end."""
        while self.read(_CHUNK):
            pass
        return f"sha256:{self._hash.hexdigest()}"


@contextmanager
def _uncompressed(source: _Hashed) -> Iterator[IO[bytes]]:
    """What tarfile can read: it knows all but zstd."""
    if not source.is_zstd:
        yield cast("IO[bytes]", source)
        return
    program = shutil.which("zstd")
    if program is None:
        raise BadLayerError("a layer of it is compressed with zstd, and that is not installed here")
    with tempfile.TemporaryFile() as plain:
        with subprocess.Popen(
            (program, "--decompress", "--stdout", "--quiet"),
            stdin=subprocess.PIPE,
            stdout=plain,
            stderr=subprocess.DEVNULL,
        ) as process:
            with contextlib.suppress(BrokenPipeError):
                while chunk := source.read(_CHUNK):
                    process.stdin.write(chunk)  # type: ignore[union-attr]  # is a pipe
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]  # is a pipe
        if process.returncode:
            raise BadLayerError("a layer of it cannot be decompressed with zstd")
        plain.seek(0)
        yield plain


class _Folder:
    """A root folder that one layer is laid on."""

    def __init__(self, root: str) -> None:
        self._root: Final = root
        self._parents: Final[dict[str, str]] = {}
        self._made: Final[set[str]] = set()

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make what the member says."""
        parts = [part for part in member.name.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise BadLayerError(
                f"a layer of it has the path {member.name!r}, which leads out of it"
            )
        if not parts:
            return
        *above, name = parts
        parent = self._parent("/".join(above))
        if name == _OPAQUE:
            self._empty(parent)
        elif name.startswith(_WHITEOUT):
            hidden = f"{parent}/{name.removeprefix(_WHITEOUT)}"
            if posixpath.dirname(hidden) != parent or posixpath.basename(hidden) in {"", ".", ".."}:
                raise BadLayerError(
                    f"a layer of it has the path {member.name!r}, which hides nothing"
                )
            if hidden not in self._made:
                self._remove(hidden)
        else:
            self._make(archive, member, f"{parent}/{name}")

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isdir():
            if not _is_folder(path):
                self._remove(path)
                os.mkdir(path)  # noqa: PTH102 - a hot path
            # Who cannot look into a folder cannot remove it either.
            os.chmod(path, member.mode & 0o1777 | 0o700)  # noqa: PTH101
        elif member.isreg():
            self._remove(path)
            self._write(archive, member, path)
        elif member.issym():
            self._remove(path)
            os.symlink(member.linkname, path)  # noqa: PTH211
        elif member.islnk():
            self._link(member, path)
        else:
            self._remove(path)
            return
        self._made.add(path)

    @staticmethod
    def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        content = archive.extractfile(member)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            if content is not None:
                shutil.copyfileobj(content, file, _CHUNK)
            os.fchmod(file.fileno(), member.mode & 0o777 | 0o400)
        # Compiled Python modules are known by the times of their sources.
        with contextlib.suppress(OverflowError, OSError):
            os.utime(path, (member.mtime, member.mtime))

    def _link(self, member: tarfile.TarInfo, path: str) -> None:
        parts = [part for part in member.linkname.split("/") if part not in {"", "."}]
        if not parts or ".." in parts:
            raise BadLayerError(
                f"a layer of it has the link {member.name!r}, which leads out of it"
            )
        *above, name = parts
        source = f"{self._parent('/'.join(above))}/{name}"
        if source == path:
            return
        if not os.path.lexists(source) or _is_folder(source):
            raise BadLayerError(f"a layer of it has the link {member.name!r} to what is no file")
        self._remove(path)
        os.link(source, path, follow_symlinks=False)

    def _parent(self, above: str) -> str:
        """The folder of that path, with links followed within the root; made if need be."""
        known = self._parents.get(above)
        if known is None:
            known = within_root(self._root, above)
            missing = known
            made = []
            while not os.path.lexists(missing):
                made.append(missing)
                missing = posixpath.dirname(missing)
            for folder in reversed(made):
                os.mkdir(folder, 0o755)  # noqa: PTH102
                self._made.add(folder)
            if not _is_folder(known):
                raise BadLayerError(f"a layer of it has a file where it has the folder {above!r}")
            self._parents[above] = known
        return known

    def _empty(self, folder: str) -> None:
        """Take away what earlier layers left in the folder."""
        for entry in list(os.scandir(folder)):
            if not any(
                made == entry.path or made.startswith(entry.path + "/") for made in self._made
            ):
                self._remove(entry.path)

    def _remove(self, path: str) -> None:
        if not os.path.lexists(path):
            return
        if _is_folder(path):
            remove_folder(Path(path))
        else:
            os.unlink(path)  # noqa: PTH108
        # A link that led somewhere may be gone.
        self._parents.clear()


def within_root(root: str, path: str) -> str:
    """Where a path within a root folder leads, links followed as if the folder were the root.

    What is not there is taken for a folder to come.

    Args:
        root: Absolute path without symbolic links in it.
        path: In the folder, absolute or not.

    Raises:
        BadLayerError: Its links lead in a circle.
    """
    found, ahead, links = root, path.split("/")[::-1], 0
    while ahead:
        name = ahead.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            found = found if found == root else posixpath.dirname(found)
            continue
        entry = f"{found}/{name}"
        try:
            link = os.readlink(entry)  # noqa: PTH115 - a hot path
        except OSError:
            found = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise BadLayerError(f"the links of {path!r} lead in a circle")
        if link.startswith("/"):
            found = root
        ahead += link.split("/")[::-1]
    return found


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, also where its own rights forbid that.

    Raises:
        OSError: Something cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        folder.chmod(0o700)
        for path, folders, _ in os.walk(folder):
            for name in folders:
                if _is_folder(f"{path}/{name}"):
                    os.chmod(f"{path}/{name}", 0o700)  # noqa: PTH101
        shutil.rmtree(folder)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
