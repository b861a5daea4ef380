"""Containers that serve job after job: here namespaces of the kernel's, without an engine."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import SOON_S, wait_until

from fasthep_flow.environments import (
    ContainerSpec,
    Mount,
    NotStarted,
    Outcome,
    Process,
    ResolvedImage,
)
from fasthep_flow.environments.containers.enclosure import EndedClient
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.environments.containers.shell import Dialect, terminate_argv
from fasthep_flow.environments.interpreter import read_reply
from fasthep_flow.environments.limits.cgroups import Account
from fasthep_flow.model import Call, Command, Failure, Invocation

UNSHARE = ("unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
# What an engine does: /tmp, /var/tmp and the memory are the container's own, the folder that
# all share is where it is.
SET_UP = """
set -e
mount -t tmpfs memory /dev/shm
case $2 in
  /tmp/*) mkdir -p "$1$2"; mount --bind "$2" "$1$2" ;;
esac
mount --bind "$1/var_tmp" /var/tmp
mount --rbind "$1/tmp" /tmp
shift 2
exec "$@"
"""
IMAGE = ResolvedImage(name="r.ch/a:1", reference="sha256:00", digest="sha256:00")


def why_no_namespaces() -> str:
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", "mount -t tmpfs memory /dev/shm && echo $$"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.stdout == "1\n" else done.stderr.strip() or "it is not process 1"


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    try:
        reason = why_no_namespaces()
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        pytest.skip(f"no namespaces for a container: {reason}")


class Namespaces:
    """An enclosure that is as good as an engine's, but for the image.

    Args:
        share: The folder that it sees.
        clients: Words that start the first clients instead of ``unshare``.
        has_shell: Whether the image has one.
        kills: Which call of :meth:`kill` takes effect.
    """

    counts_inside = False

    def __init__(
        self,
        share: Path,
        clients: tuple[tuple[str, ...], ...] = (),
        *,
        has_shell: bool = True,
        kills: int = 1,
    ) -> None:
        self.share = share
        self.clients = list(clients)
        self.has_shell = has_shell
        self.kills_needed = kills
        self.kills = 0
        self.pids: list[int] = []
        self.removed: list[EndedClient] = []
        self.terminated: list[str] = []
        self.pristine = True
        self.asked_since: list[int] = []
        self.kept_account: Account | None = None
        self.on_removal: Callable[[], None] = lambda: None

    def argv(self, program: tuple[str, ...], scratch: Path) -> list[str]:
        if self.clients:
            return list(self.clients.pop(0))
        if program[0] == "/bin/sh" and not self.has_shell:
            return ["sh", "-c", "echo 'no such file: /bin/sh' >&2; exit 127"]
        return [*UNSHARE, "/bin/sh", "-c", SET_UP, "sh", *map(str, (scratch, self.share)), *program]

    def client_environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"]}

    def started(self, client_pid: int) -> None:
        self.pids.append(client_pid)

    def account(self) -> Account | None:
        return self.kept_account

    def first(self) -> str:
        """The first process of the container."""
        pid = self.pids[-1]
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]

    def terminate(self, directory: str, dialect: Dialect) -> None:
        self.terminated.append(directory)
        enter = ("nsenter", "--target", self.first(), "--pid", "--mount")
        subprocess.run([*enter, *terminate_argv(dialect)], check=False)

    def kill(self) -> None:
        self.kills += 1
        if self.kills >= self.kills_needed:
            os.killpg(self.pids[-1], signal.SIGKILL)

    def explain(self, ended: EndedClient) -> Outcome:
        message = f"the client ended with {ended.exit_code}: {ended.said.strip()}"
        return Outcome(failure=Failure(kind="environment", message=message))

    def lacks_shell(self, ended: EndedClient) -> bool:
        return not ended.ready and "/bin/sh" in ended.said

    def ready(self) -> None:
        pass

    def is_pristine(self, since_ns: int) -> bool:
        self.asked_since.append(since_ns)
        return self.pristine

    def remove(self, ended: EndedClient) -> None:
        self.removed.append(ended)
        self.on_removal()


class Bench:
    """A container, and folders for its jobs.

    Args:
        folder: An empty one.
        enclosure: Options of it.
    """

    def __init__(self, folder: Path, *clients: tuple[str, ...], **enclosure: Any) -> None:
        self.share = folder / "share"
        self.share.mkdir()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.enclosure = Namespaces(self.share, clients, **enclosure)
        mount = Mount(source=str(self.share), target=str(self.share))
        spec = ContainerSpec(name="n", image=IMAGE, mounts=(mount,))
        self.container = ServedContainer(self.enclosure, spec, self.scratch)
        self.attempt = self.share
        self.count = 0

    def start(self, invocation: Invocation, variables: Mapping[str, str] | None = None) -> Process:
        self.count += 1
        self.attempt = self.share / str(self.count)
        self.attempt.mkdir()
        return self.container.start(
            invocation,
            environment=variables or {},
            working_directory=str(self.share),
            directory=str(self.attempt),
        )

    def begin(self, script: str, **variables: str) -> Process:
        return self.start(Command(argv=("sh", "-c", script)), variables)

    def run(self, script: str, **variables: str) -> Outcome:
        return self.begin(script, **variables).wait()

    def by_python(self, script: str) -> Process:
        text = "import os\ndef run(script):\n    os.execvp('sh', ['sh', '-c', script])\n"
        (self.share / "mine.py").write_text(text)
        return self.start(Call(target="mine:run", args=(script,)))

    def run_by_python(self, script: str) -> Outcome:
        return self.by_python(script).wait()

    def output(self) -> str:
        return (self.attempt / "stdout.log").read_text()

    def outputs(self, script: str) -> str:
        assert self.run(script).exit_code == 0
        return self.output()

    def begin_and_wait_until_up(self, script: str) -> Process:
        process = self.begin(f"echo up; {script}")
        log = self.attempt / "stdout.log"
        wait_until(lambda: "up" in log.read_text(), "the job did not start")
        return process

    def close(self) -> None:
        self.container.close()
        assert not self.scratch.exists()
        assert len(self.enclosure.removed) == len(self.enclosure.pids)
        for pid in self.enclosure.pids:
            assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def message(outcome: Outcome) -> str:
    assert outcome.failure is not None
    assert outcome.failure.kind == "environment"
    return outcome.failure.message


def test_one_job_after_the_other(bench: Bench) -> None:
    numbers = set()
    for code in range(20):
        outcome = bench.run(f"cd /; readlink /proc/self/ns/pid; X={code}; exit {code}")
        assert (outcome.exit_code, outcome.failure, outcome.signal) == (code, None, None)
        numbers.add(bench.output())
        assert bench.container.settle()
    assert len(numbers) == len(bench.enclosure.pids) == 1
    assert numbers != {f"{Path('/proc/self/ns/pid').readlink()}\n"}


def test_nothing_is_left_on_disk(bench: Bench) -> None:
    assert bench.run("cat >/tmp/a; mkdir /var/tmp/b").exit_code == 0
    command = Command(argv=("cat",), stdin="secret" * 50_000)
    assert bench.start(command).wait().exit_code == 0
    assert bench.output() == "secret" * 50_000
    assert sorted(path.name for path in bench.attempt.iterdir()) == ["stderr.log", "stdout.log"]


def test_what_a_job_puts_in_place_of_its_folder_leads_nobody_out(
    bench: Bench, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "stdin").write_text("mine")
    script = f"cat; cd {bench.share}; mv 1 gone; ln -s {elsewhere} 1"
    outcome = bench.start(Command(argv=("sh", "-c", script), stdin="x")).wait()
    assert outcome.exit_code == 0
    assert (elsewhere / "stdin").read_text() == "mine"


def test_what_the_engine_said_is_not_written_where_a_link_leads(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bench = Bench(tmp_path, (sys.executable, "-c", BRIEF.format(begins=True)))
    assert bench.run("true").exit_code == 0
    process = bench.begin("echo now")
    bench.attempt.rename(bench.share / "gone")
    bench.attempt.symlink_to(elsewhere)
    assert message(process.wait()) == "the client ended with 0: out of order"
    assert list(elsewhere.iterdir()) == []
    bench.close()


def test_variables_longer_than_a_pipe_is(bench: Bench) -> None:
    values = {f"LONG{number}": f"{number}'µ\n" * 15_000 for number in range(20)}
    for _ in range(2):
        process = bench.start(Command(argv=("env", "-0")), values)
        assert process.wait().exit_code == 0
        seen = dict(entry.split("=", 1) for entry in bench.output().split("\0") if entry)
        assert {name: seen.get(name) for name in values} == values
        assert bench.container.settle()
    assert len(bench.enclosure.pids) == 1


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600 & exit 0",
        "(sleep 600 &) ; exit 0",
        "setsid sh -c 'trap \"\" TERM HUP INT; sleep 600; sleep 600' </dev/null >/dev/null 2>&1 &",
        "trap '' HUP; for i in 1 2 3 4 5; do (setsid sleep 600 &) ; done",
        # One that is stopped, and one that starts others all the time.
        "sleep 600 & kill -STOP $!",
        "f() { while :; do sh -c 'sleep 600 & sleep 600 &'; done; }; f &",
    ],
)
def test_what_a_job_leaves_running_ends_with_it(bench: Bench, script: str) -> None:
    assert bench.run(script).exit_code == 0
    left = Path(f"/proc/{bench.enclosure.first()}/task/{bench.enclosure.first()}/children")
    assert left.read_text() == ""
    assert bench.container.settle()
    processes = "for p in /proc/[0-9]*; do echo ${p#/proc/}; done"
    assert len(bench.outputs(processes).split()) == 2
    assert len(bench.enclosure.pids) == 1


def test_what_ends_soon_may_come_to_its_end(bench: Bench) -> None:
    assert bench.outputs("(sleep 0.02; echo late) &") == "late\n"


@pytest.mark.parametrize(
    "script",
    [
        "touch /dev/shm/plain",
        "touch /dev/shm/.hidden",
        "touch /dev/shm/..hidden",
        "ln -s /no/such /dev/shm/link",
        "mkdir /dev/shm/folder",
        "touch '/dev/shm/a\nfasthep 1 end 1'",
        "i=0; while [ $i -lt 12000 ]; do : >/dev/shm/$i; i=$((i+1)); done",
        "ipcmk --shmem 4096",
    ],
)
def test_a_job_that_leaves_something_in_memory_is_the_last(bench: Bench, script: str) -> None:
    outcome = bench.run(script)
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert not bench.container.settle()


def test_memory_that_is_given_back_is_no_matter(bench: Bench) -> None:
    outcome = bench.run("touch /dev/shm/a && rm /dev/shm/a && ipcmk -M 1 && ipcrm --all=shm")
    assert outcome.exit_code == 0
    assert bench.container.settle()


def test_each_job_has_an_empty_tmp(bench: Bench) -> None:
    fill = (
        "mkdir -p /tmp/a/b /var/tmp/c; touch /tmp/a/b/file /tmp/.hidden /var/tmp/c/file;"
        "ln -s / /tmp/root; ln -s /tmp/a /var/tmp/loop; mkfifo /tmp/pipe; touch '/tmp/a\nb';"
        "chmod 0 /tmp/a; chmod 700 /tmp"
    )
    (bench.share / "precious").touch()
    assert bench.run(fill).exit_code == 0
    assert bench.container.settle()
    listing = bench.outputs("ls -A /tmp /var/tmp; stat -c %a /tmp /var/tmp; echo $PWD").split("\n")
    assert listing[-4:] == ["1777", "1777", str(bench.share), ""]
    # What is mounted below is still there, and so is what lies in it.
    expected = ["/tmp:", "", "/var/tmp:"]  # noqa: S108 - the container's
    if bench.share.parts[1] == "tmp":
        expected.insert(1, bench.share.parts[2])
    assert listing[:-4] == expected
    assert bench.outputs("cat precious; echo there") == "there\n"
    assert (bench.share / "precious").exists()
    assert len(bench.enclosure.pids) == 1


def test_a_job_that_changed_the_containers_files_is_the_last(bench: Bench) -> None:
    assert bench.run("true").exit_code == 0
    bench.enclosure.pristine = False
    assert not bench.container.settle()
    assert bench.enclosure.asked_since[0] <= time.time_ns()
    assert bench.enclosure.asked_since[0] > time.time_ns() - SOON_S * 1e9


def test_one_that_ended_while_idle_is_made_anew(bench: Bench) -> None:
    before = bench.outputs("readlink /proc/self/ns/pid")
    assert bench.container.settle()
    os.kill(bench.enclosure.pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, bench.enclosure.pids[0], os.WEXITED | os.WNOWAIT)
    assert bench.outputs("readlink /proc/self/ns/pid") != before
    assert bench.container.settle()
    assert len(bench.enclosure.pids) == 2


def test_one_that_ended_is_of_no_use(bench: Bench) -> None:
    assert bench.run("true").exit_code == 0
    os.kill(bench.enclosure.pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, bench.enclosure.pids[0], os.WEXITED | os.WNOWAIT)
    assert not bench.container.settle()


# Serves one job, and ends when it is given another one: by then it may have said that it began.
BRIEF = """
import sys

def order():
    number = ""
    for line in sys.stdin:
        if line.startswith("_fasthep_number="):
            number = line.partition("=")[2].strip()
        if line == "_fasthep_end $?\\n":
            return number

print("ready 1", flush=True)
number = order()
for word in ("begun 1", "started 1", "exit 0", "end 1"):
    print("fasthep", number, word, flush=True)
if {begins!r}:
    print("fasthep", order(), "begun 1", flush=True)
else:
    sys.stdin.readline()
print("out of order", file=sys.stderr)
"""


def test_an_order_that_nobody_took_is_given_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (sys.executable, "-c", BRIEF.format(begins=False)))
    assert bench.run("exit 5").exit_code == 0
    assert bench.run("echo now; exit 5").exit_code == 5
    assert bench.output() == "now\n"
    assert len(bench.enclosure.pids) == 2
    assert bench.container.settle()
    bench.close()


def test_one_that_is_to_stop_does_not_start_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (sys.executable, "-c", BRIEF.format(begins=False)))
    assert bench.run("true").exit_code == 0
    process = bench.begin("sleep 600")
    bench.enclosure.on_removal = process.kill
    assert process.wait().signal == signal.SIGKILL
    assert not bench.container.settle()
    bench.close()


def test_a_job_that_began_is_not_repeated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (sys.executable, "-c", BRIEF.format(begins=True)))
    assert bench.run("true").exit_code == 0
    outcome = bench.run("echo now")
    assert message(outcome) == "the client ended with 0: out of order"
    assert (bench.attempt / "engine.log").read_text() == "out of order\n"
    assert bench.output() == ""
    assert len(bench.enclosure.pids) == 1
    assert not bench.container.settle()
    bench.close()


def test_a_client_that_dies_in_mid_job_is_explained(bench: Bench) -> None:
    process = bench.begin_and_wait_until_up("sleep 600")
    os.kill(bench.enclosure.pids[0], signal.SIGKILL)
    assert message(process.wait()).startswith("the client ended with -9")
    assert not bench.container.settle()
    assert len(bench.enclosure.pids) == 1


def test_asked_to_end_a_job_may_put_things_in_order(bench: Bench) -> None:
    process = bench.begin_and_wait_until_up(
        "trap 'echo bye; exit 7' TERM; while :; do sleep 0.02; done"
    )
    process.terminate()
    assert process.wait().exit_code == 7
    assert bench.output() == "up\nbye\n"
    assert bench.enclosure.terminated == [str(bench.attempt)]
    assert not bench.container.settle()
    process.terminate()
    process.kill()
    assert (len(bench.enclosure.terminated), bench.enclosure.kills) == (1, 0)


def test_kills(bench: Bench) -> None:
    process = bench.begin_and_wait_until_up("trap '' TERM; while :; do sleep 0.02; done")
    process.terminate()
    process.kill()
    outcome = process.wait()
    assert (outcome.exit_code, outcome.signal, outcome.failure) == (None, signal.SIGKILL, None)
    assert not bench.container.settle()
    assert not (bench.attempt / "engine.log").exists()


def test_kills_until_it_helps(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kills=2)
    process = bench.begin_and_wait_until_up("sleep 600")
    process.kill()
    process.kill()
    assert process.wait().signal == signal.SIGKILL
    bench.close()


def test_to_close_ends_what_nobody_waits_for(bench: Bench) -> None:
    bench.begin_and_wait_until_up("trap '' TERM; sleep 600")
    assert not bench.container.settle()
    bench.close()
    assert bench.enclosure.kills == 1


def test_to_close_ends_what_another_thread_waits_for(bench: Bench) -> None:
    process = bench.begin_and_wait_until_up("trap '' TERM; sleep 600")
    outcomes: list[Outcome] = []
    waiting = threading.Thread(target=lambda: outcomes.append(process.wait()))
    waiting.start()
    bench.close()
    waiting.join(SOON_S)
    assert [outcome.signal for outcome in outcomes] == [signal.SIGKILL]


def test_to_close_twice_does_no_harm(bench: Bench) -> None:
    assert bench.run("true").exit_code == 0
    bench.close()


def test_one_that_never_started_leaves_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.container.settle()
    bench.close()
    assert bench.enclosure.pids == []


@pytest.mark.parametrize("noise", ["", "echo 'hello, this is the image'; echo ready; echo ready x"])
def test_one_that_never_is_ready_can_be_killed(tmp_path: Path, noise: str) -> None:
    bench = Bench(tmp_path, ("sh", "-c", f"{noise}\nsleep 600 >&2"))
    process = bench.begin("true", TOKEN="hunter2" * 20_000)
    process.kill()
    assert process.wait().signal == signal.SIGKILL
    assert not bench.container.settle()
    bench.close()


def test_one_that_greets_first_serves_all_the_same(tmp_path: Path) -> None:
    banner = "echo 'ready to serve'; echo; printf 'x\\377\\n'; exec /bin/sh"
    bench = Bench(tmp_path, ("sh", "-c", banner))
    assert bench.run("exit 3").exit_code == 3
    bench.close()


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ("exit 5", "ended with 5"),
        ("echo no image >&2; exit 125", "ended with 125: no image"),
        ("exec yes", "ended with -13"),
        ("yes | tr -d '\\n'", ""),
        ("echo ready 1; exec yes", "ended with -13"),
        ("echo ready 1; exec cat /dev/zero", "ended with -13"),
        ("echo ready 99999999999999999999999; exit 6", "ended with 6"),
    ],
)
def test_one_that_does_not_serve_is_explained(tmp_path: Path, client: str, words: str) -> None:
    bench = Bench(tmp_path, ("sh", "-c", client))
    assert words in message(bench.run("true"))
    assert not bench.container.settle()
    assert len(bench.enclosure.pids) == 1
    bench.close()


def test_a_client_that_is_not_there_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("/no/such/engine",), ("/no/such/engine",))
    process = bench.begin("true")
    assert isinstance(process, NotStarted)
    assert "No such file" in message(process.wait())
    # The next one finds it.
    bench.enclosure.clients.clear()
    assert bench.run("exit 3").exit_code == 3
    bench.close()


def test_a_client_that_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    brief = (sys.executable, "-c", BRIEF.format(begins=False))
    bench = Bench(tmp_path, brief, ("/no/such/engine",))
    assert bench.run("true").exit_code == 0
    assert os.strerror(errno.ENOENT) in message(bench.run("true"))
    assert not bench.container.settle()
    bench.close()


class TestWithoutShell:
    def test_python_serves_callables(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, has_shell=False)
        (bench.share / "mine.py").write_text("def f(x):\n    return x\n")
        for number in range(3):
            outcome = bench.start(Call(target="mine:f", args=(number,))).wait()
            assert (outcome.exit_code, outcome.failure) == (0, None)
            reply = read_reply(str(bench.attempt))
            assert reply is not None
            assert reply.value == number
            assert bench.container.settle()
        assert bench.container.dialect == "python"
        assert len(bench.enclosure.pids) == 2
        assert [ended.exit_code for ended in bench.enclosure.removed] == [127]
        bench.close()

    def test_a_command_is_refused(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, has_shell=False)
        assert "no such file: /bin/sh" in message(bench.run("true"))
        assert not bench.container.settle()
        bench.close()

    def test_nor_once_it_is_known(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, has_shell=False)
        bench.run_by_python("true")
        outcome = bench.run("true")
        assert outcome.failure is not None
        assert outcome.failure.kind == "not_started"
        assert outcome.failure.message == "the image r.ch/a:1 has no /bin/sh"
        bench.close()

    @pytest.mark.parametrize(
        "script",
        [
            "sleep 600 & exit 0",
            "(setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' &) ; exit 0",
            "f() { while :; do sh -c 'sleep 600 & sleep 600 &'; done; }; f &",
        ],
    )
    def test_what_a_job_leaves_running_ends_with_it(self, tmp_path: Path, script: str) -> None:
        bench = Bench(tmp_path, has_shell=False)
        assert bench.run_by_python(script).exit_code == 0
        first = bench.enclosure.first()
        assert Path(f"/proc/{first}/task/{first}/children").read_text() == ""
        assert bench.container.settle()
        assert bench.run_by_python("(sleep 0.02; echo late) &").exit_code == 0
        assert bench.output() == "late\n"
        assert bench.container.settle()
        assert len(bench.enclosure.pids) == 2
        bench.close()

    @pytest.mark.parametrize("script", ["touch /dev/shm/.a", "ipcmk --shmem 4096"])
    def test_what_a_job_leaves_in_memory_is_told(self, tmp_path: Path, script: str) -> None:
        bench = Bench(tmp_path, has_shell=False)
        assert bench.run_by_python("true").exit_code == 0
        assert bench.container.settle()
        assert bench.run_by_python(script).exit_code == 0
        assert not bench.container.settle()
        bench.close()

    def test_asked_to_end_a_job_may_put_things_in_order(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, has_shell=False)
        process = bench.by_python(
            "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done"
        )
        outcomes: list[Outcome] = []
        # Who waits finds out that there is no shell.
        waiting = threading.Thread(target=lambda: outcomes.append(process.wait()))
        waiting.start()
        wait_until(lambda: "up" in bench.output(), "the job did not start")
        process.terminate()
        waiting.join(SOON_S)
        assert [outcome.exit_code for outcome in outcomes] == [7]
        bench.close()


class TestFailures:
    """What a job lacks is told in the image's name."""

    def test_a_program(self, bench: Bench) -> None:
        outcome = bench.start(Command(argv=("no-such",))).wait()
        assert outcome.failure is not None
        assert outcome.failure.kind == "not_started"
        assert outcome.failure.message == "the image r.ch/a:1 has no program no-such"
        assert outcome.exit_code is None
        assert not bench.container.settle()

    def test_python3(self, bench: Bench) -> None:
        outcome = bench.start(Call(target="m:f"), {"PATH": "/nowhere"}).wait()
        assert outcome.failure is not None
        assert outcome.failure.message == "the image r.ch/a:1 has no python3"

    def test_a_working_directory(self, bench: Bench) -> None:
        bench.attempt = bench.share / "attempt"
        bench.attempt.mkdir()
        process = bench.container.start(
            Command(argv=("true",)),
            environment={},
            working_directory="/no/such",
            directory=str(bench.attempt),
        )
        assert message(process.wait()) == "the working directory /no/such is not there"

    def test_a_name_that_no_shell_can_set(self, bench: Bench) -> None:
        outcome = bench.start(Command(argv=("true",)), {"b.c": "1"}).wait()
        assert "'b.c'" in message(outcome)
        assert bench.enclosure.pids == []
        assert bench.container.settle()

    def test_a_folder_that_the_container_may_not_write_to(self, bench: Bench) -> None:
        process = bench.begin("true")
        assert process.wait().exit_code == 0
        hide = f"mount -t tmpfs -o ro nothing {bench.share}"
        assert bench.container.settle()
        enter = ("nsenter", "--target", bench.enclosure.first(), "--mount")
        subprocess.run([*enter, "sh", "-c", hide], check=True)
        assert "cannot write the task's logs" in message(bench.run("true"))
        assert not bench.container.settle()

    def test_a_callable_that_a_signal_ended(self, bench: Bench) -> None:
        (bench.share / "mine.py").write_text(
            "import os, sys\ndef die():\n    os.kill(os.getpid(), 11)\n"
            "def leave():\n    sys.exit(3)\n"
        )
        outcome = bench.start(Call(target="mine:die")).wait()
        assert (outcome.exit_code, outcome.signal) == (None, signal.SIGSEGV)
        outcome = bench.start(Call(target="mine:leave")).wait()
        assert (outcome.exit_code, outcome.signal) == (3, None)


class TestUsage:
    """What the kernel counts is the container's, and a job is told its own."""

    def test_processor_time_is_the_jobs_own(self, bench: Bench) -> None:
        bench.enclosure.counts_inside = True
        if bench.run("true").cpu_s is None:
            pytest.skip("the kernel does not show its counters in /sys/fs/cgroup")
        # Here they are the whole machine's.
        used_s = [bench.run("true").cpu_s for _ in range(3)]
        assert all(used is not None and 0 <= used < SOON_S for used in used_s)

    def test_where_nothing_is_counted_nothing_is_told(self, bench: Bench) -> None:
        outcome = bench.run("true")
        assert (outcome.cpu_s, outcome.peak_memory, outcome.out_of_memory) == (None, None, False)

    def counted(self, folder: Path, peak: int, kills: int) -> Account:
        folder.mkdir(exist_ok=True)
        (folder / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
        (folder / "memory.oom_control").write_text(f"under_oom 0\noom_kill {kills}\n")
        return Account({"memory": str(folder)})

    def test_a_job_that_ran_out_of_memory_is_the_last(self, bench: Bench, tmp_path: Path) -> None:
        bench.enclosure.kept_account = self.counted(tmp_path / "group", 5000, 0)
        assert not bench.run("true").out_of_memory
        assert bench.container.settle()
        bench.enclosure.kept_account = self.counted(tmp_path / "group", 5000, 1)
        outcome = bench.run("exit 3")
        assert (outcome.exit_code, outcome.out_of_memory) == (3, True)
        assert not bench.container.settle()

    def test_a_peak_that_cannot_be_counted_anew_is_a_bound(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        class Once(Account):
            def reset_peak(self) -> bool:
                return False

        group = tmp_path / "group"
        self.counted(group, 5000, 0)
        bench.enclosure.kept_account = Once({"memory": str(group)})
        outcome = bench.run("true")
        assert (outcome.peak_memory, outcome.peak_memory_is_bound) == (5000, False)
        outcome = bench.run("true")
        assert (outcome.peak_memory, outcome.peak_memory_is_bound) == (5000, True)
        self.counted(group, 6000, 0)
        outcome = bench.run("true")
        assert (outcome.peak_memory, outcome.peak_memory_is_bound) == (6000, False)
