"""Hooks on blocks: what they change in each row, and that they are removed afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import HIDDEN, LAYERS, tiny_model
from torch import Tensor, nn

from steerchat.engine.gates import Gate, Probe
from steerchat.engine.hooks import LengthReader, StateReader, Steering, find_blocks
from steerchat.engine.operations import Edit
from steerchat.values.errors import ModelError

torch.manual_seed(0)
STATES = torch.randn(5, 7, HIDDEN) * 10


class PlainBlock(nn.Module):
    def forward(self, hidden: Tensor) -> Any:
        return hidden * 1.0


class TupleBlock(nn.Module):
    """As older architectures: the state first, then whatever else a layer gives back."""

    def forward(self, hidden: Tensor) -> Any:
        return hidden * 1.0, "weights", None


def blocks_of(kind: type[nn.Module], count: int = 2) -> nn.ModuleList:
    return nn.ModuleList(kind() for _ in range(count))


def vector(seed: int, size: float = 5.0) -> Tensor:
    direction = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    return direction * (size / direction.norm())


def steered(rows: list[list[Edit]], states: Tensor = STATES, kind: type[nn.Module] = PlainBlock) -> Tensor:
    blocks = blocks_of(kind)
    with Steering(blocks, rows, HIDDEN):
        output = blocks[1](states)
    return output[0] if isinstance(output, tuple) else output


def edit(operation: str, seed: int, gate: Gate | None = None, size: float = 5.0) -> Edit:
    return Edit(1, operation, vector(seed, size), gate=gate)


def projection(states: Tensor, direction: Tensor) -> Tensor:
    return states @ (direction / direction.norm())


@pytest.mark.parametrize("kind", [PlainBlock, TupleBlock])
def test_each_row_gets_its_own_push_and_others_stay_bit_equal(kind: type[nn.Module]) -> None:
    first, second = edit("add", 1), edit("add", 2)
    result = steered([[], [first], [second], [], [first, second]], kind=kind)
    assert torch.equal(result[0], STATES[0])
    assert torch.equal(result[3], STATES[3])
    torch.testing.assert_close(result[1], STATES[1] + first.vector)
    torch.testing.assert_close(result[2], STATES[2] + second.vector)
    torch.testing.assert_close(result[4], STATES[4] + first.vector + second.vector)


def test_what_else_a_block_gives_back_is_passed_on() -> None:
    blocks = blocks_of(TupleBlock)
    with Steering(blocks, [[edit("add", 1)]] * 5, HIDDEN):
        output = blocks[1](STATES)
    assert isinstance(output, tuple)
    assert output[1:] == ("weights", None)


def test_a_block_without_edits_has_no_hook() -> None:
    blocks = blocks_of(PlainBlock)
    with Steering(blocks, [[edit("add", 1)]], HIDDEN):
        assert torch.equal(blocks[0](STATES[:1]), STATES[:1])
        assert not torch.equal(blocks[1](STATES[:1]), STATES[:1])


def test_ablate_leaves_nothing_along_its_direction_and_all_that_is_orthogonal() -> None:
    removed = vector(1)
    result = steered([[], [Edit(1, "ablate", removed)], [], [], []])
    assert projection(STATES[1], removed).abs().max() > 1
    assert projection(result[1], removed).abs().max() < 1e-5  # of states as long as 80
    unit = removed / removed.norm()
    orthogonal = STATES[1] - projection(STATES[1], removed)[:, None] * unit
    torch.testing.assert_close(result[1], orthogonal, atol=1e-5, rtol=0)
    assert torch.equal(result[[0, 2, 3, 4]], STATES[[0, 2, 3, 4]])


def test_states_of_unit_length_keep_less_than_a_millionth_of_an_ablated_direction() -> None:
    states = STATES / STATES.norm(dim=-1, keepdim=True)
    result = steered([[edit("ablate", 1)]] * 5, states)
    assert projection(result, vector(1)).abs().max() < 1e-6


def test_directions_that_are_not_orthogonal_are_all_ablated() -> None:
    first = vector(1)
    second = first + 0.3 * vector(2)
    result = steered([[Edit(1, "ablate", first), Edit(1, "ablate", second)]] * 5)
    assert projection(result, first).abs().max() < 1e-4
    assert projection(result, second).abs().max() < 1e-4
    kept = vector(3)
    basis = torch.linalg.qr(torch.stack([first, second]).T).Q
    kept = kept - basis @ (basis.T @ kept)
    torch.testing.assert_close(projection(result, kept), projection(STATES, kept), atol=1e-4, rtol=0)


def test_ablating_a_direction_twice_is_ablating_it_once() -> None:
    once = steered([[edit("ablate", 1)]] * 5)
    twice = steered([[edit("ablate", 1), edit("ablate", 1, size=-2.0)]] * 5)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


def test_ablating_nothing_changes_nothing() -> None:
    result = steered([[Edit(1, "ablate", torch.zeros(HIDDEN))]] * 5)
    torch.testing.assert_close(result, STATES)


@pytest.mark.parametrize("angle", [1e-4, 0.25, 1.0, 3.0])
def test_a_turned_state_keeps_its_length_and_lies_nearer_to_the_direction_by_the_angle(angle: float) -> None:
    towards = vector(1, angle)
    result = steered([[], [Edit(1, "rotate", towards)], [Edit(1, "rotate", -towards)], [], []])
    torch.testing.assert_close(result.norm(dim=-1), STATES.norm(dim=-1), atol=0, rtol=1e-5)
    for row, direction in ((1, towards), (2, -towards)):
        before, after = (
            torch.acos(torch.cosine_similarity(states[row], direction, dim=-1).clamp_max(1.0))
            for states in (STATES, result)
        )
        torch.testing.assert_close(after, (before - angle).clamp_min(0.0), atol=1e-3, rtol=0)
    assert torch.equal(result[[0, 3, 4]], STATES[[0, 3, 4]])


def test_a_turn_leaves_what_is_outside_the_plane_of_state_and_direction_in_its_proportions() -> None:
    towards = vector(1, 0.25)
    result = steered([[Edit(1, "rotate", towards)]] * 5)
    unit = towards / towards.norm()
    before = STATES - projection(STATES, unit)[..., None] * unit
    after = result - projection(result, unit)[..., None] * unit
    torch.testing.assert_close(torch.cosine_similarity(before, after, dim=-1), torch.ones(5, 7))


def test_a_small_turn_is_a_small_push_of_a_state_of_that_length_across_it() -> None:
    across = vector(1, 1.0)
    states = STATES - projection(STATES, across)[..., None] * across
    states = states / states.norm(dim=-1, keepdim=True) * 30
    turned = steered([[Edit(1, "rotate", 0.01 * across)]] * 5, states)
    pushed = steered([[Edit(1, "add", 0.01 * 30 * across)]] * 5, states)
    torch.testing.assert_close(turned - states, pushed - states, atol=0.01 * 0.3, rtol=0)


def test_turns_of_a_row_add_up_and_a_state_on_its_way_stays_finite() -> None:
    once = steered([[Edit(1, "rotate", vector(1, 0.3))]] * 5)
    parts = steered([[Edit(1, "rotate", vector(1, 0.1)), Edit(1, "rotate", vector(1, 0.2))]] * 5)
    torch.testing.assert_close(parts, once)
    along = torch.stack([vector(1), -vector(1), torch.zeros(HIDDEN)]).expand(5, 3, HIDDEN)
    result = steered([[Edit(1, "rotate", vector(1, 0.3))]] * 5, along)
    torch.testing.assert_close(result, along, atol=1e-4, rtol=0)


def test_an_aim_reaches_its_level_where_a_state_lacks_it_and_a_cap_where_it_exceeds_it() -> None:
    unit = vector(1, 1.0)
    before = projection(STATES, unit)
    result = steered([[], [Edit(1, "aim", unit, 3.0)], [Edit(1, "cap", unit, -2.0)], [], []])
    after = projection(result, unit)
    assert (before[1:3] < 3.0).any() and (before[1:3] > 3.0).any() and (before[1:3] < -2.0).any()
    torch.testing.assert_close(after[1], before[1].clamp_min(3.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(after[2], before[2].clamp_max(-2.0), atol=1e-4, rtol=0)
    across = result - after[..., None] * unit - (STATES - before[..., None] * unit)
    assert across.abs().max() < 1e-4
    assert torch.equal(result[[0, 3, 4]], STATES[[0, 3, 4]])
    assert torch.equal(result[1][before[1] > 3.001], STATES[1][before[1] > 3.001])


def test_aims_of_directions_that_are_not_orthogonal_are_all_reached_and_move_no_other() -> None:
    first = vector(1, 1.0)
    second = (first + 0.5 * vector(2, 1.0)) / (first + 0.5 * vector(2, 1.0)).norm()
    aims = [Edit(1, "aim", first, 4.0), Edit(1, "aim", second, 1.0)]
    result = steered([aims, [], aims, [edit("add", 3), *aims], []])
    for row in (0, 2):
        for direction, level in ((first, 4.0), (second, 1.0)):
            expected = projection(STATES[row], direction).clamp_min(level)
            torch.testing.assert_close(projection(result[row], direction), expected, atol=1e-4, rtol=0)
    pushed = STATES[3] + vector(3)
    torch.testing.assert_close(
        projection(result[3], first), projection(pushed, first).clamp_min(4.0), atol=1e-4, rtol=0
    )


def passes(edits: list[list[Edit]], states: list[Tensor], prompt: bool = False) -> list[Tensor]:
    """What a steering makes of one pass after another, of states (rows, hidden) at block 1; block 0 sees them too."""
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, edits, HIDDEN, prompt)
    found = []
    for state in states:
        with steering:
            found.append(blocks[1](blocks[0](state[:, None]))[:, 0])
    return found


def test_a_gate_lets_through_the_positions_that_it_names_and_no_other() -> None:
    gates = [None, Gate(first=2), Gate(after=2), Gate(after=1, first=3), Gate(decay=0.5), Gate(after=1, decay=0.5)]
    pushed = vector(1)
    rows = [[Edit(1, "add", pushed, gate=gate)] for gate in gates]
    states = [torch.randn(len(rows), HIDDEN) for _ in range(4)]
    shares = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [1, 0.5, 0.25, 0.125], [0, 1, 0.5, 0.25]]
    for step, (before, after) in enumerate(zip(states, passes(rows, states), strict=True)):
        for row, share in enumerate(shares):
            torch.testing.assert_close(after[row], before[row] + share[step] * pushed)
            if not share[step]:
                assert torch.equal(after[row], before[row])


def test_in_a_prompt_a_gate_by_position_is_open_unless_it_opens_later() -> None:
    gates = [Gate(first=1), Gate(after=1), Gate(decay=0.5), Gate(Probe(0, vector(2), 0.0, True, -1e9))]
    before = torch.randn(len(gates), HIDDEN)
    [after] = passes([[edit("add", 1, gate)] for gate in gates], [before], prompt=True)
    assert [not torch.equal(after[row], before[row]) for row in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("operation", ["add", "rotate", "aim", "ablate", "replace"])
def test_a_probe_opens_where_the_mean_of_the_answers_states_so_far_is_beyond_its_threshold(
    operation: str, above: bool
) -> None:
    read = vector(2, 1.0)
    gate = Gate(Probe(0, read, 0.5, above, 0.2))
    rows = [[Edit(1, operation, vector(1), 999.0, gate)], [], [Edit(1, operation, vector(1), 999.0)]]
    waves = torch.arange(30).mul(0.4).sin()[:, None, None] * read
    states = list(STATES[:3, :1].transpose(0, 1) + waves * 40)
    results = passes(rows, states)
    opened = []
    for step, (before, after) in enumerate(zip(states, results, strict=True)):
        # The first position is the prompt's last.
        readings = [float(state[0] @ read) - 0.5 for state in states[1 : step + 1]]
        mean = sum(readings) / len(readings) if readings else None
        opened.append(mean is not None and (mean > 0.2) == above)
        assert torch.equal(after[0], before[0]) != opened[-1]
        assert torch.equal(after[1], before[1]) and not torch.equal(after[2], before[2])
    assert any(opened) and not all(opened[1:])


def test_two_gates_of_a_row_open_by_themselves_and_selected_rows_keep_theirs() -> None:
    first, second = Edit(1, "add", vector(1), gate=Gate(first=1)), Edit(1, "add", vector(2), gate=Gate(after=1))
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, [[], [second], [first, second, edit("add", 3)]], HIDDEN)
    states = torch.randn(3, 1, HIDDEN)
    with steering:
        result = blocks[1](states)
    torch.testing.assert_close(result[2, 0], states[2, 0] + vector(1) + vector(3))
    assert torch.equal(result[:2], states[:2])
    assert steering.shares is not None and steering.shares.tolist() == [1.0, 0.0, 1.0]
    steering.select(torch.tensor([2, 1]))
    with steering:
        result = blocks[1](states[:2])
    torch.testing.assert_close(result[0, 0], states[0, 0] + vector(2) + vector(3))
    torch.testing.assert_close(result[1, 0], states[1, 0] + vector(2))


def test_a_share_of_every_strength_is_done_and_at_none_nothing() -> None:
    gated = Edit(1, "add", vector(1), gate=Gate(after=1))
    rows = [[edit("add", 1)], [edit("rotate", 1, size=0.4)], [edit("ablate", 1)], [], [gated]]
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, rows, HIDDEN)
    half = steered([[edit("add", 1, size=2.5)], [edit("rotate", 1, size=0.2)], [edit("ablate", 1)], [], []])
    for share, expected in ((0.5, half), (0.0, STATES), (1.0, steered([*rows[:4], [edit("add", 1)]]))):
        steering.turn(share)
        with steering:
            result = blocks[1](STATES)
        torch.testing.assert_close(result[:4], expected[:4])
        assert torch.equal(result[3], STATES[3])
    torch.testing.assert_close(result[4], STATES[4] + vector(1))


def test_a_share_of_more_than_half_a_turn_is_a_share_of_the_whole_angle() -> None:
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, [[edit("rotate", 1, size=5.0)]] * 5, HIDDEN)
    steering.turn(0.3)
    with steering:
        result = blocks[1](STATES)
    torch.testing.assert_close(result, steered([[edit("rotate", 1, size=1.5)]] * 5))


def test_rows_that_are_left_alone_for_now_do_not_count_positions() -> None:
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, [[Edit(1, "add", vector(1), gate=Gate(first=1))]] * 2, HIDDEN)
    states = torch.randn(2, 1, HIDDEN)
    changed = []
    for only in ([True, False], [True, False], [True, True], [True, True]):
        steering.only(only)
        with steering:
            result = blocks[1](states)
        changed.append([not torch.equal(result[row], states[row]) for row in range(2)])
    assert changed == [[True, False], [False, False], [False, True], [False, False]]


def test_replace_puts_the_vector_in_place_of_the_state() -> None:
    result = steered([[], [edit("replace", 4)], [], [], []])
    assert torch.equal(result[1], vector(4).expand(7, HIDDEN))
    assert torch.equal(result[0], STATES[0])


def test_operations_mixed_over_rows_do_what_each_does_alone() -> None:
    rows = [[], [edit("add", 1)], [edit("ablate", 2)], [edit("replace", 3)], [edit("ablate", 4), edit("add", 1)]]
    together = steered(rows)
    for index, row in enumerate(rows):
        alone = steered([row], STATES[index : index + 1])
        torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=0)


def test_within_a_row_replace_comes_before_ablate_before_add_however_they_are_written() -> None:
    written = [edit("add", 1), edit("ablate", 2), edit("replace", 3)]
    result = steered([written])[0, 0]
    unit = vector(2) / vector(2).norm()
    replaced = vector(3)
    torch.testing.assert_close(result, replaced - (replaced @ unit) * unit + vector(1))
    assert torch.equal(steered([written[::-1]]), steered([written]))


def test_selected_rows_keep_their_edits_in_the_new_order() -> None:
    rows = [[edit("add", 1)], [edit("ablate", 2)], [edit("replace", 3)], [], [edit("add", 4)]]
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, rows, HIDDEN)
    order = [4, 2, 1]
    steering.select(torch.tensor(order))
    with steering:
        kept = blocks[1](STATES[order])
    torch.testing.assert_close(kept, steered(rows)[order], atol=1e-5, rtol=0)


def test_in_sixteen_bits_a_push_is_added_before_rounding() -> None:
    states = STATES.to(torch.bfloat16)
    result = steered([[edit("add", 1)]] * 5, states)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, (states.float() + vector(1)).to(torch.bfloat16))


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_however_the_block_ends(fails: bool) -> None:
    blocks = blocks_of(PlainBlock)
    try:
        with Steering(blocks, [[edit("add", 1)]] * 5, HIDDEN), StateReader(blocks, [0, 1]), LengthReader(blocks):
            assert not torch.equal(blocks[1](STATES), STATES)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.equal(blocks[1](STATES), STATES)
    assert all(not block._forward_hooks for block in blocks)


def test_a_steering_can_be_entered_again() -> None:
    blocks = blocks_of(PlainBlock)
    steering = Steering(blocks, [[edit("add", 1)]] * 5, HIDDEN)
    results = []
    for _ in range(2):
        with steering:
            results.append(blocks[1](STATES))
        assert torch.equal(blocks[1](STATES), STATES)
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("kind", [PlainBlock, TupleBlock])
def test_states_are_averaged_over_the_marked_positions(kind: type[nn.Module]) -> None:
    blocks = blocks_of(kind)
    weights = torch.zeros(5, 2, 7)
    weights[0, 0, 2:4] = 0.5
    weights[0, 1, 5] = 1.0
    weights[1, 0, 6] = 1.0
    reader = StateReader(blocks, [1])
    reader.weights = weights
    with reader:
        blocks[1](STATES)
    assert reader.means.shape == (5, 2, 1, HIDDEN)
    torch.testing.assert_close(reader.means[0, 0, 0], STATES[0, 2:4].mean(dim=0))
    torch.testing.assert_close(reader.means[0, 1, 0], STATES[0, 5])
    torch.testing.assert_close(reader.means[1, 0, 0], STATES[1, 6])
    assert not reader.means[2].any()


def test_typical_lengths_leave_out_the_first_position() -> None:
    blocks = blocks_of(PlainBlock)
    states = STATES[:1].clone()
    states[:, 0] *= 1000
    with LengthReader(blocks) as reader:
        for block in blocks:
            block(states)
    torch.testing.assert_close(reader.medians, states[0, 1:].norm(dim=-1).median().expand(2))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma3", "qwen3"])
def test_blocks_are_found_in_order(kind: str) -> None:
    model = tiny_model(kind)
    blocks = find_blocks(model)
    assert len(blocks) == LAYERS
    called: list[int] = []
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda module, args, output, index=index: called.append(index))
    model(torch.tensor([[5, 6]]))
    assert called == list(range(LAYERS))


def test_blocks_of_an_unknown_model_are_its_longest_list_of_alike_modules() -> None:
    model = nn.Module()
    model.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    model.body = nn.Module()
    model.body.stack = blocks_of(PlainBlock, 5)
    assert find_blocks(model) is model.body.stack


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="decoder blocks"):
        find_blocks(nn.Linear(2, 2))


def test_a_block_computes_where_accelerate_says() -> None:
    blocks = blocks_of(PlainBlock)
    blocks[1]._hf_hook = SimpleNamespace(execution_device="meta")  # type: ignore[assignment]
    with Steering(blocks, [[edit("add", 1)]], HIDDEN):
        assert blocks[1](STATES[:1].to("meta")).device.type == "meta"
