"""The parts of an image, fetched from a registry: whole, and the ones that were asked for."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from fasthep_flow.environments.registries.registry import Access
from fasthep_flow.errors import ImageUnavailable

__all__ = ["fetch_blob", "fetched"]

_PAUSES_S: Final = (0.5, 2.0)
"""Before it is tried again; a registry that is busy has recovered by then, or will not soon."""

_SILENCE_S: Final = 60.0
_CHUNK: Final = 2**20
_LARGEST_TEXT: Final = 4 * 2**20
_PARTIAL: Final = 206
_UNAUTHORIZED: Final = 401
_UNSATISFIABLE: Final = 416
_FINAL: Final = frozenset({400, 401, 403, 404, 410})


def fetch_blob(
    access: Access,
    image: str,
    digest: str,
    path: Path,
    *,
    again: Callable[[], Access] | None = None,
) -> None:
    """Fetch a part into a file; where the net fails in the middle, go on from there.

    Args:
        access: As the registry let the manifest be had.
        image: Whose part it is, for messages.
        digest: ``sha256:...`` of the part.
        path: Of the file; it is made.
        again: Asks the registry anew how to be let in, which may hold for minutes only.

    Raises:
        ImageUnavailable: The registry does not hand it out, or hands out something else.
        OSError: The disk is full.
    """
    said = "nothing"
    for pause_s in (0.0, *_PAUSES_S):
        time.sleep(pause_s)
        try:
            with path.open("ab") as file:
                _append(access, digest, file)
        except _StoppedError as error:
            said = str(error)
            if error.status == _UNAUTHORIZED and again is not None:
                access, again = again(), None
            elif error.status in _FINAL:
                break
            continue
        found = _digest(path)
        if found == digest:
            return
        said = f"the part {found} instead of {digest}"
        path.unlink()
    host = urllib.parse.urlsplit(access.base).netloc
    raise ImageUnavailable(
        f"the image {image} cannot be fetched as a whole: {host} answers with {said}",
        hint="try again later",
    )


def fetched(access: Access, image: str, digest: str, path: Path) -> bytes:
    """A small part, such as the configuration; see :func:`fetch_blob`.

    Args:
        access: As the registry let the manifest be had.
        image: Whose part it is, for messages.
        digest: ``sha256:...`` of the part.
        path: Of a file for it; it is not there afterwards.

    Raises:
        ImageUnavailable: It cannot be had.
        OSError: The disk is full.
    """
    fetch_blob(access, image, digest, path)
    with path.open("rb") as file:
        text = file.read(_LARGEST_TEXT)
    path.unlink()
    return text


class _StoppedError(Exception):
    """The registry stopped to answer, or refuses; says what it said.

    Args:
        said: In words.
        status: The number of HTTP's.
    """

    def __init__(self, said: str, status: int = 0) -> None:
        super().__init__(said)
        self.status: Final = status


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Registries send on to where the parts are; but not from an encrypted place to another."""

    def redirect_request(  # noqa: PLR0917 - as the library has it
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https://"):
            raise _StoppedError("an address that is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _append(access: Access, digest: str, file: IO[bytes]) -> None:
    """Add to the file what is missing of the part."""
    begun = file.tell()
    try:
        with _opened(access, digest, begun) as answer:
            if begun and answer.status != _PARTIAL:
                os.ftruncate(file.fileno(), 0)
            count = 0
            while chunk := _read(answer):
                file.write(chunk)
                count += len(chunk)
            expected = str(answer.headers.get("Content-Length"))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _UNSATISFIABLE:
            os.ftruncate(file.fileno(), 0)
        raise _StoppedError(f"{error.code} {error.reason}", error.code) from None
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise _StoppedError(str(getattr(error, "reason", error))) from None
    except http.client.HTTPException as error:
        raise _StoppedError(f"what is no HTTP ({type(error).__name__})") from None
    if expected.isdecimal() and int(expected) != count:
        raise _StoppedError(f"{count} of {expected} bytes")


def _opened(access: Access, digest: str, begun: int) -> Any:  # noqa: ANN401 - urllib has no type
    """The answer with the part, from the byte on with which it is begun."""
    request = urllib.request.Request(f"{access.base}/blobs/{digest}")  # noqa: S310 - http(s)
    request.add_header("User-Agent", "fasthep-flow")
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    if access.authorization is not None:
        # Not sent on to where the registry redirects to.
        request.add_unredirected_header("Authorization", access.authorization)
    handlers: list[Any] = [_Redirects(), urllib.request.HTTPSHandler(context=access.context)]
    return urllib.request.build_opener(*handlers).open(request, timeout=_SILENCE_S)


def _read(answer: Any) -> bytes:  # noqa: ANN401 - urllib's answers have no common type
    try:
        return bytes(answer.read(_CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _StoppedError(f"an end in the middle ({error})") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
