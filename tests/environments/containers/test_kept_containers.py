"""Kept containers of the real engines: one for job after job, and nothing of one in the next."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tests.waiting import wait_until

from fasthep_flow.environments import (
    ContainerSpec,
    Mount,
    Outcome,
    Process,
    ResolvedImage,
    find_runtime,
)
from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.interpreter import read_reply
from fasthep_flow.environments.oci import OciRuntime
from fasthep_flow.model import Call, Command, Image, Invocation, Resources
from fasthep_flow.testing.runtimes import NASTY_VARIABLES

MEBI = 2**20
# The kernel gives the number of a namespace that is gone to another one.
WHICH = "cut -d ' ' -f 22 /proc/1/stat"
HOG = ("python3", "-c", "import sys; print(len(b'x' * int(sys.argv[1])))")
DRIVER = """
import sys
from pathlib import Path
from fasthep_flow.environments import ContainerSpec, Mount, find_runtime
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.model import Command, Image

engine, image, folder, label, script = sys.argv[1:]
runtime = find_runtime(engine)
spec = ContainerSpec(
    name=f"fasthep-test-{label}",
    image=runtime.resolve(Image(name=image)),
    labels={"fasthep.run": label, **owner_labels()},
    mounts=(Mount(source=folder, target=folder),),
)
with Pool() as pool:
    with pool.container(runtime, spec) as container:
        process = container.start(
            Command(argv=("sh", "-c", script)),
            environment={},
            working_directory=folder,
            directory=folder,
        )
        process.wait()
    print("idle", flush=True)
    sys.stdin.read()
