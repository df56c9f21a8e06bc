"""Quick products are products: any number of rows, with a bias and without, packed weights and plain ones."""

from __future__ import annotations

import pytest
import torch
from engines import answers, push, tiny_engine
from torch import nn

from steerchat.engine.decoding import Row
from steerchat.engine.linear import FEW, QuickLinear, pack, speed_up, unpack
from steerchat.engine.sampling import Sampling


def layers(bias: bool) -> tuple[nn.Linear, QuickLinear]:
    torch.manual_seed(0)
    plain, quick = nn.Linear(96, 160, bias), nn.Linear(96, 160, bias)
    quick.load_state_dict(plain.state_dict())
    speed_up(quick)
    assert isinstance(quick, QuickLinear)
    return plain, quick


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@torch.inference_mode()
def test_the_product_is_that_of_a_plain_layer_for_any_number_of_rows(bias: bool, packed: bool) -> None:
    plain, quick = layers(bias)
    if packed:
        pack(quick, 1 << 20)
        assert quick.packed is not None
    for shape in [(0, 96), (1, 96), (2, 96), (FEW, 96), (FEW + 1, 96), (30, 96), (7, 11, 96), (1, 1, 96), (3, 1, 96)]:
        states = torch.randn(shape)
        torch.testing.assert_close(quick(states), plain(states), atol=1e-4, rtol=1e-4)


def test_weights_are_packed_where_there_is_room_and_given_back() -> None:
    _, quick = layers(True)
    size = quick.weight.nbytes
    pack(quick, size - 1)
    assert quick.packed is None
    pack(quick, size)
    packed = quick.packed
    assert packed is not None
    pack(quick, size)
    assert quick.packed is packed
    unpack(quick)
    assert quick.packed is None


def test_a_sweep_packs_weights_and_says_what_it_says_without() -> None:
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(9)]
    sampling = Sampling(max_tokens=10)
    engine = tiny_engine()
    expected = [output.answer.text for output in answers(engine, rows, sampling)]
    speed_up(engine.model)
    quick = [module for module in engine.model.modules() if type(module) is QuickLinear]
    answers(engine, rows[:2], sampling)
    assert quick and all(module.packed is None for module in quick)
    assert [output.answer.text for output in answers(engine, rows, sampling)] == expected
    assert all(module.packed is not None for module in quick)
