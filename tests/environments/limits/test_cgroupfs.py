"""Control groups as files, with made-up files: of versions and places that a test has not."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.environments.limits.accounts import Account, Counters
from fasthep_flow.environments.limits.cgroupfs import (
    folders_of,
    groups_below,
    mounts,
    oom_event,
    pids_below,
    pids_in,
    remove_tree,
    room_below,
    set_limit,
)


class Kernel:
    """What a kernel shows of control groups.

    Args:
        folder: Where; empty.
        groups: Lines of ``/proc/self/cgroup``.
    """

    def __init__(self, folder: Path, groups: str) -> None:
        self.proc = str(folder / "proc")
        self.top = folder / "cgroup"
        self.top.mkdir()
        own = folder / "proc" / "self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(groups)
        self.mountinfo = own / "mountinfo"
        self.mountinfo.write_text("22 1 0:20 / / rw,relatime - ext4 /dev/vda rw\n")

    def mount(self, name: str, kind: str, options: str, root: str = "/") -> Path:
        point = self.top / name
        point.mkdir(exist_ok=True, parents=True)
        place = f"35 31 0:32 {root} {_escaped(str(point))} rw,relatime shared:7"
        line = f"{place} - {kind} {kind} {options}\n"
        self.mountinfo.write_text(self.mountinfo.read_text() + line)
        return point

    def files(self, folder: Path, **files: str) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return str(folder)


def _escaped(path: str) -> str:
    for character in "\\ \t\n":
        path = path.replace(character, f"\\{ord(character):03o}")
    return path


class TestPlaces:
    def test_of_version_1(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path, "5:cpuacct,cpu:/slot\n4:memory:/slot/of mine\n2:pids:/\n0::/\n")
        memory = kernel.mount("memory", "cgroup", "rw,memory") / "slot" / "of mine"
        cpu = kernel.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct") / "slot"
        kernel.mount("unified", "cgroup2", "rw")
        for folder in (memory, cpu):
            folder.mkdir(parents=True)
        assert folders_of("self", kernel.proc) == {
            "memory": str(memory),
            "cpu": str(cpu),
            "cpuacct": str(cpu),
        }

    def test_of_version_2(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path, "0::/user.slice/a:b\n")
        own = kernel.mount("", "cgroup2", "rw,nsdelegate") / "user.slice" / "a:b"
        kernel.files(own, cgroup__controllers="cpuset memory pids\n")
        assert folders_of("self", kernel.proc) == {"memory": str(own)}

    def test_of_both(self, tmp_path: Path) -> None:
        """Each controller is of one of them."""
        kernel = Kernel(tmp_path, "4:memory:/one\n0::/two\n")
        memory = kernel.mount("memory", "cgroup", "rw,memory") / "one"
        memory.mkdir()
        unified = kernel.mount("unified", "cgroup2", "rw") / "two"
        kernel.files(unified, cgroup__controllers="cpu memory\n")
        assert folders_of("self", kernel.proc) == {"memory": str(memory), "cpu": str(unified)}

    def test_in_a_container_that_sees_a_part_of_them(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path, "4:memory:/docker/abc/inner\n")
        point = kernel.mount("memory", "cgroup", "rw,memory", root="/docker/abc")
        (point / "inner").mkdir()
        assert folders_of("self", kernel.proc) == {"memory": str(point / "inner")}

    @pytest.mark.parametrize("path", ["/docker/abc", "/../../outside", "/dock"])
    def test_what_is_not_to_be_seen_is_nowhere(self, tmp_path: Path, path: str) -> None:
        kernel = Kernel(tmp_path, f"4:memory:{path}\n")
        kernel.mount("memory", "cgroup", "rw,memory", root="/docker")
        assert folders_of("self", kernel.proc) == {}

    @given(
        names=st.lists(
            st.text(
                st.characters(exclude_characters="/\0\n\r", codec="utf-8"), min_size=1, max_size=20
            ).filter(lambda name: name not in (".", "..")),
            max_size=4,
        ),
        seen=st.integers(0, 4),
        point=st.text("a \\\t1040'\"", min_size=1, max_size=8),
    )
    def test_whatever_they_are_called(self, names: list[str], seen: int, point: str) -> None:
        """A hierarchy may be mounted as a whole or from any of the group's ancestors on."""
        root, inner = names[:seen], names[seen:]
        with TemporaryDirectory() as folder:
            kernel = Kernel(Path(folder), f"0::/{'/'.join(names)}\n")
            top = kernel.mount(point, "cgroup2", "rw", root=_escaped(f"/{'/'.join(root)}"))
            own = kernel.files(top.joinpath(*inner), cgroup__controllers="memory\n")
            assert folders_of("self", kernel.proc) == {"memory": own}

    def test_without_control_groups_that_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            mounts(str(tmp_path))