"""

rooted = pytest.mark.skipif(bool(os.getuid()), reason="the container's user is not root")


class Bench:
    """A pool, and folders for the jobs of its containers.

    Args:
        engine: Which one.
        image: For all jobs.
        folder: An empty one.
        pool: Empty, too.
    """

    def __init__(self, engine: str, image: str, folder: Path, pool: Pool) -> None:
        runtime = find_runtime(engine)
        assert isinstance(runtime, OciRuntime)
        self.runtime = runtime
        self.engine = engine
        self.image: ResolvedImage = runtime.resolve(Image(name=image))
        self.share = folder
        self.attempt = folder
        self.pool = pool
        self.label = uuid.uuid4().hex
        self.count = 0

    @contextmanager
    def started(self, invocation: Invocation, **options: Any) -> Iterator[Process]:
        self.count += 1
        self.attempt = self.share / f"attempt {self.count}"
        self.attempt.mkdir()
        variables = options.pop("variables", {})
        spec = ContainerSpec(
            name=f"fasthep-test-{self.label}-{self.count}",
            image=self.image,
            labels={"fasthep.run": self.label, **owner_labels()},
            mounts=(Mount(source=str(self.share), target=str(self.share)),),
            **options,
        )
        with self.pool.container(self.runtime, spec) as container:
            yield container.start(
                invocation,
                environment=variables,
                working_directory=str(self.share),
                directory=str(self.attempt),
            )

    def run(self, *argv: str, **options: Any) -> Outcome:
        with self.started(Command(argv=argv), **options) as process:
            return process.wait()

    def outputs(self, script: str, **options: Any) -> str:
        outcome = self.run("sh", "-c", script, **options)
        assert (outcome.exit_code, outcome.failure) == (0, None), self.read("stderr.log")
        return self.read("stdout.log")

    def read(self, log: str) -> str:
        return (self.attempt / log).read_text()

    def containers(self) -> list[str]:
        return containers(self.engine, self.label)

    def ask(self, *arguments: str) -> str:
        return ask(self.engine, *arguments)


def ask(engine: str, *arguments: str) -> str:
    done = subprocess.run([engine, *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def containers(engine: str, label: str) -> list[str]:
    return ask(engine, "ps", "-aq", "--filter", f"label=fasthep.run={label}").split()


@pytest.fixture
def bench(engine: str, python_image: str, tmp_path: Path) -> Iterator[Bench]:
    with Pool() as pool:
        bench = Bench(engine, python_image, tmp_path, pool)
        yield bench
    assert bench.containers() == []


@pytest.fixture
def busybox(engine: str, busybox_image: str, tmp_path: Path) -> Iterator[Bench]:
    with Pool() as pool:
        bench = Bench(engine, busybox_image, tmp_path, pool)
        yield bench
    assert bench.containers() == []


def test_twenty_jobs_in_one_container(busybox: Bench) -> None:
    which = {busybox.outputs(f"cd /; {WHICH}; exit 0") for _ in range(20)}
    assert len(which) == len(busybox.containers()) == 1


def test_everything_is_handed_over_each_time(bench: Bench) -> None:
    script = "import os, json; print(json.dumps(dict(os.environ)))"
    for number in range(3):
        variables = {**NASTY_VARIABLES, "NUMBER": str(number), f"ONLY{number}": "1"}
        assert bench.run("python3", "-c", script, variables=variables).exit_code == 0
        seen: dict[str, str] = json.loads(bench.read("stdout.log"))
        assert {name: seen.get(name) for name in variables} == variables
        assert [name for name in seen if name.startswith("ONLY")] == [f"ONLY{number}"]
    assert len(bench.containers()) == 1


def test_callables_and_commands_share_one(bench: Bench) -> None:
    (bench.share / "mine.py").write_text("def f(x):\n    return x\n")
    for number in range(3):
        with bench.started(Call(target="mine:f", args=(number,))) as process:
            assert process.wait().exit_code == 0
        reply = read_reply(str(bench.attempt))
        assert reply is not None
        assert reply.value == number
        assert bench.outputs("echo between") == "between\n"
    assert len(bench.containers()) == 1


def test_callables_need_no_shell(engine: str, pythononly_image: str, tmp_path: Path) -> None:
    with Pool() as pool:
        bench = Bench(engine, pythononly_image, tmp_path, pool)
        (bench.share / "mine.py").write_text(
            "import os, signal, time\n"
            "def which():\n    return open('/proc/1/stat').read().split()[21]\n"
            "def leave():\n"
            "    open('/dev/shm/left', 'w').close()\n"
            "def hang():\n"
            "    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
            "    print('up', flush=True)\n"
            "    time.sleep(600)\n"
        )

        def which() -> object:
            with bench.started(Call(target="mine:which")) as process:
                assert process.wait().exit_code == 0
            reply = read_reply(str(bench.attempt))
            assert reply is not None
            return reply.value

        first = which()
        assert which() == first
        with bench.started(Call(target="mine:leave")) as process:
            assert process.wait().exit_code == 0
        second = which()
        assert second != first
        with bench.started(Call(target="mine:hang")) as process:
            wait_until(lambda: "up" in bench.read("stdout.log"), "it did not start")
            process.terminate()
            assert process.wait().exit_code == 7
        assert which() != second
        outcome = bench.run("true")
        assert outcome.failure is not None
        assert outcome.failure.message == f"the image {pythononly_image} has no /bin/sh"
    assert bench.containers() == []


def test_each_jobs_memory_is_its_own(bench: Bench) -> None:
    first = bench.run("true")
    big = bench.run(*HOG, str(200 * MEBI))
    small = bench.run("true")
    assert big.peak_memory is not None
    assert 200 * MEBI <= big.peak_memory < 300 * MEBI
    for outcome in (first, small):
        assert outcome.peak_memory is not None
        assert outcome.peak_memory_is_bound or outcome.peak_memory < 60 * MEBI
    # What version 1 of the control groups counts can be counted anew.
    if Path("/sys/fs/cgroup/memory/memory.max_usage_in_bytes").exists():
        assert not small.peak_memory_is_bound
    assert not big.peak_memory_is_bound
    assert len(bench.containers()) == 1


def test_each_jobs_processor_time_is_its_own(bench: Bench) -> None:
    busy = bench.run("python3", "-c", "sum(range(20_000_000))")
    idle = bench.run("true")
    assert busy.cpu_s is not None
    assert idle.cpu_s is not None
    assert 0 < idle.cpu_s < busy.cpu_s
    assert len(bench.containers()) == 1


def test_limits_hold_for_each_job(bench: Bench) -> None:
    memory = 64 * MEBI
    shown = (
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us 2>/dev/null"
        " || cat memory.max cpu.max"
    )
    limits = [bench.outputs(shown, resources=Resources(cpus=0.5, memory=memory)) for _ in range(3)]
    assert limits[0].split()[:2] == [str(64 * MEBI), "50000"]
    assert len(set(limits)) == 1
    assert len(bench.containers()) == 1
    for _ in range(2):
        assert bench.outputs(WHICH, resources=Resources(memory=memory))
        outcome = bench.run(*HOG, str(500 * MEBI), resources=Resources(memory=memory))
        assert outcome.out_of_memory
        assert outcome.exit_code != 0
    # Others have limits of their own.
    assert bench.run(*HOG, str(80 * MEBI), resources=Resources(memory=256 * MEBI)).exit_code == 0


def test_a_job_that_ran_out_of_memory_is_its_containers_last(bench: Bench) -> None:
    resources = Resources(memory=64 * MEBI)
    before = bench.outputs(WHICH, resources=resources)
    script = f"python3 -c \"b'x' * {500 * MEBI}\"; exit 0"
    outcome = bench.run("sh", "-c", script, resources=resources)
    assert (outcome.out_of_memory, outcome.exit_code) == (True, 0)
    for _ in range(2):
        outcome = bench.run("sh", "-c", WHICH, resources=resources)
        assert (outcome.out_of_memory, outcome.exit_code, outcome.failure) == (False, 0, None)
        assert bench.read("stdout.log") != before


@rooted
@pytest.mark.parametrize(
    "script",
    [
        "echo more >>/etc/passwd",
        "touch /etc/new",
        "touch /root/.config",
        "mkdir /usr/local/new",
        "rm /usr/bin/env",
        "rm -r /usr/share/doc; mkdir /usr/share/doc",
        "chmod 700 /opt",
        "touch /dev/shm/left",
        "ln -s nowhere /srv/link",
    ],
)
def test_what_a_job_changes_the_next_one_does_not_see(bench: Bench, script: str) -> None:
    look = (
        "cat /etc/passwd; ls -A /etc /root /usr/local /usr/share/doc /dev/shm /srv;"
        "ls -l /usr/bin/env; stat -c %a /opt"
    )
    before, which = bench.outputs(look), bench.outputs(WHICH)
    bench.outputs(script)
    assert bench.outputs(look) == before
    assert bench.outputs(WHICH) != which


def test_temporary_files_cost_no_container(bench: Bench) -> None:
    which = bench.outputs(WHICH)
    for _ in range(2):
        fill = "mkdir -p /tmp/a/b /var/tmp/c; head -c 30000000 /dev/zero >/tmp/a/b/big; "
        fill += "touch /tmp/.hidden /var/tmp/c/d; chmod 700 /tmp; echo $HOME"
        assert bench.outputs(fill)
        # The folder that all share may be mounted below.
        look = "ls -A /var/tmp; find /tmp -path /tmp/pytest-* -prune -o -type f -print;"
        look += "stat -c %a /tmp /var/tmp"
        assert bench.outputs(look) == "1777\n1777\n"
        assert bench.outputs(WHICH) == which
    assert len(bench.containers()) == 1


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600 & exit 0",
        "(setsid sh -c 'trap \"\" TERM HUP; sleep 600; sleep 600' </dev/null >/dev/null 2>&1 &)",
        "for i in 1 2 3 4 5 6 7 8; do setsid sleep 600 & done",
    ],
)
def test_what_a_job_leaves_running_ends_with_it(busybox: Bench, script: str) -> None:
    which = busybox.outputs(WHICH)
    busybox.outputs(script)
    top = busybox.ask("top", busybox.containers()[0])
    assert "sleep" not in top
    assert busybox.outputs(WHICH) == which


def test_one_that_is_removed_while_idle_is_made_anew(busybox: Bench) -> None:
    which = busybox.outputs(WHICH)
    for way in (["kill"], ["rm", "--force"]):
        for container in busybox.containers():
            if way[0] == "rm":
                busybox.ask("kill", container)
            busybox.ask(*way, container)
        assert busybox.outputs(WHICH) != which
        assert len(busybox.containers()) == 1


@pytest.mark.parametrize("way", ["kill", "stop", "rm"])
def test_one_that_is_removed_while_a_job_runs_is_told(busybox: Bench, way: str) -> None:
    busybox.outputs("true")
    arguments = {"kill": ["kill"], "stop": ["stop", "--time", "1"], "rm": ["rm", "--force"]}[way]
    if (busybox.engine, way) == ("podman", "rm"):
        arguments += ["--time", "0"]
    with busybox.started(Command(argv=("sh", "-c", "echo up; sleep 600"))) as process:
        wait_until(lambda: "up" in busybox.read("stdout.log"), "it did not start")
        busybox.ask(*arguments, busybox.containers()[0])
        outcome = process.wait()
    assert not outcome.out_of_memory
    if outcome.failure is not None:
        assert outcome.failure.kind == "environment"
        assert "from outside" in outcome.failure.message
    else:
        # To stop asks the job to end, too.
        assert way == "stop"
        assert outcome.exit_code == 143
    assert busybox.outputs("echo again") == "again\n"


def test_a_job_that_is_stopped_is_its_containers_last(busybox: Bench) -> None:
    which = busybox.outputs(WHICH)
    script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    with busybox.started(Command(argv=("sh", "-c", script))) as process:
        wait_until(lambda: "up" in busybox.read("stdout.log"), "it did not start")
        process.terminate()
        assert process.wait().exit_code == 7
    assert busybox.read("stdout.log") == "up\nbye\n"
    assert busybox.outputs(WHICH) != which
    with busybox.started(Command(argv=("sh", "-c", "trap '' TERM; echo up; sleep 600"))) as process:
        wait_until(lambda: "up" in busybox.read("stdout.log"), "it did not start")
        process.terminate()
        process.kill()
        assert process.wait().signal == signal.SIGKILL
    assert busybox.outputs("echo again") == "again\n"


def test_jobs_at_the_same_time_have_one_each(busybox: Bench) -> None:
    attempts = [busybox.share / f"at once {number}" for number in range(12)]

    def one(attempt: Path) -> None:
        attempt.mkdir()
        spec = ContainerSpec(
            name=f"fasthep-test-{uuid.uuid4().hex}",
            image=busybox.image,
            labels={"fasthep.run": busybox.label, **owner_labels()},
            mounts=(Mount(source=str(busybox.share), target=str(busybox.share)),),
        )
        # Two in one container would see each other's file.
        script = "[ ! -e /tmp/busy ] && touch /tmp/busy && sleep 0.1 && rm /tmp/busy"
        with busybox.pool.container(busybox.runtime, spec) as container:
            outcome = container.start(
                Command(argv=("sh", "-c", script)),
                environment={},
                working_directory=str(busybox.share),
                directory=str(attempt),
            ).wait()
        assert (outcome.exit_code, outcome.failure) == (0, None)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(one, attempts))
    assert 1 <= len(busybox.containers()) <= 3


def test_nothing_is_left_of_a_pool(engine: str, busybox_image: str, tmp_path: Path) -> None:
    with Pool() as pool:
        bench = Bench(engine, busybox_image, tmp_path, pool)
        bench.outputs("touch /tmp/a")
        scratch = cast("Any", pool)._idle[0].container._scratch
        assert scratch.exists()
    assert bench.containers() == []
    assert not scratch.exists()


@pytest.mark.parametrize("script", ["true", "echo up; sleep 2; echo over"])
def test_a_driver_that_is_killed_leaves_no_container(
    engine: str, busybox_image: str, tmp_path: Path, script: str
) -> None:
    label = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, engine, busybox_image, tmp_path, label, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as driver:
        assert driver.stdout is not None
        if script == "true":
            assert driver.stdout.readline() == b"idle\n"
        else:
            log = tmp_path / "stdout.log"
            wait_until(lambda: log.exists() and "up" in log.read_text(), "it did not start")
        assert len(containers(engine, label)) == 1
        driver.kill()
        driver.wait()
    # Nobody is there to remove it: what serves in it ends with its orders, and so does it.
    wait_until(lambda: containers(engine, label) == [], "the container lives on")


LEAVING = {
    "a host's name": "echo '9.9.9.9 there' >>/etc/hosts",
    "a device file": "echo x >/dev/there",
    "a folder in /dev": "mkdir /dev/there",
    "rights of /dev/shm": "chmod 700 /dev/shm",
    "a limit": "python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_NOFILE, (33, 33))'",
    "processors": "python3 -c 'import os; os.sched_setaffinity(1, [min(os.sched_getaffinity(0))])'",
    "a priority": "python3 -c 'import os; os.setpriority(os.PRIO_PROCESS, 1, 15)'",
    "a wish to be killed": "echo 500 >/proc/1/oom_score_adj",
    "a queue": "python3 -c 'import ctypes; ctypes.CDLL(None).msgget(0, 0o1600)'",
    "a semaphore": "python3 -c 'import ctypes; ctypes.CDLL(None).semget(0, 1, 0o1600)'",
}


@rooted
@pytest.mark.parametrize("script", LEAVING.values(), ids=LEAVING)
def test_whoever_leaves_something_had_the_container_alone(bench: Bench, script: str) -> None:
    ask = (
        "cat /etc/hosts; ls -A /dev; stat -c %a /dev/shm; ulimit -n; nproc; nice;"
        " cat /proc/self/oom_score_adj; cat /proc/sysvipc/msg /proc/sysvipc/sem"
    )
    before = bench.outputs(ask)
    first = bench.outputs(WHICH)
    bench.outputs(script)
    assert bench.outputs(ask) == before
    assert bench.outputs(WHICH) != first


def test_what_came_and_went_is_no_matter(bench: Bench) -> None:
    first = bench.outputs(WHICH)
    bench.outputs("touch /dev/shm/x && rm /dev/shm/x")
    pool = "import multiprocessing as m; m.Lock(); print(m.Pool(2).map(abs, [-1, 2]))"
    assert bench.run("python3", "-c", pool).exit_code == 0
    assert bench.outputs(WHICH) == first


def test_a_job_cannot_speak_for_the_next_ones(busybox: Bench) -> None:
    forged = (
        "n=0; while [ $n -lt 40 ]; do for word in begun started exit end;"
        ' do echo "fasthep $n $word 0" >/proc/1/fd/1; done; n=$((n + 1)); done'
    )
    busybox.outputs(forged)
    assert busybox.outputs("echo really") == "really\n"
    assert busybox.run("sh", "-c", "exit 3").exit_code == 3


def test_a_volume_of_the_image_is_each_jobs_own(
    engine: str, busybox_image: str, tmp_path: Path
) -> None:
    image = f"localhost/fasthep-test/volume-{uuid.uuid4().hex[:8]}:1"
    text = f"FROM {busybox_image}\nVOLUME /data\n"
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(text)
    subprocess.run([engine, "build", "--quiet", "-t", image, str(folder)], check=True)
    try:
        with Pool() as pool:
            bench = Bench(engine, image, tmp_path, pool)
            for _ in range(2):
                assert bench.outputs("ls -A /data; echo secret >/data/mine") == ""
        assert bench.containers() == []
    finally:
        subprocess.run([engine, "rmi", "--force", image], check=True, capture_output=True)


def test_options_make_a_container_of_their_own(busybox: Bench) -> None:
    options = ("--tmpfs", "/scratch")
    for _ in range(2):
        assert busybox.outputs("ls -A /scratch; : >/scratch/mine", options=options) == ""
