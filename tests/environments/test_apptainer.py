"""Containers of apptainer: what is special about them; the rest is in the conformance suite."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fasthep_flow.environments import ContainerSpec, Mount, ResolvedImage
from fasthep_flow.environments.apptainer import APPTAINER, ApptainerRuntime
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.environments.containers.sif_container import (
    ApptainerFacts,
    client_environment,
    exec_argv,
)
from fasthep_flow.environments.limits.cgroups import GROUPS, ControlGroups
from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Command, Image, Invocation, Resources
from fasthep_flow.testing.station import Station, wait_until

FACTS = ApptainerFacts(program="apptainer", version="1.4.5")
DUMP = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
TELL = "import os, sys; print(sorted(os.sched_getaffinity(0)))"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def station(image: Path, folder: Path, runtime: ApptainerRuntime = APPTAINER) -> Station:
    """A folder, and a SIF file or an unpacked folder as it is."""
    directory = folder / "a:b, c"
    directory.mkdir()
    resolved = ResolvedImage(name=str(image), reference=str(image), digest="sha256:0")
    return Station(runtime, resolved, directory)


@pytest.fixture
def busybox(sif_file: Path, tmp_path: Path) -> Station:
    return station(sif_file, tmp_path)


@pytest.fixture
def python(python_sif: Path, tmp_path: Path) -> Station:
    return station(python_sif, tmp_path)


def start(place: Station, container: Any, invocation: Invocation) -> Any:
    """Start it, and return once it has said so."""
    process = place.start(container, invocation, {})
    log = place.attempt / "stdout.log"
    wait_until(lambda: b"up" in log.read_bytes(), "it did not start")
    return process


def processes_with(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in process.cmdline():
                found.append(process)
    return found


def session_of(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return 0


def test_the_command_line_closes_the_container_off() -> None:
    spec = ContainerSpec(
        name="one",
        image=ResolvedImage(name="a", reference="/cache/a:b, c.sif", digest="sha256:0"),
        mounts=(
            Mount(source='/a, "b":c', target="/work\nhere"),
            Mount(source="/data", target="/data", read_only=True),
        ),
        network="none",
        options=("--nv", "--bind", "/eos"),
    )
    argv = exec_argv(FACTS, spec, ["/bin/sh", "-s"], scratch="/s, x")
    assert argv[:3] == ["apptainer", "--quiet", "exec"]
    assert argv[-6:] == ["--nv", "--bind", "/eos", "/cache/a:b, c.sif", "/bin/sh", "-s"]
    assert {"--cleanenv", "--no-eval", "--contain", "--no-home", "--pid", "--ipc"} < set(argv)
    assert argv[argv.index("--net") :][:3] == ["--net", "--network", "none"]
    mounts = [argv[index + 1] for index, word in enumerate(argv) if word == "--mount"]
    # What the host has of the files that apptainer would let root write to.
    files = [path for path in ("/etc/hosts", "/etc/localtime") if os.path.exists(path)]  # noqa: PTH110
    assert argv[argv.index("--no-mount") + 1] == "/etc/hosts,/etc/localtime"
    assert mounts == [
        *(f"type=bind,source={path},target={path},readonly" for path in files),
        'type=bind,"source=/s, x/tmp",target=/tmp',
        'type=bind,"source=/s, x/var_tmp",target=/var/tmp',
        'type=bind,"source=/a, ""b"":c","target=/work\nhere"',
        "type=bind,source=/data,target=/data,readonly",
    ]
    # Variables would be seen by everyone on the machine.
    assert not [word for word in argv if word.startswith("--env")]


def test_what_it_needs_here_is_said_first() -> None:
    facts = ApptainerFacts(program="singularity", version="4.1.0", options=("--userns",))
    spec = ContainerSpec(
        name="one", image=ResolvedImage(name="a", reference="/a.sif", digest="sha256:0")
    )
    argv = exec_argv(facts, spec, ["/bin/sh"], scratch="/s")
    assert argv[:4] == ["singularity", "--quiet", "exec", "--userns"]
    assert "--net" not in argv


def test_the_hosts_settings_of_apptainer_are_kept_from_it() -> None:
    host = {
        "PATH": "/bin",
        "HOME": "/home/physicist",
        "APPTAINERENV_X": "1",
        "APPTAINER_BIND": "/eos",
        "APPTAINER_TMPDIR": "/big",
        "APPTAINER_NV": "1",
        "SINGULARITYENV_Y": "1",
        "SINGULARITY_BINDPATH": "/eos",
        "SINGULARITY_CACHEDIR": "/big",
        "http_proxy": "http://proxy.invalid",
        "NO_PROXY": "localhost",
        "TERM": "xterm",
    }
    kept = {"PATH", "HOME", "APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR"}
    assert set(client_environment(host)) == kept
    # A pull goes through the proxies, and starts nothing.
    assert set(client_environment(host, fetching=True)) == kept | {
        "http_proxy",
        "NO_PROXY",
        "TERM",
    }


@pytest.mark.apptainer
def test_no_variable_of_the_host_is_seen(python: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        *("APPTAINERENV_LEAK_A", "SINGULARITYENV_LEAK_B", "APPTAINERENV_PREPEND_PATH"),
        *("LEAK_C", "PYTHONPATH", "http_proxy", "HTTPS_PROXY", "NO_PROXY", "TERM", "LC_ALL"),
    )
    for name in names:
        monkeypatch.setenv(name, "/leaked")
    monkeypatch.setenv("APPTAINER_BIND", "/etc:/leaked")
    monkeypatch.setenv("APPTAINER_ENV", "LEAK_D=/leaked")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leaked")
    assert python.run("python3", "-c", DUMP, variables={"MINE": "$HOME `x` $(y)"}).exit_code == 0
    seen = json.loads(python.stdout())
    assert seen["MINE"] == "$HOME `x` $(y)"
    assert seen["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert not [name for name, value in seen.items() if "leaked" in value or "LEAK" in name]
    assert python.run("/bin/sh", "-c", "[ ! -e /leaked ]").exit_code == 0


def oci_layout_with(source: Path, target: Path, config: dict[str, Any]) -> None:
    """The image of an OCI layout, with another configuration."""
    shutil.copytree(source, target)
    blobs = target / "blobs" / "sha256"

    def put(value: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    index = json.loads((target / "index.json").read_text())
    entry = index["manifests"][0]
    manifest = json.loads((blobs / entry["digest"].partition(":")[2]).read_text())
    settings = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_text())
    settings["config"].update(config)
    manifest["config"].update(put(settings))
    entry.update(put(manifest))
    (target / "index.json").write_text(json.dumps(index))


@pytest.mark.apptainer
def test_the_images_own_variables_are_seen_and_its_entrypoint_is_not_run(
    oci_folder: Path, tmp_path: Path, cache: Path
) -> None:
    own = {"Env": ["PATH=/bin:/own", "OWN=a 'b'", "LANG=de_DE.UTF-8", "PYTHONPATH=/own"]}
    oci_layout_with(oci_folder, tmp_path / "oci", {**own, "Entrypoint": ["/bin/false"]})
    image = APPTAINER.resolve(Image(name=f"oci:{tmp_path}/oci", form="oci"))
    assert image.reference.startswith(str(cache))
    place = Station(APPTAINER, image, tmp_path)
    script = 'echo "$PATH|$OWN|$LANG|$PYTHONPATH"'
    assert place.run("/bin/sh", "-c", script, variables={"PYTHONPATH": "mine"}).exit_code == 0
    path, _, rest = place.stdout().decode().partition("|")
    # Apptainer adds the usual folders that the image's PATH lacks.
    assert path.startswith("/bin:/own:")
    assert rest == "a 'b'|de_DE.UTF-8|mine\n"


@pytest.mark.apptainer
def test_no_file_of_the_hosts_is_seen(busybox: Station) -> None:
    home, mark = Path.home(), Path("/tmp", f"fasthep-mark-{os.getpid()}")  # noqa: S108
    mark.touch()
    try:
        script = 'ls -a "$1" /tmp /var/tmp /work 2>/dev/null; pwd'
        assert busybox.run("/bin/sh", "-c", script, "sh", str(home)).exit_code == 0
    finally:
        mark.unlink()
    said = busybox.stdout().decode()
    assert mark.name not in said
    for entry in home.iterdir():
        assert entry.name not in said.split()


def options_of(mountinfo: bytes, source: str) -> list[str]:
    """How the mounts of a file are seen inside, from the lowest on: see proc(5)."""
    rows = [line.split() for line in mountinfo.decode().splitlines()]
    return [row[5].partition(",")[0] for row in rows if row[3] == source]


@pytest.mark.apptainer
@pytest.mark.parametrize("path", ["/etc/hosts", "/etc/localtime"])
@pytest.mark.parametrize("link", [None, "/usr/share/zoneinfo/Nowhere"])
def test_files_of_the_hosts_are_read_only(
    path: str, link: str | None, busybox_root: Path, tmp_path: Path
) -> None:
    if not Path(path).is_file():
        pytest.skip(f"this machine has no {path}")
    shutil.copytree(busybox_root, tmp_path / "root", symlinks=True)
    (tmp_path / "root/etc").mkdir(exist_ok=True)
    if link is not None:
        (tmp_path / f"root{path}").unlink(missing_ok=True)
        (tmp_path / f"root{path}").symlink_to(link)
    place = station(tmp_path / "root", tmp_path)
    # Nothing is tried on the file itself: it is the machine's.
    script = 'cat /proc/self/mountinfo; cat "$1" >&2'
    assert place.run("/bin/sh", "-c", script, "sh", path).exit_code == 0
    inside = options_of(place.stdout(), str(Path(path).resolve()))
    assert inside == ["ro"]
    assert place.stderr() == Path(path).read_bytes()


@pytest.mark.apptainer
def test_names_of_the_host_are_known(python: Station) -> None:
    names = [
        line.split()[1]
        for line in Path("/etc/hosts").read_text(encoding="utf-8").splitlines()
        if line.startswith("127.") and len(line.split()) > 1
    ]
    if not names:
        pytest.skip("/etc/hosts has no name of this machine's")
    code = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
    assert python.run("python3", "-c", code, names[0]).exit_code == 0
    assert python.stdout().startswith(b"127.")


@pytest.mark.apptainer
def test_tmp_has_room(busybox: Station) -> None:
    script = "for f in /tmp /var/tmp; do head -c 200000000 /dev/zero >$f/x && rm $f/x || exit; done"
    assert busybox.run("/bin/sh", "-c", script).exit_code == 0
    assert busybox.stderr() == b""


@pytest.mark.apptainer
def test_an_unpacked_folder_runs_too(busybox_root: Path, tmp_path: Path) -> None:
    place = station(busybox_root, tmp_path)
    assert place.run("/bin/sh", "-c", "echo hello; touch /x").exit_code == 1
    assert place.stdout() == b"hello\n"
    assert b"Read-only file system" in place.stderr()


@pytest.mark.apptainer
def test_an_image_without_a_shell_is_named(tmp_path: Path, noshell_image: str) -> None:
    image = APPTAINER.resolve(Image(name=noshell_image))
    place = Station(APPTAINER, image, tmp_path)
    outcome = place.run("/bin/echo", "hello")
    assert outcome.failure is not None
    assert outcome.failure.kind == "not_started"
    assert outcome.failure.message == f"the image {noshell_image} has no /bin/sh"
    outcome, _ = place.call("json:dumps", 1)
    assert outcome.failure is not None
    assert outcome.failure.message == f"the image {noshell_image} has no python3"


@pytest.mark.apptainer
def test_an_image_with_python_alone_serves_callables(pythononly_image: str, tmp_path: Path) -> None:
    place = Station(APPTAINER, APPTAINER.resolve(Image(name=pythononly_image)), tmp_path)
    outcome, reply = place.call("json:dumps", [1])
    assert outcome.exit_code == 0
    assert reply is not None
    assert reply.value == "[1]"


@pytest.mark.apptainer
def test_a_damaged_image_says_what_is_wrong(sif_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.sif"
    cut.write_bytes(sif_file.read_bytes()[:100_000])
    outcome = station(cut, tmp_path).run("/bin/true")
    assert outcome.failure is not None
    assert outcome.failure.kind == "environment"
    assert "squashfs" in outcome.failure.message


@pytest.mark.apptainer
def test_a_container_that_is_killed_from_outside_is_named(busybox: Station) -> None:
    with busybox.container() as container:
        command = Command(argv=("/bin/sh", "-c", "echo up; sleep 600"))
        process = start(busybox, container, command)
        os.kill(process.pid, signal.SIGKILL)
        outcome = process.wait()
    assert outcome.failure is not None
    assert outcome.failure.message == "the container was killed from outside"


@pytest.mark.apptainer
@pytest.mark.parametrize("how", ["killed", "abandoned", "client killed"])
def test_nothing_is_left_of_it(how: str, busybox: Station) -> None:
    mark = f"60{os.getpid()}"
    # In a session of its own, and of no parent that waits for it.
    script = f"(setsid sleep {mark} &); echo up; sleep {mark}"
    with busybox.container() as container:
        process = start(busybox, container, Command(argv=("/bin/sh", "-c", script)))
        assert len(processes_with(mark)) == 2
        client = process.pid
        if how == "killed":
            process.kill()
            assert process.wait().signal == signal.SIGKILL
        elif how == "client killed":
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert processes_with(mark) == []
    # What mounts the image is in the session of its client, which nothing else is in.
    left = [psutil.Process(one) for one in psutil.pids() if session_of(one) == client]
    # Whoever adopted them may not have looked after them yet.
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.apptainer
def test_it_ends_with_the_process_that_started_it(sif_file: Path, tmp_path: Path) -> None:
    mark = f"61{os.getpid()}"
    script = f"""
