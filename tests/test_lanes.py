"""Batches side by side: each lane computes on its own threads, in the precision of whoever begins the work."""

from threading import Barrier

import pytest
import torch

from medvit.lanes import LANES, side_by_side


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A processor of two cores; how many threads were asked for, in order."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    return asked


def test_as_many_lanes_as_threads_work_at_the_same_time_on_one_thread_each(two_threads: list[int]) -> None:
    barrier = Barrier(2)  # breaks unless both lanes come to it
    with side_by_side("cpu") as begin:
        both = [begin(barrier.wait, 10) for _ in range(2)]
        assert sorted(one.result() for one in both) == [0, 1]
    assert two_threads == [1, 1, 2]  # and what was set before is set again


def test_lanes_of_many_threads_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4 * LANES)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with side_by_side("cpu") as begin:
        begin(int).result()
    assert asked[0] == 4 and asked[-1] == 4 * LANES


def test_a_lane_computes_in_the_precision_that_was_set_outside(two_threads: list[int]) -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), side_by_side("cpu") as begin:
        assert begin(torch.matmul, x, x).result().dtype == torch.bfloat16
    with side_by_side("cpu") as begin:
        assert begin(torch.matmul, x, x).result().dtype == torch.float32


def test_what_fails_in_a_lane_fails_where_it_is_awaited(two_threads: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), side_by_side("cpu") as begin:
        begin(divmod, 1, 0).result()
    assert two_threads[-1] == 2
