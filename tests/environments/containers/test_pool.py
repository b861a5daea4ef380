"""Which containers are kept, for whom, and that none is forgotten."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthep_flow.environments import Container, ContainerSpec, Mount, ResolvedImage
from fasthep_flow.environments.containers.pool import KeepingRuntime, Pool
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.model import Resources
from fasthep_flow.testing.runtimes import FakeRuntime

IMAGE = ResolvedImage(name="r.ch/a:1", reference="sha256:00", digest="sha256:00")
SPEC = ContainerSpec(name="first", image=IMAGE, resources=Resources(memory=2**26, cpus=1))
MOUNT = Mount(source="/a", target="/b")


class Kept:
    """Stands for a served container."""

    def __init__(self, spec: ContainerSpec, *, broken: bool) -> None:
        self.spec = spec
        self.usable = True
        self.closed = threading.Event()
        self.closings = 0
        self.settlings = 0
        self.jobs = 0
        self._broken = broken
        self._busy = threading.Lock()

    @contextmanager
    def job(self) -> Iterator[None]:
        """A job in it, which has it for itself."""
        assert self._busy.acquire(blocking=False), "it serves two at a time"
        assert not self.closed.is_set(), "it is closed"
        self.jobs += 1
        try:
            yield
        finally:
            self._busy.release()

    def settle(self) -> bool:
        self.settlings += 1
        return self.usable

    def close(self) -> None:
        assert not self._busy.locked(), "it is closed with a job in it"
        self.closings += 1
        self.closed.set()
        if self._broken:
            raise OSError("the engine is odd")


class Keeping(FakeRuntime):
    """A runtime that keeps."""

    def __init__(self, name: str = "fake", *, broken: bool = False) -> None:
        super().__init__(name)
        self.made: list[Kept] = []
        self._broken = broken

    def keep(self, spec: ContainerSpec) -> ServedContainer:
        self.made.append(Kept(spec, broken=self._broken))
        return cast("ServedContainer", self.made[-1])


def kept(container: Container) -> Kept:
    assert isinstance(container, Kept)
    return container


@contextmanager
def job(pool: Pool, runtime: FakeRuntime, spec: ContainerSpec = SPEC) -> Iterator[Kept]:
    with pool.container(runtime, spec) as container, kept(container).job():
        yield kept(container)


@pytest.fixture
def runtime() -> Keeping:
    return Keeping()


def test_a_runtime_may_keep() -> None:
    assert isinstance(Keeping(), KeepingRuntime)
    assert not isinstance(FakeRuntime(), KeepingRuntime)


def test_the_next_job_has_the_same(runtime: Keeping) -> None:
    with Pool(most_idle=3) as pool:
        for number in range(5):
            spec = msgspec.structs.replace(SPEC, name=f"n{number}", labels={"task": str(number)})
            with job(pool, runtime, spec):
                assert len(runtime.made) == 1
        assert not runtime.made[0].closed.is_set()
    assert (runtime.made[0].jobs, runtime.made[0].closings) == (5, 1)
    assert runtime.made[0].spec.name == "n0"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ResolvedImage(name="r.ch/b:1", reference="sha256:00", digest="sha256:00")},
        {"image": ResolvedImage(name="r.ch/a:1", reference="sha256:01", digest="sha256:01")},
        {"mounts": ()},
        {"mounts": (msgspec.structs.replace(MOUNT, read_only=True),)},
        {"mounts": (msgspec.structs.replace(MOUNT, target="/c"),)},
        {"mounts": (MOUNT, msgspec.structs.replace(MOUNT, target="/c"))},
        {"resources": Resources(memory=2**26)},
        {"resources": Resources(memory=2**27, cpus=1)},
        {"resources": Resources(memory=2**26, cpus=2)},
        {"network": "none"},
    ],
)
def test_another_kind_of_job_has_another(runtime: Keeping, changes: dict[str, Any]) -> None:
    with Pool(most_idle=9) as pool:
        spec = msgspec.structs.replace(SPEC, mounts=(MOUNT,))
        other = msgspec.structs.replace(spec, **changes)
        for _ in range(2):
            with job(pool, runtime, spec) as container:
                assert container is runtime.made[0]
            with job(pool, runtime, other) as container:
                assert container is runtime.made[1]
                assert container.spec is other
    assert [container.jobs for container in runtime.made] == [2, 2]


def test_a_file_that_took_the_place_of_another_needs_another(
    runtime: Keeping, tmp_path: Path
) -> None:
    """The container has the first one mounted, and would go on to see that."""
    file, folder = tmp_path / "proxy", tmp_path / "folder"
    file.write_text("first")
    folder.mkdir()
    mounts = tuple(Mount(source=str(path), target=str(path)) for path in (file, folder))
    spec = msgspec.structs.replace(SPEC, mounts=mounts)
    with Pool(most_idle=9) as pool:
        for _ in range(2):
            with job(pool, runtime, spec):
                # What a job does in a folder is seen in the container.
                (folder / str(len(list(folder.iterdir())))).touch()
        renewed = tmp_path / "renewed"
        renewed.write_text("second")
        renewed.replace(file)
        for _ in range(2):
            with job(pool, runtime, spec) as container:
                assert container is runtime.made[1]
    assert [container.jobs for container in runtime.made] == [2, 2]


def test_another_runtime_has_another(runtime: Keeping) -> None:
    other = Keeping("other")
    with Pool(most_idle=9) as pool:
        with job(pool, runtime):
            pass
        with job(pool, other):
            pass
    assert len(runtime.made) == len(other.made) == 1


def test_two_at_a_time_have_one_each(runtime: Keeping) -> None:
    with Pool(most_idle=9) as pool:
        with job(pool, runtime) as first, job(pool, runtime) as second:
            assert first is not second
        with job(pool, runtime) as third:
            assert third is first, "it is the one that served last"
    assert len(runtime.made) == 2


def test_what_keeps_nothing_is_opened_for_each() -> None:
    runtime = FakeRuntime()
    with Pool(most_idle=9) as pool:
        for _ in range(2):
            with pool.container(runtime, SPEC):
                pass
    assert runtime.opened == [SPEC, SPEC]


def test_the_host_is_not_kept(runtime: Keeping) -> None:
    spec = ContainerSpec(name="n")
    with Pool() as pool, pool.container(runtime, spec):
        pass
    assert (runtime.made, runtime.opened) == ([], [spec])


def test_one_that_is_of_no_use_is_thrown_away(runtime: Keeping) -> None:
    with Pool(most_idle=9) as pool:
        with job(pool, runtime) as container:
            container.usable = False
        assert container.closed.wait(60)
        with job(pool, runtime) as other:
            assert other is not container
    assert container.closings == 1


def test_an_error_in_a_job_is_its_containers_last(runtime: Keeping) -> None:
    with Pool(most_idle=9) as pool:
        with pytest.raises(KeyError, match="mine"), job(pool, runtime) as container:
            raise KeyError("mine")
        assert container.closed.wait(60)
        assert container.settlings == 0
        with job(pool, runtime) as other:
            assert other is not container


def test_an_engine_that_is_gone_is_told(runtime: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(spec: ContainerSpec) -> ServedContainer:
        raise OSError(f"no {spec.name}")

    monkeypatch.setattr(runtime, "keep", gone)
    with Pool() as pool, pytest.raises(OSError, match="no first"), job(pool, runtime):
        pass


def kind(number: int) -> ContainerSpec:
    """A container that no other number's would do for."""
    return msgspec.structs.replace(SPEC, resources=Resources(memory=2**30 + number))


