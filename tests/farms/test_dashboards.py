"""What the pages of a farm's dashboard, and its logs, show to whoever can reach them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from html import unescape
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import ProxyHandler, build_opener

from tests.farms.batch import BatchSystem, FarmSite, held
from tests.faults.conftest import said_by, shell

VALUE = "hunter2-0n-n0-farm"
_START = ("/status", "/info/main/workers.html", "/info/main/logs.html", "/json/index.html")
_MORE = ("/json/identity.json", "/json/counts.json", "/metrics", "/tasks", "/workers", "/graph")


def _link(driver: subprocess.Popen[str]) -> str:
    """Where the dashboard is, as the user is told."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if (found := re.search(r"^dashboard of dask::\w+: (http://\S+)", line)) is not None:
            return found[1]
    raise AssertionError(driver.communicate())


def _pages(link: str) -> Iterator[tuple[str, str]]:
    """Every page that can be reached from the dashboard's, with its text."""
    opener = build_opener(ProxyHandler({}))
    host = urlsplit(link).netloc
    waiting = [urljoin(link, path) for path in (*_START, *_MORE)]
    seen = set()
    while waiting:
        page = waiting.pop().partition("#")[0]
        if page in seen or urlsplit(page).netloc != host or "/statics/" in page:
            continue
        seen.add(page)
        try:
            with opener.open(page, timeout=20) as reply:
                text = reply.read().decode(errors="replace")
        except HTTPError as error:
            if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            # Not every link of Dask's leads somewhere.
            continue
        yield urlsplit(page).path, text
        targets = re.findall(r"""(?:href|src)=["']([^"']+)["']""", text)
        waiting.extend(urljoin(page, unescape(target)) for target in targets)


def _texts(folder: Path) -> dict[str, str]:
    """All that lies in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_text(errors="replace") for path in files}


def test_no_page_and_no_log_shows_the_value_of_a_variable(
    batch: BatchSystem, site: FarmSite
) -> None:
    resources = {"memory": "50Mi"}
    environment = {"variables": {"TOKEN": None}, "resources": resources}
    site.write_for(
        batch,
        shell("fails", 'test -n "$TOKEN"; exit 3', needs=[], environment=environment),
        held("reader", environment={"variables": {"TOKEN": None}}),
    )
    driver = site.start(TOKEN=VALUE)
    link = _link(driver)
    site.await_start(driver, "reader")
    pages = dict(_pages(link))
    # Of the worker, its log and the task that runs on it, too.
    for kind in ("/info/worker/", "/info/logs/", "/info/task/", "/json/"):
        assert any(path.startswith(kind) for path in pages), sorted(pages)
    assert any("reader" in text for text in pages.values())
    assert [path for path, text in pages.items() if VALUE in text] == []
    site.release()
    said = said_by(driver)
    assert said.code == 1, said.both
    assert site.result("fails").exit_code == 3
    assert VALUE not in said.both
    texts = _texts(site.work)
    assert any("distributed.worker" in text for text in texts.values()), "no worker's log"
    assert [path for path, text in texts.items() if VALUE in text] == []
