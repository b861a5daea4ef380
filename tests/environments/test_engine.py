"""What engines say of themselves; their own words are recorded here."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments import ContainerSpec, Mount, ResolvedImage
from fasthep_flow.environments.containers.commandline import mount_option, run_argv, user_options
from fasthep_flow.environments.engine import Engine, EngineFacts, last_lines, read_facts
from fasthep_flow.environments.oci import OciRuntime
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Resources

MEBI = 2**20


def engine_that_says(folder: Path, text: str, *, stderr: str = "", code: int = 0) -> Engine:
    """An engine whose client says the same to every question."""
    client = folder / "engine-client"
    (folder / "answer").write_text(text)
    (folder / "complaint").write_text(stderr)
    client.write_text(
        f"#!/bin/sh\ncat '{folder}/answer'\ncat '{folder}/complaint' >&2\nexit {code}\n"
    )
    client.chmod(0o755)
    return Engine(program=str(client), not_there="start it")


def podman(**host: Any) -> dict[str, Any]:
    return {"host": {"security": {"rootless": False}, **host}, "version": {"Version": "5.2.1"}}


def docker(**facts: Any) -> dict[str, Any]:
    return {"ServerVersion": "20.10.24", "MemoryLimit": True, "CpuCfsQuota": True, **facts}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            podman(cgroupVersion="v2", cgroupControllers=["cpu", "memory", "pids"]),
            EngineFacts(
                version="5.2.1",
                podman=True,
                rootless=False,
                limits=frozenset({"cpus", "memory"}),
                cgroups="2",
            ),
        ),
        (
            podman(cgroupVersion="v2", cgroupControllers=["memory"], security={"rootless": True}),
            EngineFacts(
                version="5.2.1",
                podman=True,
                rootless=True,
                limits=frozenset({"memory"}),
                cgroups="2",
            ),
        ),
        (
            podman(cgroupVersion="v1", cgroupControllers=["memory"], security={"rootless": True}),
            EngineFacts(
                version="5.2.1", podman=True, rootless=True, limits=frozenset(), cgroups="1"
            ),
        ),
        (
            docker(CgroupVersion="1", SecurityOptions=["name=seccomp", "name=userns"]),
            EngineFacts(
                version="20.10.24",
                podman=False,
                rootless=False,
                remapped=True,
                limits=frozenset({"cpus", "memory"}),
                cgroups="1",
            ),
        ),
        (
            docker(CgroupVersion="2", MemoryLimit=False, SecurityOptions=["name=rootless"]),
            EngineFacts(
                version="20.10.24",
                podman=False,
                rootless=True,
                limits=frozenset({"cpus"}),
                cgroups="2",
            ),
        ),
    ],
)
def test_reads_what_an_engine_says_of_itself(
    tmp_path: Path, said: dict[str, Any], expected: EngineFacts
) -> None:
    assert read_facts(engine_that_says(tmp_path, json.dumps(said))) == expected


@pytest.mark.parametrize(
    ("text", "stderr", "code", "words"),
    [
        (
            '{"ServerVersion": ""}',
            "Cannot connect to the Docker daemon at unix:///x.",
            1,
            "unix:///x",
        ),
        ("{}", "permission denied while trying to connect to docker.sock", 1, "permission denied"),
        ("", "Error: unable to connect to Podman socket", 125, "Podman socket"),
        ("nonsense", "", 0, "cannot be read"),
        ("[]", "", 0, "cannot be read"),
        ("{}", "something else\nlast words", 1, "something else; last words"),
    ],
)
def test_an_engine_that_does_not_answer_is_told(
    tmp_path: Path, text: str, stderr: str, code: int, words: str
) -> None:
    engine = engine_that_says(tmp_path, text, stderr=stderr, code=code)
    with pytest.raises(EngineUnavailable) as caught:
        read_facts(engine)
    assert words in caught.value.message
    assert caught.value.hint == "start it"
    obstacle = OciRuntime(engine).probe()
    assert obstacle is not None
    assert words in obstacle


def test_an_engine_that_is_not_installed_is_told() -> None:
    runtime = OciRuntime(Engine(program="no-such-engine", not_there="install it"))
    assert runtime.name == "no-such-engine"
    assert runtime.probe() == "no-such-engine is not installed"


def test_last_lines_leave_noise_out() -> None:
    said = "a\nlevel=warning x\n\nb\n  c\nd\n\nRun 'docker run --help' for more information\n"
    assert last_lines(said) == "b; c; d"
    assert last_lines("") == ""


class TestLimits:
    def runtime(self, folder: Path, said: dict[str, Any]) -> OciRuntime:
        return OciRuntime(engine_that_says(folder, json.dumps(said)))

    def test_are_held_by_the_control_group(self, tmp_path: Path) -> None:
        runtime = self.runtime(tmp_path, docker())
        assert runtime.check(Resources(memory=64 * MEBI, cpus=0.5)) == {
            "memory": "cgroup",
            "cpus": "cgroup",
        }
        assert runtime.check(Resources()) == {}

    @pytest.mark.parametrize(
        ("said", "resources", "words"),
        [
            (docker(MemoryLimit=False), Resources(memory=64 * MEBI), "limit memory"),
            (docker(CpuCfsQuota=False), Resources(cpus=1), "limit cpus"),
            (
                podman(
                    cgroupVersion="v1", cgroupControllers=["memory"], security={"rootless": True}
                ),
                Resources(memory=64 * MEBI),
                "version 2",
            ),
            (
                podman(cgroupVersion="v2", cgroupControllers=["memory"]),
                Resources(cpus=1),
                "'cpu' controller",
            ),
            (docker(), Resources(memory=MEBI), "too small"),
            (docker(), Resources(cpus=0.0004), "0.0004 cpus are too few"),
            (docker(), Resources(cpus=0.0099), "0.0099 cpus are too few"),
            (docker(), Resources(memory=2**60), "this machine has"),
            (docker(), Resources(cpus=100_000), "this machine gives"),
        ],
    )
    def test_that_cannot_be_held_are_refused(
        self, tmp_path: Path, said: dict[str, Any], resources: Resources, words: str
    ) -> None:
        with pytest.raises(LimitUnenforceable) as caught:
            self.runtime(tmp_path, said).check(resources)
        assert words in caught.value.message


class TestCommandLine:
    facts = EngineFacts(version="1", podman=False, rootless=False, limits=frozenset(), cgroups="2")

    def argv(self, *program: str, **spec: Any) -> list[str]:
        image = ResolvedImage(name="i", reference="sha256:00", digest="sha256:00")
        return run_argv(
            Engine(program="docker", not_there=""),
            self.facts,
            ContainerSpec(name="n", image=image, **spec),
            program or ("/bin/sh",),
            scratch="/scratch, mine",
        )

    def values(self, argv: list[str], option: str) -> list[str]:
        return [argv[index + 1] for index, word in enumerate(argv) if word == option]

    def test_runs_these_bytes_and_not_the_entrypoint(self) -> None:
        argv = self.argv("python3", "-c", "text")
        assert argv[:2] == ["docker", "run"]
        assert argv[-5:] == ["--entrypoint", "python3", "sha256:00", "-c", "text"]
        assert self.values(argv, "--name") == ["n"]
        assert self.values(argv, "--pull") == ["never"]

    def test_reads_its_orders_and_goes_with_them(self) -> None:
        argv = self.argv()
        assert "--interactive" in argv
        assert "--rm" in argv
        assert not {"--tty", "--detach", "--init"} & set(argv)
        # Neither its orders nor its answers are for the engine's records.
        assert self.values(argv, "--log-driver") == ["none"]

    def test_knows_nothing_of_a_job(self) -> None:
        argv = self.argv()
        assert self.values(argv, "--env") == ["NVIDIA_VISIBLE_DEVICES=void"]
        assert "--workdir" not in argv

    def test_temporary_files_are_on_the_machines_disk(self) -> None:
        mount = Mount(source="/tmp/w", target="/tmp/w")  # noqa: S108 - it may well be there
        argv = self.argv(mounts=(mount,))
        # What is mounted below comes later: so it is seen.
        assert self.values(argv, "--mount") == [
            'type=bind,"source=/scratch, mine/tmp",target=/tmp',
            'type=bind,"source=/scratch, mine/var_tmp",target=/var/tmp',
            "type=bind,source=/tmp/w,target=/tmp/w",
        ]

    def test_limits_leave_no_swap(self) -> None:
        argv = self.argv(resources=Resources(memory=1000, cpus=0.25))
        assert self.values(argv, "--memory") == self.values(argv, "--memory-swap") == ["1000"]
        assert self.values(argv, "--cpus") == ["0.250000000"]
        assert not {"--memory", "--memory-swap", "--cpus"} & set(self.argv())

    def test_what_the_author_adds_comes_last(self) -> None:
        argv = self.argv(options=("--shm-size", "1g"), network="none", labels={"a": "b=c"})
        assert argv[-5:] == ["--shm-size", "1g", "--entrypoint", "/bin/sh", "sha256:00"]
        assert self.values(argv, "--network") == ["none"]
        assert self.values(argv, "--label") == ["a=b=c"]

    def test_without_an_image_there_is_none(self) -> None:
        engine = Engine(program="docker", not_there="")
        with pytest.raises(ValueError, match="an image"):
            run_argv(engine, self.facts, ContainerSpec(name="n"), ("sh",), scratch="/s")

    @pytest.mark.parametrize(
        ("mount", "option"),
        [
            (Mount(source="/a", target="/b"), "type=bind,source=/a,target=/b"),
            (
                Mount(source="/a", target="/b", read_only=True),
                "type=bind,source=/a,target=/b,readonly",
            ),
            (
                Mount(source='/a b,c:"d"', target="/e,"),
                'type=bind,"source=/a b,c:""d""","target=/e,"',
            ),
            (Mount(source="/a\nb", target="/e\r"), 'type=bind,"source=/a\nb","target=/e\r"'),
        ],
    )
    def test_any_path_can_be_mounted(self, mount: Mount, option: str) -> None:
        assert mount_option(mount) == option

    def test_files_are_the_callers(self) -> None:
        own = f"{os.getuid()}:{os.getgid()}"

        def options(**facts: Any) -> tuple[str, ...]:
            described = {"version": "1", "limits": frozenset(), "cgroups": "2", **facts}
            return tuple(user_options(EngineFacts(**described)))

        assert options(podman=True, rootless=False) == ("--user", own)
        assert options(podman=True, rootless=True) == ("--userns", "keep-id", "--user", own)
        assert options(podman=False, rootless=True) == ("--user", "0:0")
        assert options(podman=False, rootless=False)[:2] == ("--user", own)
        assert "host" in options(podman=False, rootless=False, remapped=True)
