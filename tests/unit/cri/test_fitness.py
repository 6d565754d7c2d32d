from __future__ import annotations

from dataclasses import replace

import pytest

from cri import fitness
from cri.cpu_flags import PRIVATE
from shim.errors import Unfit
from shim.snapshot import HostNeeds, Source
from tests.unit.cri.gpu_records import GIB, gpu

HOST = HostNeeds(
    arch="x86_64",
    kernel="6.12.9-1",
    criu="4.1.1",
    cpu_features=["avx2", "fpu", "vmx"],
    page_size=4096,
    cgroup=2,
)
SOURCE = Source(
    namespace="default",
    pod="web-1",
    pod_uid="u",
    container="web",
    container_id="c" * 64,
    image="example/web:1",
    image_digest="sha256:" + "1" * 64,
    command=["/serve", "--model", "small"],
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"kernel": "6.18.0"},
        {"kernel": "6.12.1"},
        {"kernel": "7.0.0-rc1"},
        {"criu": "4.2"},
        {"cpu_features": ["amx_tile", "avx2", "fpu"]},
    ],
    ids=["same", "newer kernel", "older fix", "next major", "newer criu", "more features"],
)
def test_the_same_or_a_newer_host_fits(change: dict[str, object]) -> None:
    fitness.check_host(HOST, replace(HOST, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "aarch64"}, "the snapshot is of a x86_64 machine, this one is aarch64"),
        ({"kernel": "6.11.9"}, "wanted kernel 6.12.9-1 or newer, found 6.11.9"),
        ({"kernel": "5.15.0"}, "wanted kernel 6.12.9-1 or newer, found 5.15.0"),
        ({"criu": "4.1"}, "wanted CRIU 4.1.1 or newer, found 4.1"),
        ({"criu": "3.17.1"}, "wanted CRIU 4.1.1 or newer, found 3.17.1"),
        ({"cpu_features": ["fpu"]}, "wanted the CPU features avx2, found a CPU without them"),
        ({"page_size": 65536}, "wanted memory pages of 4096 bytes, found 65536"),
        ({"cgroup": 1}, "wanted cgroup v2, found v1"),
    ],
)
def test_what_differs_is_named_with_wanted_and_found(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(Unfit, match=message):
        fitness.check_host(HOST, replace(HOST, **change))  # type: ignore[arg-type]


def test_flags_that_no_program_can_use_do_not_matter() -> None:
    assert {"vmx", "pti", "smep"} <= PRIVATE
    assert not PRIVATE & {
        "avx512f",
        "sse4_2",
        "rdpid",
        "fsgsbase",
        "amx_tile",
        "user_shstk",
        "bmi2",
    }


def test_every_difference_is_named_at_once() -> None:
    with pytest.raises(Unfit) as caught:
        fitness.check_host(HOST, replace(HOST, criu="3.0", cgroup=1))
    assert "CRIU 4.1.1" in str(caught.value)
    assert "cgroup v2" in str(caught.value)


def test_a_long_list_of_missing_features_is_cut() -> None:
    wanted = replace(HOST, cpu_features=[f"f{number}" for number in range(20)])
    with pytest.raises(Unfit, match="and 12 more"):
        fitness.check_host(wanted, HOST)


def test_the_image_must_be_the_same() -> None:
    fitness.check_image(SOURCE, SOURCE.image_digest)
    with pytest.raises(Unfit, match=r"from another image: wanted sha256:1111.*found 'sha256:22"):
        fitness.check_image(SOURCE, "sha256:" + "2" * 64)


def test_the_program_must_be_the_same() -> None:
    fitness.check_command(SOURCE, ["/serve", "--model", "small"])
    with pytest.raises(Unfit, match=r"wanted '/serve --model large' .*found '/serve --model small"):
        fitness.check_command(SOURCE, ["/serve", "--model", "large"])


@pytest.mark.parametrize(
    ("command", "args", "wanted"),
    [
        ([], [], ["/entry", "default"]),
        ([], ["own"], ["/entry", "own"]),
        (["/other"], [], ["/other"]),
        (["/other"], ["own"], ["/other", "own"]),
    ],
)
def test_the_pods_command_goes_over_the_images(
    command: list[str], args: list[str], wanted: list[str]
) -> None:
    assert fitness.resolve_command(command, args, ["/entry"], ["default"]) == wanted


def test_mapped_memory_takes_a_host_that_can_guard_it() -> None:
    fitness.check_guard("")
    with pytest.raises(Unfit, match="memory is mapped, which cannot be here: an old kernel"):
        fitness.check_guard("an old kernel")


def test_the_same_gpu_or_another_of_its_kind_fits() -> None:
    fitness.check_gpus([gpu(0)], [gpu(0)])
    fitness.check_gpus([gpu(0, used=70 * GIB), gpu(1)], [gpu(3), gpu(2, memory=81 * GIB)])
    fitness.check_gpus([], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "NVIDIA A100"}, "wanted NVIDIA H100, found NVIDIA A100 at GPU-00000000-"),
        ({"capability": "8.0"}, "wanted compute capability 9.0, found 8.0"),
        ({"driver": "580.95.05"}, "wanted driver 580.159.04, found 580.95.05"),
        ({"ecc": "off"}, "wanted ECC on, found off"),
        ({"mig": "on"}, "wanted MIG off, found on"),
        ({"memory": 40 * GIB}, "wanted 80.0 GiB of memory, found 40.0 GiB"),
        ({"free": 512 << 20}, "wanted 10.0 GiB of free memory, found 512 MiB"),
    ],
)
def test_a_gpu_that_does_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(Unfit) as unfit:
        fitness.check_gpus([gpu(0, used=10 * GIB)], [gpu(0, **change)])
    assert message in str(unfit.value).replace("'", "")


def test_every_difference_of_every_gpu_is_told() -> None:
    with pytest.raises(Unfit, match=r"ECC.*MIG.*at GPU-00000000-.*driver.*at GPU-00000001-"):
        fitness.check_gpus([gpu(0), gpu(1)], [gpu(0, ecc="off", mig="on"), gpu(1, driver="1")])


def test_another_number_of_gpus() -> None:
    with pytest.raises(Unfit, match="wants 2 GPUs, found 1 GPU"):
        fitness.check_gpus([gpu(0), gpu(1)], [gpu(0)])


def test_the_gpus_that_fit_best() -> None:
    other, full, good = gpu(0, model="NVIDIA A100"), gpu(1, free=0), gpu(2)
    wanted = [gpu(7, used=GIB), gpu(8)]
    assert fitness.best_gpus(wanted, [other, full, good]) == [good, full]
    assert fitness.best_gpus(wanted, [other]) == [other]