class TestLimits:
    def test_of_version_2(self, tmp_path: Path) -> None:
        names = (
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "cpu.max",
            "cgroup.controllers",
        )
        for name in names:
            (tmp_path / name).touch()
        set_limit(str(tmp_path), "memory", 2**30)
        set_limit(str(tmp_path), "cpu", 150_000)
        texts = {name: (tmp_path / name).read_text() for name in names}
        assert texts == {
            "memory.max": "1073741824",
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "cpu.max": "150000 100000",
            "cgroup.controllers": "",
        }

    def test_without_an_account_of_swap(self, tmp_path: Path) -> None:
        (tmp_path / "memory.limit_in_bytes").touch()
        set_limit(str(tmp_path), "memory", 2**20)
        assert [path.name for path in tmp_path.iterdir()] == ["memory.limit_in_bytes"]

    def test_what_the_kernel_does_not_take_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            set_limit(str(tmp_path), "memory", 2**20)

    def test_version_2_tells_of_no_want_of_memory(self, tmp_path: Path) -> None:
        assert oom_event(str(tmp_path)) is None


class TestRoom:
    """Where groups of version 2 may be made."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        own = tmp_path / "scope"
        own.mkdir()
        (own / "cgroup.controllers").write_text("cpu memory pids\n")
        (own / "cgroup.subtree_control").touch()
        (own / "cgroup.type").write_text("domain\n")
        (own / "cgroup.procs").touch()
        return own

    def test_of_version_1_it_is_the_own_group(self, tmp_path: Path) -> None:
        assert room_below({"memory": str(tmp_path)}, "memory") == str(tmp_path)

    def test_controllers_are_handed_down(self, own: Path) -> None:
        assert room_below({"cpu": str(own)}, "cpu") == str(own)
        assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory"

    def test_what_is_handed_down_already_is_left_alone(self, own: Path) -> None:
        (own / "cgroup.subtree_control").write_text("memory\n")
        (own / "cgroup.procs").write_text("1\n")
        assert room_below({"memory": str(own)}, "memory") == str(own)
        assert (own / "cgroup.subtree_control").read_text() == "memory\n"

    def test_who_has_moved_below_has_room_above(self, own: Path) -> None:
        below = own / "fasthep-flow"
        below.mkdir()
        (below / "cgroup.controllers").write_text("cpu memory\n")
        (own / "cgroup.subtree_control").write_text("cpu memory\n")
        assert room_below({"memory": str(below)}, "memory") == str(own)

    @pytest.mark.parametrize("pid", [0, 2**30])
    def test_other_processes_are_not_moved(self, own: Path, pid: int) -> None:
        """0 stands for one of another container."""
        (own / "cgroup.procs").write_text(f"{os.getpid()}\n{pid}\n")
        with pytest.raises(OSError, match=r"other processes are in the control group .*scope"):
            room_below({"memory": str(own)}, "memory")
        assert not (own / "fasthep-flow").exists()
        assert (own / "cgroup.subtree_control").read_text() == ""

    def test_this_process_its_parents_and_children_are_moved(self, own: Path) -> None:
        below = own / "fasthep-flow"
        below.mkdir()
        (below / "cgroup.procs").touch()
        with subprocess.Popen(["sleep", "600"]) as child:
            (own / "cgroup.procs").write_text(f"{child.pid}\n")
            # A file is not the kernel: nothing leaves the group.
            with pytest.raises(OSError, match="all the time"):
                room_below({"memory": str(own)}, "memory")
            child.kill()
        assert (below / "cgroup.procs").read_text() == str(child.pid)

    def test_without_the_controller_there_is_none(self, own: Path) -> None:
        with pytest.raises(OSError, match="no 'memory' controller"):
            room_below({"cpu": str(own)}, "memory")


class TestCounters:
    def test_of_version_1(self, tmp_path: Path) -> None:
        (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")
        (tmp_path / "memory.oom_control").write_text(
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
        )
        (tmp_path / "cpuacct.usage").write_text("1500000000\n")
        (tmp_path / "cpu.stat").write_text("nr_periods 9\nnr_throttled 3\nthrottled_time 5\n")
        folder = str(tmp_path)
        account = Account({"memory": folder, "cpu": folder, "cpuacct": folder})
        assert account.counters() == Counters(peak_memory=4096, oom_kills=2, cpu_s=1.5, throttled=3)

    def test_of_version_2(self, tmp_path: Path) -> None:
        (tmp_path / "memory.peak").write_text("8192\n")
        (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
        (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nnr_throttled 4\n")
        account = Account({"memory": str(tmp_path), "cpu": str(tmp_path)})
        assert account.counters() == Counters(peak_memory=8192, oom_kills=1, cpu_s=2.5, throttled=4)
        assert account.reset_peak()
        assert (tmp_path / "memory.peak").read_text().startswith("0"), "the kernel takes anything"
        account.close()

    def test_of_an_old_version_2(self, tmp_path: Path) -> None:
        """Before Linux 5.19 there is no peak."""
        (tmp_path / "memory.events").write_text("oom_kill 0\n")
        account = Account({"memory": str(tmp_path)})
        assert account.counters() == Counters(oom_kills=0)
        assert not account.reset_peak()


def test_a_tree_is_removed_from_within(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    assert set(groups_below(str(top))) == {f"{top}/a/b", f"{top}/a", f"{top}/c"}
    remove_tree(str(top))
    assert not top.exists()
    remove_tree(str(top))


def test_processes_of_inner_groups_count(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    (tmp_path / "inner" / "cgroup.procs").write_text("3\n")
    assert pids_in(str(tmp_path)) == {1, 2}
    assert pids_below(str(tmp_path)) == {1, 2, 3}
    assert pids_in(str(tmp_path / "gone")) == set()
