from pathlib import Path

import pytest

from fasthep_flow.environments.host import machine
from fasthep_flow.environments.host.machine import (
    bytes_text,
    cpu_count,
    cpu_limits,
    memory_bytes,
    memory_limits,
    require_machine,
)
from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1Ki"),
        (64 * 2**20, "64Mi"),
        (3 * 2**29, "1.5Gi"),
        (2**40, "1Ti"),
        (2**60, "1Ei"),
    ],
)
def test_bytes_are_said_as_they_are_written(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        (
            "0::/batch/slot\n",
            {"batch/memory.max": "3000\n", "batch/slot/memory.max": "max\n"},
            [3000],
        ),
        (
            "5:cpu,cpuacct:/other\n4:memory:/batch/slot\n0::/\n",
            {
                "memory/batch/slot/memory.limit_in_bytes": "2000\n",
                "memory/batch/memory.limit_in_bytes": "3000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/other/memory.limit_in_bytes": "1\n",
            },
            [2000, 3000, 9223372036854771712],
        ),
        (
            "4:memory:/of/the/host\n",
            {"memory/memory.limit_in_bytes": "2000\n", "memory.max": "1\n"},
            [2000],
        ),
        ("0::/../../a:b\n", {"memory.max": "4000\n"}, [4000]),
        ("1:name=systemd:/\n", {"memory.max": "1\n"}, []),
    ],
    ids=["version 2", "version 1", "in a container", "above its namespace", "neither"],
)
def test_the_share_of_a_slot_is_what_there_is(
    tmp_path: Path, groups: str, files: dict[str, str], limits: list[int]
) -> None:
    root = tmp_path / "a" / "b" / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    assert list(memory_limits(str(tmp_path / "groups"), str(root))) == limits


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        (
            "0::/batch/slot\n",
            {"batch/cpu.max": "250000 100000\n", "batch/slot/cpu.max": "max 100000\n"},
            [2.5],
        ),
        (
            "5:cpu,cpuacct:/batch\n0::/\n",
            {
                "cpu/batch/cpu.cfs_quota_us": "50000\n",
                "cpu/batch/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
        ("4:memory:/\n", {"cpu.max": "1 1\n"}, []),
    ],
    ids=["version 2", "version 1", "neither"],
)
def test_the_share_of_processors_of_a_slot_is_what_there_is(
    tmp_path: Path, groups: str, files: dict[str, str], limits: list[float]
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    assert list(cpu_limits(str(tmp_path / "groups"), str(root))) == limits


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (1.0, 1), (1.9, 1)])
def test_the_processors_of_a_slot_are_counted_whole(
    monkeypatch: pytest.MonkeyPatch, share: float, count: int
) -> None:
    machine._cpu_share.cache_clear()
    monkeypatch.setattr(machine, "cpu_limits", lambda: iter([64.0, share]))
    assert cpu_count() == count
    machine._cpu_share.cache_clear()


def test_where_there_are_no_control_groups_the_machine_is_all(tmp_path: Path) -> None:
    assert list(memory_limits(str(tmp_path / "none"))) == []
    assert list(cpu_limits(str(tmp_path / "none"))) == []


def test_what_there_is_can_be_asked_for() -> None:
    require_machine(Resources())
    require_machine(Resources(cpus=cpu_count(), memory=memory_bytes()))
    with pytest.raises(LimitUnenforceable, match=f"this machine gives {cpu_count()}"):
        require_machine(Resources(cpus=cpu_count() + 0.5))
    with pytest.raises(LimitUnenforceable, match="of memory are asked for"):
        require_machine(Resources(memory=memory_bytes() + 1))
    with pytest.raises(LimitUnenforceable) as caught:
        require_machine(Resources(cpus=100_000, memory=2**60))
    assert caught.value.message == (
        "100000 cpus and 1Ei of memory are asked for, and this machine "
        f"gives {cpu_count()} and has {bytes_text(memory_bytes())}"
    )
