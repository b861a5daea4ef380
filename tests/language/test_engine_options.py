"""Further words for a runtime's command line."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from fasthep_flow.language.engine_options import check_options

OF_ENGINES = ("podman", "docker")


def refused(runtime: str, *words: str) -> list[tuple[int, str, str | None]]:
    return [
        (number, refusal.message, refusal.hint) for number, refusal in check_options(words, runtime)
    ]


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("podman", "--cap-add SYS_PTRACE"),
        ("podman", "--cap-add=SYS_PTRACE --security-opt seccomp=unconfined"),
        ("podman", "--shm-size 1g --ulimit nofile=1024 --privileged"),
        ("podman", "-v /cvmfs:/cvmfs:ro --volume=/eos:/eos"),
        ("podman", "-v/data/in:/data/in"),
        ("podman", "--pids-limit 100 --device /dev/fuse --dns=1.1.1.1"),
        ("podman", "--read-only --tmpfs /scratch"),
        ("podman", "-v /tmp:/data --volume=/tmp/data:/tmp/data --mount type=bind,src=/tmp,dst=/x"),
        ("podman", "--secret=token,type=env,target=TOKEN --label COLOUR=red --authfile=a.json"),
        ("docker", "--add-host a:127.0.0.1 -h name"),
        ("apptainer", "--bind /cvmfs -B /eos:/eos --writable-tmpfs -u --bind /a,/tmp:/b"),
        ("charliecloud", "--bind=/cvmfs -b /eos -w --private-tmp"),
        ("of-a-plugin", "--name a"),
        ("podman", ""),
    ],
)
def test_options_that_may_be(runtime: str, words: str) -> None:
    assert refused(runtime, *words.split()) == []


@pytest.mark.parametrize(
    ("words", "name", "instead"),
    [
        ("--name a", "--name", "a container of its own"),
        ("--name=a", "--name", "a container of its own"),
        ("--rm", "--rm", "a container of its own"),
        ("--restart=always", "--restart", "a container of its own"),
        ("--cidfile a", "--cidfile", "a container of its own"),
        ("--detach", "--detach", "a container of its own"),
        ("-d", "-d", "a container of its own"),
        ("-it", "-i", "goes to its logs"),
        ("-qt", "-t", "goes to its logs"),
        ("--tty=true", "--tty", "goes to its logs"),
        ("--interactive", "--interactive", "goes to its logs"),
        ("--entrypoint /bin/sh", "--entrypoint", "the task's own program is"),
        ("--pid=host", "--pid", "processes of its own"),
        ("--init", "--init", "processes of its own"),
        ("--user root", "--user", "the user who started it"),
        ("-u0", "-u", "the user who started it"),
        ("--userns=host", "--userns", "the user who started it"),
        ("--env A=1", "--env", "'variables'"),
        ("-eA=1", "-e", "'variables'"),
        ("--env-file=x", "--env-file", "'variables'"),
        ("--workdir /", "--workdir", "the folder of the workflow file"),
        ("--memory 1g", "--memory", "'resources'"),
        ("-m1g", "-m", "'resources'"),
        ("--memory-swap=-1", "--memory-swap", "'resources'"),
        ("--cpus=1", "--cpus", "'resources'"),
        ("--gpus all", "--gpus", "'process_on'"),
        ("--network none", "--network", "'network: none'"),
        ("--net=host", "--net", "'network: none'"),
        ("-p 80:80", "-p", "are open as they are"),
        ("--pull always", "--pull", "beside the image's 'name'"),
        ("--platform=linux/arm64", "--platform", "beside the image's 'name'"),
    ],
)
@pytest.mark.parametrize("runtime", OF_ENGINES)
def test_options_that_would_undo_a_promise(
    runtime: str, words: str, name: str, instead: str
) -> None:
    ((number, message, hint),) = refused(runtime, *words.split())
    assert (number, message) == (0, f"'{name}' cannot be among the options of {runtime}")
    assert instead in (hint or "")


@pytest.mark.parametrize(
    ("runtime", "word"),
    [
        ("apptainer", "--env=A=1"),
        ("apptainer", "--env-file=x"),
        ("apptainer", "-e"),
        ("apptainer", "--pwd=/"),
        ("apptainer", "-H/home"),
        ("apptainer", "--memory=1g"),
        ("apptainer", "-un"),
        ("apptainer", "-i"),
        ("apptainer", "--ipc"),
        ("apptainer", "--security=uid:0"),
        ("apptainer", "--scratch=/data"),
        ("apptainer", "-S/data"),
        ("apptainer", "--workdir=/data"),
        ("apptainer", "-W/data"),
        ("apptainer", "--home=/data"),
        ("apptainer", "--nv"),
        ("apptainer", "--fakeroot"),
        ("charliecloud", "--set-env=A=1"),
        # ch-run takes the beginning of an option for all of it.
        ("charliecloud", "--set"),
        ("charliecloud", "--unset=A"),
        ("charliecloud", "-c/"),
        ("charliecloud", "-u0"),
        ("charliecloud", "--join"),
    ],
)
def test_each_runtime_has_options_of_its_own(runtime: str, word: str) -> None:
    ((_, message, hint),) = refused(runtime, word)
    assert message.endswith(f"cannot be among the options of {runtime}")
    assert hint


@pytest.mark.parametrize(
    ("runtime", "words", "number"),
    [
        ("podman", ["-v", "/data:/tmp"], 1),
        ("podman", ["-v/data:/tmp:ro"], 0),
        ("docker", ["-qv", "/data:/tmp/"], 1),
        ("docker", ["-v=/data:/tmp"], 0),
        ("docker", ["--volume=/tmp"], 0),
        ("podman", ["--tmpfs", "/tmp"], 1),  # noqa: S108 - as an author writes it
        ("podman", ["--tmpfs=/tmp:size=1g"], 0),
        ("podman", ["--mount", "type=bind,src=/data,target=/tmp"], 1),
        ("docker", ["--mount=type=tmpfs,destination=/var/tmp"], 0),
        ("docker", ["--mount=type=tmpfs,DST=/tmp"], 0),
        ("apptainer", ["--bind", "/data:/mnt,/scratch:/tmp:ro"], 1),
        ("apptainer", ["-B", "/tmp"], 1),  # noqa: S108
        ("apptainer", ["-uB/data:/var//tmp"], 0),
        ("apptainer", ["--mount", "type=bind,src=/data,dst=//tmp"], 1),
        ("apptainer", ["--fusemount", "host:tool /tmp"], 1),
        ("charliecloud", ["--bind=/data:/tmp"], 0),
        ("charliecloud", ["--bi", "/data:/tmp"], 1),
        ("charliecloud", ["-wb/tmp"], 0),
    ],
)
def test_nothing_is_mounted_on_the_containers_own_tmp(
    runtime: str, words: list[str], number: int
) -> None:
    ((found, message, _),) = refused(runtime, *words)
    assert found == number
    assert message.startswith("nothing can be mounted on /")
    assert message.endswith("tmp, which is the container's own")


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["--label", "TOKEN=hunter2"], 1),
        (["--label=TOKEN=hunter2"], 0),
        (["--annotation", "a=1,API_KEY=hunter2"], 1),
        (["--docker-password=hunter2"], 0),
        (["-lDB_PASSWORD=hunter2", "--privileged"], 0),
        (["--add-host", "https://user:hunter2@host/"], 1),
        (["TOKEN=hunter2"], 0),
    ],
)
@pytest.mark.parametrize("runtime", [*OF_ENGINES, "of-a-plugin"])
def test_what_looks_like_a_secret_is_no_option(runtime: str, words: list[str], number: int) -> None:
    ((found, message, hint),) = refused(runtime, *words)
    assert found == number
    assert message == "this looks like a secret, and no option can keep one"
    assert "readable by everyone on the machine" in (hint or "")
    assert "hunter2" not in f"{message} {hint}"


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["alpine"], 0),
        (["--privileged", "alpine"], 1),
        (["--cap-add=X", "alpine"], 1),
        (["--cap-add", "X", "alpine"], 2),
        (["-v/a:/b", "alpine"], 1),
        (["-q", "alpine"], 1),
        (["--"], 0),
        (["-"], 0),
        ([""], 0),
        (["--label", "a\0b"], 1),
    ],
)
def test_what_could_be_taken_for_the_image(words: list[str], number: int) -> None:
    ((found, _, _),) = refused("podman", *words)
    assert found == number


@pytest.mark.parametrize(
    ("runtime", "command"),
    [
        pytest.param("podman", ["podman", "run", "--help"], marks=pytest.mark.podman),
        pytest.param("docker", ["docker", "run", "--help"], marks=pytest.mark.docker),
        pytest.param("apptainer", ["apptainer", "exec", "--help"], marks=pytest.mark.apptainer),
    ],
)
def test_flags_are_told_from_options_with_a_value(runtime: str, command: list[str]) -> None:
    """Behind a flag no value stands; behind what takes one, one does."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^ +(?:-(\w), )?--([a-z0-9-]+)(?: (\S+))?  ", told, flags=re.MULTILINE)
    assert len(rows) > 40
    for short, name, value in rows:
        for word in filter(None, (short and f"-{short}", f"--{name}")):
            found = [number for number, _, _ in refused(runtime, word, "value")]
            if 0 not in found:
                assert found == ([] if value else [1]), word
