"""Charliecloud's containers: what is in them, and what is not."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments import ContainerSpec, Mount, Outcome
from fasthep_flow.environments.charliecloud import CHARLIECLOUD, CharliecloudRuntime
from fasthep_flow.environments.host.scratch import user_folder
from fasthep_flow.environments.interpreter import read_reply
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Call, Command, Image, ImageForm, Invocation, Resources

pytestmark = [pytest.mark.charliecloud, pytest.mark.registry]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    # One for all of these tests: to unpack python takes a while.
    path = tmp_path_factory.getbasetemp() / "images for charliecloud"
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(path))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "a: b,\n'c' \"d\" µ $HOME"
    path.mkdir()
    return path


class Tried:
    """What became of a process, and what it said."""

    def __init__(self, outcome: Outcome, directory: Path) -> None:
        self.outcome = outcome
        self.stdout = (directory / "stdout.log").read_text(errors="surrogateescape")
        self.stderr = (directory / "stderr.log").read_text(errors="surrogateescape")

    @property
    def failed(self) -> tuple[str, str]:
        failure = self.outcome.failure
        assert failure is not None, self.stderr
        assert self.outcome.exit_code is None
        return failure.kind, failure.message


def run(
    image: str,
    place: Path,
    *argv: str,
    invocation: Invocation | None = None,
    mounts: tuple[Mount, ...] = (),
    variables: Mapping[str, str] | None = None,
    working_directory: str | None = None,
    form: ImageForm = "registry",
    **facts: Any,
) -> Tried:
    """Run a program in the image, in a container that sees the place."""
    directory = place / "an attempt"
    directory.mkdir(exist_ok=True)
    spec = ContainerSpec(
        name="fasthep-test",
        image=CHARLIECLOUD.resolve(Image(name=image, form=form)),
        mounts=(Mount(source=str(place), target=str(place)), *mounts),
        **facts,
    )
    with CHARLIECLOUD.open(spec) as container:
        process = container.start(
            invocation or Command(argv=argv),
            environment={"FASTHEP_TASK_DIRECTORY": str(directory), **(variables or {})},
            working_directory=working_directory or str(place),
            directory=str(directory),
        )
        outcome = process.wait()
    return Tried(outcome, directory)


def test_it_works_here() -> None:
    assert CHARLIECLOUD.probe() is None


def test_without_ch_run_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert CHARLIECLOUD.probe() == "ch-run is not installed"
    with (
        pytest.raises(EngineUnavailable, match="not installed"),
        CHARLIECLOUD.open(ContainerSpec(name="x", image=_image())),
    ):
        pytest.fail("opened")


def test_a_ch_run_that_cannot_start_anything_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "ch-run"
    fake.write_text('#!/bin/sh\necho "ch-run[$$]: error: can\'t do it: Nope (ch_core.c:1 2)" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    reason = CharliecloudRuntime().probe()
    assert reason == "ch-run cannot start a container here: can't do it: Nope"


@pytest.mark.parametrize("kind", ["user", "IPC"])
def test_where_namespaces_are_forbidden_it_says_so(kind: str) -> None:
    # A namespace in which none may be made below it, as an administrator may set it.
    script = (
        f"echo 0 >/proc/sys/user/max_{kind.lower()}_namespaces && exec "
        f"{sys.executable} -c 'from fasthep_flow.environments.charliecloud import CHARLIECLOUD;"
        " print(CHARLIECLOUD.probe())'"
    )
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.startswith(f"{kind} namespaces are not allowed here (")


def _image() -> Any:
    return CHARLIECLOUD.resolve(Image(name="127.0.0.1:5000/testbed/busybox:1"))


def test_the_network_cannot_be_kept_away() -> None:
    with pytest.raises(LimitUnenforceable, match="network") as refused:
        CHARLIECLOUD.check(Resources(), "none")
    assert refused.value.hint is not None
    assert "podman" in refused.value.hint


def test_the_environment_is_the_image_s_and_the_task_s_alone(
    python_image: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "leaks")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/host")
    script = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
    variables = {"USER": "somebody", "A": "$B", "B": "'quoted'", "C": "", "FASTHEP_ALIASED": "x"}
    tried = run(python_image, place, "python3", "-c", script, variables=variables)
    found = json.loads(tried.stdout)
    # Python sets this one where the environment names no locale.
    found.pop("LC_CTYPE", None)
    assert found == {
        **variables,
        "CH_RUNNING": found["CH_RUNNING"],
        "CUDA_VISIBLE_DEVICES": "",
        "FASTHEP_TASK_DIRECTORY": str(place / "an attempt"),
        "HIP_VISIBLE_DEVICES": "",
        "HOME": str(place / "an attempt"),
        "NVIDIA_VISIBLE_DEVICES": "void",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ROCR_VISIBLE_DEVICES": "",
    }


def test_values_are_in_no_command_line_and_in_no_file(
    python_image: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        "import os, pathlib;"
        "lines = [path.read_bytes() for path in pathlib.Path('/proc').glob('[0-9]*/cmdline')];"
        "print(len(lines) > 1, any(os.environb[b'TOKEN'] in line for line in lines))"
    )
    # What becomes of a container's own files at its end: here they stay.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("fasthep_flow.environments.charliecloud.remove_folder", lambda _: None)
    tried = run(python_image, place, "python3", "-c", script, variables={"TOKEN": "a-s3cret"})
    assert tried.stdout == "True False\n"
    (plan,) = tmp_path.rglob("plan.json")
    assert "TOKEN=" in plan.read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"a-s3cret" in path.read_bytes()]


def test_places_that_the_image_does_not_have(busybox_image: str, place: Path) -> None:
    (place / "folder").mkdir()
    (place / "folder/file").write_text("hello")
    odd = "/not/there:at all/\nµ"
    mounts = (
        Mount(source=str(place / "folder"), target=odd),
        Mount(source=str(place / "folder/file"), target="/etc/of/ours", read_only=True),
        Mount(source=str(place / "folder"), target="/bin/deep", read_only=True),
        Mount(source=str(place / "folder"), target="/root"),
    )
    script = (
        'cat "$1/file" /etc/of/ours /bin/deep/file /root/file; echo new >"$1/made"; echo; ls /etc'
    )
    tried = run(busybox_image, place, "sh", "-c", script, "sh", odd, mounts=mounts)
    assert tried.outcome.exit_code == 0, tried.stderr
    assert tried.stdout.startswith("hello" * 4)
    # The image's own files are still there.
    assert {"passwd", "group", "of", "resolv.conf"} <= set(tried.stdout.split())
    assert (place / "folder/made").read_text() == "new\n"
    image = CHARLIECLOUD.resolve(Image(name=busybox_image)).reference
    assert not Path(image, "not").exists()
    assert not Path(image, "etc/of").exists()


def test_read_only_is_read_only(busybox_image: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    (folder / "in").mkdir(parents=True)
    mounts = (Mount(source=str(folder), target="/given", read_only=True),)
    script = "for f in /given/x /given/in/x /x /bin/x /etc/x; do (echo x >$f) && echo $f; done; :"
    tried = run(busybox_image, place, "sh", "-c", script, mounts=mounts)
    assert (tried.outcome.exit_code, tried.stdout) == (0, "")
    assert tried.stderr.count("Read-only file system") == 5
    assert not list(folder.rglob("x"))


def test_a_mount_in_a_mount(busybox_image: str, place: Path, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    mounts = (
        Mount(source=str(tmp_path / "inner"), target="/data/below/inner"),
        Mount(source=str(tmp_path / "outer"), target="/data", read_only=True),
    )
    tried = run(busybox_image, place, "ls", "/data", "/data/below/inner", mounts=mounts)
    assert tried.stdout.split() == ["/data:", "below", "outer", "/data/below/inner:", "inner"]
    # Nothing is made in a folder that may only be read.
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["outer"]


def test_links_of_an_image_lead_nowhere_out_of_it(busybox_root: Path, tmp_path: Path) -> None:
    root, place, target = tmp_path / "image", tmp_path / "place", tmp_path / "target"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    for path in (place, target):
        path.mkdir()
    (root / "data").symlink_to(target)
    (root / "up").symlink_to("../../../..")
    (place / "mine").write_text("mine")
    mounts = (
        Mount(source=str(place), target="/data/here"),
        Mount(source=str(place), target="/up/there"),
    )
    tried = run(
        str(root), place, "cat", "/data/here/mine", "/there/mine", mounts=mounts, form="folder"
    )
    assert (tried.stdout, tried.outcome.exit_code) == ("minemine", 0)
    assert not list(target.iterdir())
    assert not (root / "there").exists()


def test_a_folder_of_somebody_else_s_is_not_touched(cvmfs_image: Path, place: Path) -> None:
    def listing() -> list[str]:
        return sorted(str(path) for path in cvmfs_image.resolve().rglob("*"))

    before = listing()
    script = "import os, sys; print(os.getcwd()); open('made', 'w')"
    tried = run(str(cvmfs_image), place, "python3", "-c", script, form="folder")
    assert (tried.outcome.exit_code, tried.stdout) == (0, f"{place}\n")
    assert (place / "made").stat().st_uid == os.getuid()
    assert listing() == before


def test_temporary_folders_are_the_container_s_own(busybox_image: str, place: Path) -> None:
    script = "ls -a /tmp /var/tmp; echo x >/tmp/a; echo y >/var/tmp/b; stat -c %a /tmp; df /tmp /"
    for _ in range(2):
        tried = run(busybox_image, place, "sh", "-c", script)
        assert tried.outcome.exit_code == 0, tried.stderr
        lines = tried.stdout.split()
        # Only the way to the folders that it sees.
        assert {"a", "b"}.isdisjoint(lines)
        assert "1777" in lines
    containers = user_folder() / "containers"
    assert not [path for path in containers.iterdir() if (path / "tmp/a").exists()]


def test_what_is_shared_in_memory_by_name_is_the_container_s_own(
    python_image: str, place: Path
) -> None:
    # One of each kind, as msgget(2), semget(2) and shmget(2) make them.
    code = (
        "import ctypes, os\n"
        "libc, key = ctypes.CDLL(None), 0x66617374\n"
        "assert libc.msgget(key, 0o1600) >= 0\n"
        "assert libc.semget(key, 1, 0o1600) >= 0\n"
        "assert libc.shmget(key, 4096, 0o1600) >= 0\n"
        "for kind in ('msg', 'sem', 'shm'):\n"
        "    print(len(open('/proc/sysvipc/' + kind).readlines()))\n"
        "print(os.readlink('/proc/self/ns/ipc'))\n"
    )

    def on_host() -> list[str]:
        return [Path("/proc/sysvipc", kind).read_text("ascii") for kind in ("msg", "sem", "shm")]

    mark = f" {0x66617374} "
    assert not any(mark in table for table in on_host())
    tried = run(python_image, place, "python3", "-c", code)
    assert tried.outcome.exit_code == 0, tried.stderr
    # A line of titles and what was made, and nothing of the host's.
    assert tried.stdout.split()[:3] == ["2", "2", "2"]
    assert tried.stdout.split()[3] != os.readlink("/proc/self/ns/ipc")  # noqa: PTH115
    assert not any(mark in table for table in on_host())


def test_what_a_task_locks_away_is_removed_too(busybox_image: str, place: Path) -> None:
    before = set((user_folder() / "containers").iterdir())
    run(busybox_image, place, "sh", "-c", "mkdir -p /tmp/a/b; touch /tmp/a/b/c; chmod 0 /tmp/a/b")
    left = set((user_folder() / "containers").iterdir()) - before
    assert not [path for path in left if (path / "plan.json").exists()]


def test_host_and_home_stay_outside(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "sh", "-c", "ls / /root /home 2>/dev/null; ls /tmp")
    assert "work" not in tried.stdout.split()
    assert Path.home().name not in tried.stdout.split() or Path.home() == Path("/root")


def test_a_program_that_is_not_there_leaves_the_log_alone(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "no\nsuch: program")
    assert tried.failed == (
        "not_started",
        f"the image {busybox_image} has no program no\nsuch: program",
    )
    assert tried.stderr == ""
    kind, message = run(busybox_image, place, "bash", "-c", "true").failed
    assert (kind, message) == ("not_started", f"the image {busybox_image} has no program bash")


def test_a_callable_without_python3(busybox_image: str, place: Path) -> None:
    call = Call(target="mine:f", args=(), kwargs={})
    assert run(busybox_image, place, invocation=call).failed == (
        "not_started",
        f"the image {busybox_image} has no python3",
    )


def test_a_callable_where_python3_is_too_old(busybox_root: Path, tmp_path: Path) -> None:
    root, place = tmp_path / "image", tmp_path / "place"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    place.mkdir()
    # As far as the shim comes in Python 3.4.
    python = root / "usr/bin/python3"
    python.write_text(
        "#!/bin/sh\n"
        """printf '{"failure": {"kind": "not_started", "message": "python3 is 3.4 there"}}' """
        '>"$5/reply.json"\nexit 1\n'
    )
    python.chmod(0o755)
    call = Call(target="mine:f", args=(), kwargs={})
    tried = run(str(root), place, invocation=call, form="folder")
    assert (tried.outcome.exit_code, tried.outcome.failure) == (1, None)
    reply = read_reply(str(place / "an attempt"))
    assert reply is not None
    assert reply.failure is not None
    assert reply.failure.message == "python3 is 3.4 there"


def test_images_without_a_shell(noshell_image: str, pythononly_image: str, place: Path) -> None:
    assert run(noshell_image, place, "echo", "hello").stdout == "hello\n"
    assert run(noshell_image, place, "/bin/sh", "-c", "true").failed[0] == "not_started"
    (place / "mine.py").write_text("def f(a):\n    return a + 1\n")
    call = Call(target="mine:f", args=(1,), kwargs={})
    assert run(pythononly_image, place, invocation=call).outcome.exit_code == 0
    reply = read_reply(str(place / "an attempt"))
    assert reply is not None
    assert reply.value == 2


def test_what_cannot_be_executed_is_told(busybox_image: str, place: Path) -> None:
    (place / "plain").write_text("#!/bin/sh\n")
    (place / "foreign").write_bytes(b"\x7fELF" + bytes(200))
    (place / "lost").write_text("#!/no/such/shell\n")
    for name in ("foreign", "lost"):
        (place / name).chmod(0o755)
    kind, message = run(busybox_image, place, "./plain").failed
    assert (kind, message) == (
        "not_started",
        f"./plain may not be executed in the image {busybox_image}",
    )
    kind, message = run(busybox_image, place, "./lost").failed
    assert (kind, "./lost" in message) == ("not_started", True)


@pytest.mark.parametrize("code", [1, 31, 49, 57, 125, 127])
def test_a_task_that_talks_like_ch_run_is_still_the_task(
    busybox_image: str, place: Path, code: int
) -> None:
    said = "ch-run[1]: error: can't execve(2): x: No such file or directory (ch_core.c:410 2)"
    tried = run(busybox_image, place, "sh", "-c", f'echo "{said}" >&2; exit {code}')
    assert (tried.outcome.exit_code, tried.outcome.failure) == (code, None)
    assert tried.stderr == f"{said}\n"


def test_a_working_directory_that_is_not_there(busybox_image: str, place: Path) -> None:
    kind, message = run(busybox_image, place, "true", working_directory="/no/such/folder").failed
    assert kind == "environment"
    assert "/no/such/folder" in message


def test_what_cannot_be_mounted_is_told(busybox_image: str, place: Path) -> None:
    missing = Mount(source=str(place / "missing"), target="/data")
    kind, message = run(busybox_image, place, "true", mounts=(missing,)).failed
    assert kind == "environment"
    assert str(place / "missing") in message
    onto_file = Mount(source=str(place), target="/etc/passwd")
    kind, message = run(busybox_image, place, "true", mounts=(onto_file,)).failed
    assert (kind, "the image has a file there" in message) == ("environment", True)
    below_file = Mount(source=str(place), target="/etc/passwd/below")
    kind, message = run(busybox_image, place, "true", mounts=(below_file,)).failed
    assert (kind, "/etc/passwd/below" in message) == ("environment", True)


def test_files_of_the_host_that_the_container_needs(busybox_root: Path, tmp_path: Path) -> None:
    root, place = tmp_path / "image", tmp_path / "place"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    place.mkdir()
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
    # As an image has it that was made of an installed system.
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    script = "cat /etc/hosts /etc/resolv.conf; : >>/etc/hosts && echo written; whoami"
    tried = run(str(root), place, "sh", "-c", script, form="folder")
    files = [Path("/etc/hosts").read_text(), Path("/etc/resolv.conf").read_text()]
    assert tried.stdout.startswith("".join(files))
    # Not even by root.
    assert "written" not in tried.stdout.removeprefix("".join(files))
    assert "Read-only file system" in tried.stderr


def test_a_variable_that_is_too_long_is_told(busybox_image: str, place: Path) -> None:
    kind, message = run(busybox_image, place, "true", variables={"LONG": "x" * 200_000}).failed
    assert kind == "not_started"
    assert message.startswith("the arguments and variables of true are longer")


def test_further_words_for_ch_run(busybox_image: str, place: Path) -> None:
    options = ("--set-env=FROM_OPTION=1",)
    tried = run(busybox_image, place, "sh", "-c", "echo $FROM_OPTION", options=options)
    assert tried.stdout == "1\n"
    kind, message = run(busybox_image, place, "true", options=("--no-such-option",)).failed
    assert kind == "environment"
    assert "no-such-option" in message


def test_signals_are_as_they_should_be(python_image: str, place: Path) -> None:
    # Python ignores this one, and what it starts would, too.
    tried = run(python_image, place, "sh", "-c", "kill -PIPE $$; echo alive")
    assert (tried.outcome.signal, tried.stdout) == (13, "")


def test_files_belong_to_the_caller(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "sh", "-c", "id -u; id -g; touch made; mkdir folder")
    assert tried.stdout.split() == [str(os.getuid()), str(os.getgid())]
    for name in ("made", "folder"):
        assert (place / name).stat().st_uid == os.getuid()


def test_programs_do_not_become_somebody_else(busybox_image: str) -> None:
    root = Path(CHARLIECLOUD.resolve(Image(name=busybox_image)).reference)
    assert not [
        path
        for path in root.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]
