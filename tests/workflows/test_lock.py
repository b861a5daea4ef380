"""Lock, pull, run without a network: whole runs, and what their tasks saw."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ENGINES, REGISTRY
from tests.environments.software.made import PASSWORD, made_wheel, serving
from tests.faults.conftest import Site, said_by, shell
from tests.workflows.own_registry import OwnRegistry, push

_WITH_PYTHON = ("podman", "apptainer")
SOME = [
    pytest.param(name, marks=getattr(pytest.mark, name))
    for name in ("podman", "docker", "apptainer", "charliecloud")
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder for a run, with a cache of its own."""
    made = Site(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


class DataServer:
    """Serves a folder until it is stopped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        handler = partial(_Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataServer]:
    server = DataServer(tmp_path / "served")
    (server.folder / "events.txt").write_text("events\n")
    yield server
    server.stop()


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Iterator[OwnRegistry]:
    """A registry that every engine of the site takes at its word."""
    started = OwnRegistry(tmp_path / "registry")
    conf = site.root / ".config" / "containers" / "registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f'[[registry]]\nlocation = "{started.host}"\ninsecure = true\n')
    site.variables |= {"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(site.root)}
    yield started
    started.stop()


@contextlib.contextmanager
def removed_after(runtime: str, *images: str) -> Iterator[None]:
    """Leave nothing of the images in an engine's own store."""
    try:
        yield
    finally:
        if runtime in ENGINES:
            argv = [runtime, "rmi", "--force", *images]
            subprocess.run(argv, capture_output=True, check=False)


def remove(runtime: str, *images: str) -> None:
    if runtime in ENGINES:
        for image in images:
            # By its id it may be in the store without a name.
            subprocess.run([runtime, "rmi", "--force", image], capture_output=True, check=False)


def asks(name: str, image: str, runtime: str, **more: Any) -> dict[str, Any]:
    """A task that prints what its image says."""
    described = {"name": image, **{key: more.pop(key) for key in ("pull",) if key in more}}
    environment = {"image": described, "runtime": runtime, **more}
    environment["image"]["runtime"] = environment.pop("runtime")
    return shell(name, "cat /said", environment=environment)


def output(site: Site, name: str) -> str:
    return (site.attempt(name) / "stdout.log").read_text()


@pytest.fixture
def repository() -> str:
    """One of our own in the shared registry."""
    return f"lock/{uuid.uuid4().hex[:12]}"


def test_a_tag_that_moves_is_followed_and_told_or_refused(
    site: Site, container_runtime: str, repository: str
) -> None:
    image = f"{REGISTRY}/{repository}:1"
    first = push(REGISTRY, repository, "1", "the first")
    with removed_after(container_runtime, image, f"{REGISTRY}/{repository}@{first}"):
        site.write(asks("ask", image, container_runtime, pull="always"))
        locked = site.run("lock")
        assert locked.code == 0, locked
        assert f"added    image {image} {first}" in locked.out
        assert site.run().code == 0
        assert output(site, "ask") == "the first\n"
        second = push(REGISTRY, repository, "1", f"the second {uuid.uuid4()}")
        followed = site.run()
        assert followed.code == 0, followed
        assert output(site, "ask").startswith("the second")
        told = f"warning: image {image} is now {second}, workflow.lock has {first}"
        assert told in followed.out.splitlines()
        (site.work / "output").rename(site.root / "output-before")
        refused = site.run("run", "--locked")
        assert refused.code == 4, refused
        assert first in refused.err
        assert second in refused.err
        assert "fasthep-flow lock" in refused.err
        assert not (site.work / "output").exists()
        again = site.run("lock")
        assert f"changed  image {image} {first} -> {second}" in again.out
        assert site.run("run", "--locked").code == 0
        assert output(site, "ask").startswith("the second")
        assert site.result("ask").image == f"{image}@{second}"
        assert site.result("ask").image_digest == second
        remove(container_runtime, f"{REGISTRY}/{repository}@{second}")


@pytest.mark.parametrize("container_runtime", SOME[::2])
def test_a_locked_run_uses_the_locked_bytes_though_the_tag_here_is_older(
    site: Site, container_runtime: str, repository: str
) -> None:
    image = f"{REGISTRY}/{repository}:1"
    first = push(REGISTRY, repository, "1", f"old {uuid.uuid4()}")
    with removed_after(container_runtime, image, f"{REGISTRY}/{repository}@{first}"):
        site.write(asks("ask", image, container_runtime))
        assert site.run().code == 0
        second = push(REGISTRY, repository, "1", f"new {uuid.uuid4()}")
        assert site.run("lock").code == 0
        # What is here is run as ever, and told.
        plain = site.run()
        assert output(site, "ask").startswith("old")
        assert f"image {image} is now {first}, workflow.lock has {second}" in plain.out
        locked = site.run("run", "--locked")
        assert locked.code == 0, locked
        assert output(site, "ask").startswith("new")
        remove(container_runtime, f"{REGISTRY}/{repository}@{second}")


def test_pulled_and_locked_it_runs_when_registry_and_data_server_are_gone(
    site: Site, container_runtime: str, own: OwnRegistry, data: DataServer
) -> None:
    image = f"{own.host}/lock/{uuid.uuid4().hex[:8]}:1"
    repository = image.partition("/")[2].partition(":")[0]
    digest = push(own.host, repository, "1", f"pulled {uuid.uuid4()}")
    task = asks(
        "ask",
        image,
        container_runtime,
        extra_data=[{"source": f"{data.address}/events.txt"}],
    )
    task["kwargs"]["arguments"][1] = "cat /said; cat $FASTHEP_DATA/events.txt"
    host = shell(
        "host",
        "cat $FASTHEP_DATA/events.txt",
        environment={"extra_data": [{"source": f"{data.address}/events.txt"}]},
    )
    site.write(task, host)
    with removed_after(container_runtime, image, f"{own.host}/{repository}@{digest}"):
        assert site.run("lock").code == 0
        pulled = site.run("pull", "--locked")
        assert pulled.code == 0, pulled
        rows = [line.split() for line in pulled.out.splitlines()]
        assert ["image", "fetched"] in [row[:2] for row in rows]
        assert digest[7:19] in pulled.out
        again = site.run("pull", "--locked")
        assert "0 fetched" in again.out, again
        own.stop()
        data.stop()
        said = site.run("run", "--offline", "--locked")
        assert said.code == 0, said
        assert output(site, "ask").startswith("pulled")
        assert output(site, "ask").endswith("events\n")
        assert output(site, "host") == "events\n"
        assert site.run("check", "--offline", "--locked").code == 0
        # Without the word, whether a tag has moved must be asked, and nobody answers.
        online = site.run("run", "--locked")
        assert online.code == 4, online
        assert "--offline" in online.err


def test_a_plain_run_asks_nobody_for_what_is_here(
    site: Site, container_runtime: str, own: OwnRegistry
) -> None:
    repository = f"lock/{uuid.uuid4().hex[:8]}"
    image = f"{own.host}/{repository}:1"
    push(own.host, repository, "1", f"here {uuid.uuid4()}")
    site.write(asks("ask", image, container_runtime))
    with removed_after(container_runtime, image):
        assert site.run("pull").code == 0
        asked = own.asked("")
        assert site.run().code == 0
        assert site.run("run", "--offline").code == 0
        assert own.asked("") == asked
        assert output(site, "ask").startswith("here")


def test_a_bundle_is_carried_to_a_machine_that_has_nothing(
    site: Site, container_runtime: str, own: OwnRegistry, data: DataServer
) -> None:
    repository = f"lock/{uuid.uuid4().hex[:8]}"
    image = f"{own.host}/{repository}:1"
    digest = push(own.host, repository, "1", f"carried {uuid.uuid4()}")
    task = asks(
        "ask", image, container_runtime, extra_data=[{"source": f"{data.address}/events.txt"}]
    )
    task["kwargs"]["arguments"][1] = "cat /said; cat $FASTHEP_DATA/events.txt"
    site.write(task)
    bundle = site.root / "bundle"
    with removed_after(container_runtime, image, f"{own.host}/{repository}@{digest}"):
        assert site.run("lock").code == 0
        said = site.run("pull", "--to", str(bundle), "--locked")
        assert said.code == 0, said
        assert "run --offline --locked" in said.out
        before = sorted(path for path in bundle.rglob("*") if path.is_file())
        asked = own.asked("blobs/")
        assert site.run("pull", "--to", str(bundle), "--locked").code == 0
        assert own.asked("blobs/") == asked
        assert sorted(path for path in bundle.rglob("*") if path.is_file()) == before
        own.stop()
        data.stop()
        forget(container_runtime, bundle, f"{own.host}/{repository}@{digest}")
        there = site.root / "elsewhere"
        subprocess.run(["cp", "-r", str(bundle), str(there)], check=True)
        shutil.rmtree(bundle)
        site.cache = there
        ran = site.run("run", "--offline", "--locked")
        assert ran.code == 0, ran
        assert output(site, "ask").startswith("carried")
        assert site.result("ask").image_digest == digest
        forget(container_runtime, there, image)


def forget(runtime: str, bundle: Path, *images: str) -> None:
    """Take from the engine's store what is in a bundle, by its identity too."""
    remove(runtime, *images)
    for path in bundle.glob("images/*/*.json"):
        remove(runtime, json.loads(path.read_text())["identity"])


@pytest.mark.parametrize("runtime", ["native", *SOME])
def test_without_any_network_what_is_here_runs(
    site: Site, runtime: str, repository: str, data: DataServer
) -> None:
    events = [{"source": f"{data.address}/events.txt"}]
    task = shell(
        "ask",
        "cat $FASTHEP_DATA/events.txt /proc/net/route",
        environment={"extra_data": events},
    )
    image = f"{REGISTRY}/{repository}:1"
    if runtime != "native":
        push(REGISTRY, repository, "1", f"no network {uuid.uuid4()}")
        task["environment"] |= {"image": {"name": image, "runtime": runtime}}
    site.write(task)
    with removed_after(runtime, image):
        assert site.run("lock").code == 0
        assert site.run("pull").code == 0
        for options in (["--offline"], ["--offline", "--locked"]):
            driver = subprocess.Popen(
                [*_NO_NETWORK, sys.executable, "-m", "fasthep_flow", "run", *options],
                cwd=site.work,
                env=site.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            said = said_by(driver)
            assert said.code == 0, said
            seen = output(site, "ask").splitlines()
            assert seen[0] == "events"
            # Docker's daemon, which was asked by its socket, stays where it is.
            routes = [line for line in seen[1:] if not line.startswith("Iface")]
            assert runtime == "docker" or not routes


_NO_NETWORK = ("unshare", "--net", "--")


@pytest.mark.parametrize(
    "runtime",
    ["native", *(pytest.param(one, marks=getattr(pytest.mark, one)) for one in _WITH_PYTHON)],
)
def test_locked_distributions_are_installed_and_carried(
    site: Site, runtime: str, python_image: str, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    made_wheel(wheels, "tiny", "1.0")
    task: dict[str, Any] = {
        "name": "ask",
        "type": "fasthep_flow.operators.BashOperator",
        "kwargs": {"bash_command": "python -c 'import tiny; print(tiny.version)'"},
        "environment": {"python": {"requirements": ["tiny"]}},
    }
    if runtime != "native":
        task["environment"]["image"] = {"name": python_image, "runtime": runtime}
    site.write(task)
    site.variables["UV_CACHE_DIR"] = str(tmp_path / "uv")
    with serving(wheels) as index:
        site.variables["UV_DEFAULT_INDEX"] = index.url
        locked = site.run("lock")
        assert locked.code == 0, locked
        text = (site.work / "workflow.lock").read_text()
        assert "- name: tiny==1.0" in text.replace('"', "")
        assert PASSWORD not in text + locked.both
        made_wheel(wheels, "tiny", "2.0")
        # What was resolved before is a newer one now.
        site.variables["UV_CACHE_DIR"] = str(tmp_path / "uv-later")
        assert site.run("run", "--locked").code == 0
        assert output(site, "ask") == "1.0\n"
        changed = site.run("lock", "--check")
        assert changed.code == 4
        assert "changed  Python distribution tiny==1.0 -> tiny==2.0" in changed.out
        bundle = tmp_path / "bundle"
        assert site.run("pull", "--to", str(bundle), "--locked").code == 0
    there = tmp_path / "there"
    subprocess.run(["cp", "-r", str(bundle), str(there)], check=True)
    # What was made is not what was carried: it is made again of what uv had fetched.
    for path in there.glob("software/python/*"):
        shutil.rmtree(path)
    for folder in (bundle, *tmp_path.glob("uv*")):
        folder.rename(folder.with_name(f"away-{folder.name}"))
    site.cache = there
    ran = site.run("run", "--offline", "--locked")
    assert ran.code == 0, ran
    assert output(site, "ask") == "1.0\n"
