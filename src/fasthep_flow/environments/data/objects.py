"""Data in buckets: ``s3://bucket/key``.

Endpoint, region and credentials are found as Amazon's own tools find them: in the environment
(``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ...) and in ``~/.aws``. Without any, buckets that are
open to everyone are read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import quote

import botocore.exceptions as aws  # type: ignore[import-untyped]
import s3fs  # type: ignore[import-untyped]

from fasthep_flow.environments.data import remote
from fasthep_flow.environments.data.remote import CHUNK, Entry, Facts, Trouble, unreachable
from fasthep_flow.environments.data.sources import Source
from fasthep_flow.environments.data.web import apart

__all__ = ["ObjectStore"]

_ResultT = TypeVar("_ResultT")
_HINT: Final = (
    "credentials are found as Amazon's tools find them: AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws"
)
_ATTEMPTS: Final = 2
"""Of botocore's own for each question; what may pass is tried again by us."""


class ObjectStore:
    """Fetches from S3; see :class:`fasthep_flow.environments.data.remote.Remote`."""

    def look(self, source: Source, *, limit_s: float | None = None) -> Facts:
        """Asks for the object, or whether there are any below it."""

        async def ask(system: s3fs.S3FileSystem) -> Facts:
            return _facts(await system._info(_path(source)))  # noqa: SLF001 - its asynchronous form

        return _asked(ask, limit_s)

    def entries(self, source: Source) -> list[Entry]:
        """Lists what there is below, or what the pattern fits."""

        async def ask(system: s3fs.S3FileSystem) -> list[Entry]:
            path = _path(source)
            if source.may_be_pattern and not await system._exists(path):  # noqa: SLF001 - as above
                first = min(at for sign in "*?[" if (at := path.find(sign)) >= 0)
                before = path[: path.rfind("/", 0, first) + 1]
                found = await system._glob(path, detail=True)  # noqa: SLF001 - as above
            else:
                before = f"{path}/"
                found = await system._find(path, detail=True)  # noqa: SLF001 - as above
            return [
                Entry(name=name.removeprefix(before), url=f"s3://{quote(name)}", facts=_facts(info))
                for name, info in found.items()
                if info["type"] == "file" and not name.endswith("/")
            ]

        return _asked(ask, None)

    def read(
        self, source: Source, known: Facts | None, begin: Callable[[Facts], Callable[[bytes], None]]
    ) -> Facts | None:
        """Asks for the object's facts, and for its content if they are others."""

        async def ask(system: s3fs.S3FileSystem) -> Facts | None:
            path = _path(source)
            facts = _facts(await system._info(path))  # noqa: SLF001 - as above
            if known is not None and facts.validators == known.validators:
                return None
            bucket, key, version = system.split_path(path)
            more = {} if version is None else {"VersionId": version}
            # What is put there meanwhile is another object.
            if etag := facts.validators.get("etag"):
                more["IfMatch"] = etag
            answer = await system._call_s3("get_object", Bucket=bucket, Key=key, **more)  # noqa: SLF001
            take = begin(facts)
            count = 0
            async with answer["Body"] as body:
                while data := await body.read(CHUNK):
                    take(data)
                    count += len(data)
            if facts.size is not None and count != facts.size:
                words = f"the transfer broke off after {count} of {facts.size} bytes"
                raise Trouble(words, may_pass=True)
            return facts

        return _asked(ask, None)


def _path(source: Source) -> str:
    return f"{source.host}/{source.path}".rstrip("/")


def _facts(info: dict[str, Any]) -> Facts:
    if info["type"] == "directory":
        return Facts(is_folder=True)
    validators = {}
    if etag := info.get("ETag"):
        validators["etag"] = str(etag)
    if modified := info.get("LastModified"):
        validators["modified"] = modified.isoformat()
    if (version := info.get("VersionId")) not in {None, "null"}:
        validators["version"] = str(version)
    return Facts(size=info.get("size"), validators=validators, is_sure="etag" in validators)


def _asked(
    ask: Callable[[s3fs.S3FileSystem], Awaitable[_ResultT]],
    limit_s: float | None,
) -> _ResultT:
    async def with_system(*, anonymous: bool) -> _ResultT:
        system = s3fs.S3FileSystem(
            anon=anonymous,
            asynchronous=True,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": remote.CONNECT_S,
                "read_timeout": remote.SILENCE_S,
                "retries": {"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            },
        )
        system.retries = 1
        session = await system.set_session()
        try:
            async with asyncio.timeout(limit_s):
                return await ask(system)
        finally:
            await session.close()

    async def run() -> _ResultT:
        try:
            return await with_system(anonymous=False)
        except aws.NoCredentialsError:
            return await with_system(anonymous=True)

    try:
        return apart(run)
    except (aws.BotoCoreError, aws.ClientError, OSError, ValueError) as error:
        raise _trouble(error, limit_s) from None


def _trouble(error: Exception, limit_s: float | None) -> Trouble:  # noqa: C901, PLR0911 - a table
    cause = error.__cause__ if isinstance(error, OSError) and error.__cause__ else error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "S3"
    host = endpoint.partition("://")[2].rpartition("@")[2].partition("/")[0] or endpoint
    match error:
        case FileNotFoundError():
            return Trouble("there is no such object or bucket", hint="look at both names")
        case PermissionError():
            return Trouble("it may not be read", hint=_HINT)
        case _:
            pass
    match cause:
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.ProfileNotFound():
            return Trouble("it needs credentials", hint=_HINT)
        case aws.ConnectTimeoutError():
            words = f"{host} does not answer within {remote.CONNECT_S:g} s"
            return Trouble(words, hint="try again later", may_pass=True, is_silence=True)
        case aws.SSLError():
            return Trouble(
                f"the certificate of {host} is not trusted",
                hint="set AWS_CA_BUNDLE to a file with the certificates of who signed it",
            )
        case aws.EndpointConnectionError() | aws.ProxyConnectionError():
            return unreachable(host, "no connection to that endpoint")
        case aws.ReadTimeoutError() | TimeoutError():
            words = (
                f"nothing came for {remote.SILENCE_S:g} s"
                if limit_s is None
                else f"{host} does not answer within {limit_s:g} s"
            )
            return Trouble(words, hint="try again later", may_pass=True, is_silence=True)
        case aws.ClientError():
            code = str(cause.response.get("Error", {}).get("Code", "an error"))
            if code in {"PreconditionFailed", "412"}:
                return Trouble("it was changed while it was fetched", may_pass=True)
            return Trouble(f"{host} refuses it ({code})", hint=_HINT)
        case aws.IncompleteReadError() | aws.ResponseStreamingError() | aws.ConnectionClosedError():
            return Trouble("the transfer broke off", may_pass=True, is_silence=True)
        case _:
            return Trouble(f"{host} cannot be asked ({type(cause).__name__})", may_pass=True)