import sys, time
from pathlib import Path
from fasthep_flow.environments import ResolvedImage
from fasthep_flow.environments.apptainer import APPTAINER
from fasthep_flow.testing.station import Station
image = ResolvedImage(name="a", reference={str(sif_file)!r}, digest="sha256:0")
place = Station(APPTAINER, image, Path({str(tmp_path)!r}))
with place.container() as container:
    from fasthep_flow.model import Command
    place.start(container, Command(argv=("/bin/sh", "-c", "echo {mark}")), {{}}).wait()
    print(container.pid if hasattr(container, "pid") else 0, flush=True)
    time.sleep(600)
"""
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        client = psutil.Process(int(driver.stdout.readline()))
        assert client.is_running()
        driver.kill()
    wait_until(lambda: not client.is_running(), "the container lives on")


@pytest.mark.apptainer
@pytest.mark.parametrize(
    ("script", "options", "kept"),
    [
        ("echo hello >/tmp/x", (), True),
        ("touch /dev/x", (), False),
        ("echo x >/dev/shm/x", (), False),
        ("echo me:x:1:1::/: >>/etc/passwd", (), False),
        ("touch /x", ("--writable-tmpfs",), False),
        ("true", ("--scratch", "/scratch"), False),
        ("true", ("--compat",), False),
        ("true", ("--no-umask",), False),
    ],
)
def test_one_that_is_not_as_it_was_is_not_kept(
    script: str, options: tuple[str, ...], kept: bool, sif_file: Path, tmp_path: Path
) -> None:
    place = station(sif_file, tmp_path)
    spec = ContainerSpec(
        name="one",
        image=place.image,
        mounts=place.spec().mounts,
        options=options,
    )
    container = APPTAINER.keep(spec)
    try:
        command = Command(argv=("/bin/sh", "-c", script))
        outcome = place.start(container, command, {}).wait()
        assert outcome.exit_code == 0, place.stderr()
        assert container.settle() is kept
    finally:
        container.close()


@pytest.mark.apptainer
def test_a_kept_one_costs_a_fork(busybox: Station) -> None:
    container: ServedContainer = APPTAINER.keep(busybox.spec())
    try:
        pids = set()
        for index in range(5):
            command = Command(argv=("/bin/sh", "-c", f"echo {index}; cat /tmp/x; echo >/tmp/x"))
            process = busybox.start(container, command, {})
            pids.add(process.pid)
            assert process.wait().exit_code == 0
            assert container.settle()
        assert len(pids) == 1
    finally:
        container.close()
    assert busybox.stdout() == b"0\n1\n2\n3\n4\n"


NO_GROUPS = ControlGroups(proc="/nowhere")


@pytest.mark.apptainer
def test_without_control_groups_it_counts_from_outside(python_sif: Path, tmp_path: Path) -> None:
    runtime = ApptainerRuntime(groups=NO_GROUPS)
    resources = Resources(cpus=1, memory=2**30)
    assert runtime.check(resources) == {"cpus": "affinity", "memory": "measured"}
    with pytest.raises(LimitUnenforceable, match="bound to whole processors"):
        runtime.check(Resources(cpus=0.5))
    place = station(python_sif, tmp_path, runtime)
    assert place.run("python3", "-c", TELL, resources=resources).exit_code == 0
    assert len(json.loads(place.stdout())) == 1
    # One height after the other, and what both of them took.
    hold = "import time; x = b'x' * {size}\nwhile time.process_time() < 1: pass"
    container = runtime.keep(place.spec())
    try:
        peaks = []
        for size in (200_000_000, 50_000_000):
            command = Command(argv=("python3", "-c", hold.format(size=size)))
            outcome = place.start(container, command, {}).wait()
            assert outcome.peak_memory is not None
            assert outcome.cpu_s is not None
            assert 0.9 <= outcome.cpu_s < 5
            peaks.append(outcome.peak_memory)
            assert container.settle()
    finally:
        container.close()
    assert 200_000_000 < peaks[0] < 300_000_000
    assert 50_000_000 < peaks[1] < 150_000_000


@pytest.mark.apptainer
@pytest.mark.skipif("memory" not in GROUPS.available(), reason="no control groups to be had")
def test_a_job_without_a_limit_is_counted_too(python: Station) -> None:
    outcome = python.run("python3", "-c", "x = b'x' * 200_000_000")
    assert outcome.peak_memory is not None
    assert 200_000_000 < outcome.peak_memory < 300_000_000


@pytest.mark.apptainer
@pytest.mark.skipif("memory" not in GROUPS.available(), reason="no control groups to be had")
def test_memory_that_ran_out_is_known_to_its_height(python: Station) -> None:
    limit = 128 * 2**20
    outcome = python.run("python3", "-c", "x = b'x' * 10**9", resources=Resources(memory=limit))
    assert outcome.out_of_memory
    assert outcome.peak_memory == limit


@pytest.mark.apptainer
@pytest.mark.skipif("memory" not in GROUPS.available(), reason="no control groups to be had")
def test_a_task_that_kills_all_around_it_did_not_run_out_of_memory(busybox: Station) -> None:
    limit = Resources(memory=256 * 2**20)
    outcome = busybox.run("/bin/sh", "-c", "kill -9 -1; sleep 600", resources=limit)
    assert not outcome.out_of_memory
    assert outcome.failure is not None
    assert outcome.failure.message == "the container was killed from outside"
    assert outcome.failure.hint is None


@pytest.mark.apptainer
def test_what_apptainer_itself_needs_is_not_to_be_had_for_less() -> None:
    with pytest.raises(LimitUnenforceable, match="8Mi is too small") as caught:
        APPTAINER.check(Resources(memory=8 * 2**20))
    assert caught.value.hint == "ask for 32Mi at the least"


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return script


def test_where_there_is_none_it_says_so() -> None:
    runtime = ApptainerRuntime(programs=("no-apptainer", "no-singularity"))
    assert runtime.probe() == "no-apptainer is not installed"


@pytest.mark.apptainer
def test_one_that_starts_no_container_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[ "$1" = --version ] && echo apptainer version 1 || { echo "FATAL: no!" >&2; exit 255; }'
    )
    program(tmp_path / "bin", "apptainer", text)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    obstacle = ApptainerRuntime().probe()
    assert obstacle == "apptainer cannot start a container: FATAL: no!"


@pytest.mark.apptainer
def test_singularity_is_its_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("apptainer")
    program(tmp_path / "bin", "singularity", f'exec {real} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    runtime = ApptainerRuntime(programs=("no-apptainer", "singularity"))
    assert runtime.probe() is None
    assert runtime.facts().program == "singularity"
    assert runtime.facts().version == APPTAINER.facts().version


@pytest.mark.apptainer
def test_a_network_that_cannot_be_kept_away_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("apptainer")
    text = f'case "$*" in *--net*) echo "FATAL: no CNI" >&2; exit 255;; esac; exec {real} "$@"'
    program(tmp_path / "bin", "apptainer", text)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    runtime = ApptainerRuntime()
    assert runtime.check(Resources()) == {}
    with pytest.raises(LimitUnenforceable, match=r"keep the network away .* no CNI"):
        runtime.check(Resources(), "none")


@pytest.mark.apptainer
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_needs_no_more(sif_file: Path, tmp_path: Path) -> None:
    for folder in ("tmp", "var_tmp", "work"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(0o777)
    for above in (tmp_path, *tmp_path.parents):
        if str(above).startswith("/tmp/pytest"):  # noqa: S108
            above.chmod(0o755)
    work = str(tmp_path / "work")
    spec = ContainerSpec(
        name="one",
        image=ResolvedImage(name="a", reference=str(sif_file), digest="sha256:0"),
        mounts=(Mount(source=work, target=work),),
    )
    argv = exec_argv(FACTS, spec, ["/bin/sh"], scratch=str(tmp_path))
    done = subprocess.run(
        argv,
        input=f"id -u; touch {work}/made",
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stdout) == (0, "65534\n"), done.stderr
    assert (tmp_path / "work" / "made").stat().st_uid == 65534


@pytest.mark.apptainer
@pytest.mark.registry
def test_threads_that_want_one_image_get_it_once(busybox_image: str, cache: Path) -> None:
    runtime, found = ApptainerRuntime(), []

    def work() -> None:
        found.append(runtime.resolve(Image(name=busybox_image)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(str, found))) == 1
    assert len(list(cache.glob("images/*/*.sif"))) == 1
