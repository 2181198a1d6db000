"""Sides take turns, figures are medians, growth is fitted, and memory is that of a process of its own."""

import numpy as np
import pytest
import torch

from pipeline.bench.command import Row, exponent_row, format_rows, rate_row
from pipeline.bench.measure import Timings, Traffic, Work, _warm_up, copy_speed, peak_bytes, peak_operations, time_sides

CPU = torch.device("cpu")


def test_sides_take_turns_after_a_warm_up() -> None:
    done: list[tuple[str, int]] = []

    def side(name: str) -> object:
        def prepare(size: int) -> Work:
            return lambda: done.append((name, size))

        return prepare

    timings = time_sides({name: side(name) for name in "ab"}, (1, 2), 2, CPU)  # type: ignore[misc]
    one_round = [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert done == [("a", 1), ("b", 1), *one_round, *one_round]
    assert [len(repeats) for repeats in timings["a"].seconds] == [2, 2]
    assert timings["a"].device_bytes is None


def test_figures_are_medians_and_growth_is_fitted_to_them() -> None:
    timed = Timings((1, 2, 4), ((1.0, 9.0, 1.0), (4.0, 4.0, 4.0), (16.0, 0.1, 16.0)), (), None)
    assert timed.medians == (1.0, 4.0, 16.0)
    assert timed.exponent == pytest.approx(2.0)
    assert timed.seconds_per_unit == 4.0
    assert timed.exponent == pytest.approx(2.0)


@pytest.mark.parametrize(("gigabytes", "sizes"), [(80, (16, 32, 64, 128)), (24, (4, 8, 16, 32)), (16, (2, 4, 8, 16))])
def test_sizes_are_halved_until_they_fit_into_the_memory_of_a_gpu(gigabytes: int, sizes: tuple[int, ...]) -> None:
    def prepare(size: int) -> Work:
        def work() -> None:
            if 3 + 0.45 * size > gigabytes:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return work

    assert _warm_up({"published": prepare}, (16, 32, 64, 128), torch.device("cuda:0")) == sizes


def test_what_does_not_fit_in_the_least_size_or_fails_otherwise_is_an_error() -> None:
    def work() -> None:
        raise error

    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("an illegal address")):
        with pytest.raises(type(error), match=str(error)):
            _warm_up({"ours": lambda _: work}, (2, 4), CPU)


def test_peaks_are_operations_and_bytes_over_time() -> None:
    assert 1e7 < peak_operations(torch.float32, CPU, 64) < 1e13
    assert 1e6 < copy_speed(CPU, 1 << 20) < 1e13


@pytest.mark.parametrize("inference", [False, True])
def test_traffic_is_what_kernels_read_and_write(inference: bool) -> None:
    x, weight, table = torch.randn(8, 16), torch.randn(4, 16), torch.randn(100, 8)
    rows = torch.tensor([3, 5])
    with torch.inference_mode(inference), Traffic() as traffic:
        y = torch.nn.functional.linear(x, weight)  # reads x and weight, writes y
        y.t().mul_(2.0)  # a view; then reads and writes y
        table[rows]  # reads two rows, and writes them
        torch.empty(1000)
    assert traffic.bytes == 4 * (8 * 16 + 4 * 16 + 8 * 4 + 2 * 8 * 4 + 2 * 2 * 8)


def test_memory_is_that_of_a_process_of_its_own() -> None:
    ballast = np.ones(600_000_000, np.uint8)  # of this process: not to be seen in the other
    assert 300e6 < peak_bytes(np.ones, 300_000_000, np.uint8) < 900e6
    assert ballast.sum() == 600_000_000


def test_a_table_says_how_many_times_better_ours_is() -> None:
    timings = {"published": Timings((1, 2), ((1.0,), (2.0,)), (), None), "ours": Timings((1, 2), ((0.1,), (0.1,)), (), None)}
    rows = [
        rate_row("views/s", timings),
        exponent_row("views", timings),
        Row("bytes", {"published": 6.8e9, "ours": 3.4e6}, more_is_better=False, unit="B"),
        Row("share", {"published": 0.5, "unpadded": 0.25}, unit="%"),
        Row("step", {"published": 0.004, "ours": 0.002}, more_is_better=False, unit="s"),
    ]
    lines = format_rows(rows).splitlines()
    assert lines[0].split() == ["published", "unpadded", "ours", "times", "better"]
    assert lines[1].split() == ["views/s", "1.00", "-", "20.00", "20.0x"]
    assert lines[2].split()[-3:] == ["1.00", "-", "0.00"]
    assert lines[3].split() == ["bytes", "6.8", "GB", "-", "3.4", "MB", "2000x"]
    assert lines[4].split() == ["share", "50.0%", "25.0%", "-"]
    assert lines[5].split() == ["step", "4.0", "ms", "-", "2.0", "ms", "2.0x"]
    assert rows[0].ratio == 20.0
