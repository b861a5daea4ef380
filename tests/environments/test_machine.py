import pytest

from fasthep_flow.environments.machine import (
    bytes_text,
    cpu_count,
    memory_bytes,
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