def test_containers_with_options_are_not_kept() -> None:
    with Pool() as pool:
        for _ in range(2):
            spec = msgspec.structs.replace(SPEC, options=("--cap-add=SYS_PTRACE",))
            with pool.container(Keeping(), spec) as container:
                assert not isinstance(container, Kept)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_only_so_many_wait(runtime: Keeping, most: int) -> None:
    specs = [kind(number) for number in range(5)]
    with Pool(most_idle=most) as pool:
        for spec in specs:
            with job(pool, runtime, spec):
                pass
        for container in runtime.made[: 5 - most]:
            assert container.closed.wait(60), "those that served last are kept"
        assert not any(container.closed.is_set() for container in runtime.made[5 - most :])
    assert [container.closings for container in runtime.made] == [1] * 5


def test_those_with_a_job_end_with_it(runtime: Keeping) -> None:
    pool = Pool(most_idle=9)
    with job(pool, runtime):
        pass
    with job(pool, runtime) as busy, job(pool, runtime) as other:
        pool.close()
        assert not busy.closed.is_set()
        assert not other.closed.is_set()
    assert (busy.closings, other.closings) == (1, 1)
    # Who comes after that has one for himself.
    with job(pool, runtime) as late:
        assert late not in {busy, other}
    assert late.closings == 1
    pool.close()


def test_to_close_waits_for_those_that_are_ending(runtime: Keeping) -> None:
    pool = Pool(most_idle=9)
    with job(pool, runtime) as container:
        container.usable = False
    pool.close()
    assert container.closings == 1


@pytest.mark.parametrize("count", [1, 3])
def test_one_that_cannot_be_ended_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture, count: int
) -> None:
    runtime = Keeping(broken=True)
    with Pool(most_idle=9) as pool:
        for _ in range(2):
            with job(pool, runtime) as container:
                container.usable = False
            assert container.closed.wait(60)
        jobs = [job(pool, runtime) for _ in range(count)]
        for one in jobs:
            one.__enter__()
        for one in jobs:
            one.__exit__(None, None, None)
    assert all(container.closings == 1 for container in runtime.made)
    assert "the engine is odd" in caplog.text


def test_a_pool_that_nobody_used_closes() -> None:
    pool = Pool()
    pool.close()
    pool.close()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.integers(0, 4), close_at=st.integers(0, 60))
def test_no_container_serves_two_or_is_forgotten(seed: int, most: int, close_at: int) -> None:
    runtime = Keeping()
    pool = Pool(most_idle=most)
    counter = itertools.count()

    def one(number: int) -> None:
        chance = random.Random(seed + number)  # noqa: S311 - a test's
        spec = kind(chance.randrange(3))
        if next(counter) == close_at:
            pool.close()
        with suppress(InterruptedError), job(pool, runtime, spec) as container:
            assert container.spec.resources == spec.resources
            container.usable = chance.random() < 0.7
            if chance.random() < 0.1:
                raise InterruptedError

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(60)))
    pool.close()
    assert [container.closings for container in runtime.made] == [1] * len(runtime.made)
    assert sum(container.jobs for container in runtime.made) == 60
