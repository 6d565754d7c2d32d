"""The agent against the kernel: what madvise and the like do to mapped memory, once guarded."""

from __future__ import annotations

from tests.unit.shim.guard.conftest import Target


def test_discarded_memory_reads_zero_and_its_neighbours_stay(target: Target) -> None:
    target("write(101, 77, 5)")
    assert target("madvise(100, 1, 4)") == 0
    assert target("every(98, 5)") == [99, 100, 0, 102, 103]
    assert target("read(101, 5)") == 77
    assert target("madvise(200, 300, 4)") == 0
    assert target("every(198, 304)") == [199, 200] + [0] * 300 + [1, 2]


def test_a_descriptor_is_not_left_in_the_process(target: Target) -> None:
    links = target(
        "[os.readlink(f'/proc/self/fd/{n}') for n in range(3, 9) "
        "if os.path.exists(f'/proc/self/fd/{n}')]"
    )
    assert not [link for link in links if "seccomp" in link]
