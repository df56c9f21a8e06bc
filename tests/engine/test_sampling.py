"""Choosing tokens: greedy, nucleus, penalty, and noise shared by all rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerchat.engine.likeliest import likeliest
from steerchat.engine.sampling import Sampler, Sampling

CPU = torch.device("cpu")
VOCABULARY = 1000


def logits(rows: int = 1, spread: float = 1.0, vocabulary: int = VOCABULARY, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def sampler(
    seeds: list[int], temperature: float = 0.7, top_p: float = 1.0, penalty: float = 1.0, prompt: tuple[int, ...] = (0,)
) -> Sampler:
    return Sampler(Sampling(temperature, top_p, penalty), [prompt] * len(seeds), seeds, CPU)


def fully_sorted(scores: Tensor, seed: int, temperature: float, top_p: float) -> int:
    """One step of nucleus sampling with the whole vocabulary sorted and the noise added at the end."""
    noise = torch.rand(scores.shape[-1], generator=torch.Generator().manual_seed(seed))
    scaled = scores / temperature
    values, order = scaled.sort(descending=True)
    probabilities = values.softmax(dim=-1)
    beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p
    kept = scaled.clone()
    kept[order[beyond]] = -torch.inf
    return int((kept - torch.log(-torch.log(noise))).argmax())


@pytest.mark.slow
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_nucleus_equals_that_of_a_full_sort(spread: float, top_p: float) -> None:
    """A spread of 0.1 needs most of the vocabulary, one of 4 a few tokens: both sides of the quick look."""
    seeds = list(range(200))
    scores = logits(1, spread).expand(len(seeds), -1)
    found = sampler(seeds, 0.7, top_p).step(scores).tolist()
    assert found == [fully_sorted(scores[0], seed, 0.7, top_p) for seed in seeds]
    assert len(set(found)) > 1 or (spread, top_p) in {(4.0, 0.1), (4.0, 0.5)}


@pytest.mark.parametrize("vocabulary", [40, 5000, 49_152])
@pytest.mark.parametrize("count", [1, 16, 128])
def test_the_likeliest_are_found_without_a_sort_of_all(vocabulary: int, count: int) -> None:
    scores = (logits(3, 2.0, vocabulary) * 4).round()  # many are equal
    count = min(count, vocabulary)
    values, tokens = likeliest(scores, count)
    assert torch.equal(values, scores.topk(count).values) and torch.equal(values, scores.gather(1, tokens))
    assert all(len(set(row)) == count for row in tokens.tolist())


def test_rows_of_flat_and_peaked_logits_in_one_batch_each_keep_their_own_nucleus() -> None:
    scores = torch.cat([logits(1, 0.1), logits(1, 5.0), logits(1, 0.1, seed=2)])
    for seed in range(50):
        together = sampler([seed] * 3, 0.7, 0.9).step(scores)
        assert together.tolist() == [fully_sorted(row, seed, 0.7, 0.9) for row in scores]


def test_equal_scores_at_the_edge_of_the_nucleus_need_no_other_row() -> None:
    """A flat row makes all rows look at more tokens, which puts equal ones into another order."""
    coarse, flat = torch.full((1, 50_000), -6.0), logits(1, 0.01, 50_000)
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(0))
    coarse[0, order[:10]], coarse[0, order[10:110]] = 5.0, 4.0  # the nucleus ends among the latter
    for seed in range(40):
        alone = sampler([seed], 0.7, 0.6).step(coarse)
        assert sampler([seed] * 2, 0.7, 0.6).step(torch.cat([coarse, flat]))[0] == alone[0]


def test_draws_follow_the_softmax() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    draws = sampler(list(range(6000)), temperature=0.8).step(scores.expand(6000, -1))
    shares = torch.bincount(draws, minlength=5) / 6000
    torch.testing.assert_close(shares, (scores[0] / 0.8).softmax(dim=-1), atol=0.02, rtol=0)


def test_draws_within_a_nucleus_follow_the_softmax_of_what_is_left() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None]
    draws = sampler(list(range(6000)), temperature=1.0, top_p=0.7).step(scores.expand(6000, -1))
    shares = torch.bincount(draws, minlength=4) / 6000
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.02, rtol=0)


def test_greedy_takes_the_likeliest_whatever_the_seed() -> None:
    scores = logits(4)
    found = sampler([1, 2, 3, 4], temperature=0.0, top_p=0.5).step(scores)
    assert torch.equal(found, scores.argmax(dim=-1))


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_one_seed_is_one_noise_whatever_else_is_in_the_batch(top_p: float) -> None:
    def run(seeds: list[int]) -> list[list[int]]:
        chosen = sampler(seeds, top_p=top_p)
        steps = [chosen.step(logits(1, 1.0, seed=step).expand(len(seeds), -1)) for step in range(8)]
        return torch.stack(steps, dim=1).tolist()

    alone = {seed: run([seed])[0] for seed in (1, 2, 3)}
    assert len({tuple(tokens) for tokens in alone.values()}) == 3
    for seeds in ([1, 1], [1, 2, 3], [3, 2, 1, 2, 3], [2] * 20 + [1]):
        assert run(seeds) == [alone[seed] for seed in seeds]


def test_noise_goes_on_from_step_to_step() -> None:
    chosen = sampler([1])
    assert len({int(chosen.step(logits(1, 0.1))) for _ in range(10)}) > 5


def test_selected_rows_draw_as_if_the_others_had_stayed() -> None:
    seeds = [1, 2, 3, 4]
    scores = [logits(4, 1.0, seed=step) for step in range(6)]
    whole = sampler(seeds, top_p=0.9, penalty=1.3)
    expected = [whole.step(step)[[3, 1]].tolist() for step in scores]
    fewer = sampler(seeds, top_p=0.9, penalty=1.3)
    found = [fewer.step(step)[[3, 1]].tolist() for step in scores[:3]]
    fewer.select(torch.tensor([3, 1]))
    found += [fewer.step(step[[3, 1]]).tolist() for step in scores[3:]]
    assert found == expected


def test_the_penalty_lowers_tokens_of_the_prompt_and_of_the_answer() -> None:
    scores = torch.tensor([[1.0, 1.1, 1.2, 1.3, -1.0]])
    greedy = sampler([0], temperature=0.0, penalty=2.0, prompt=(3,))
    assert [int(greedy.step(scores)) for _ in range(3)] == [2, 1, 0]
    negative = sampler([0], temperature=0.0, penalty=2.0, prompt=(0,))
    assert int(negative.step(torch.tensor([[-0.6, -1.0]]))) == 1


def test_the_penalty_of_a_row_does_not_depend_on_how_long_its_neighbour_is() -> None:
    prompts = [(7,), (1, 2, 3, 4, 5, 6, 0, 8, 9), (7, 5)]
    scores = [logits(3, 1.0, vocabulary=12, seed=step) for step in range(10)]
    sampling = Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.5)
    batch = Sampler(sampling, prompts, [5, 6, 7], CPU)
    together = torch.stack([batch.step(step) for step in scores], dim=1).tolist()
    for row, prompt in enumerate(prompts):
        alone = Sampler(sampling, [prompt], [5 + row], CPU)
        assert [int(alone.step(step[row : row + 1])) for step in scores] == together[row]


def test_sixteen_bit_logits_are_sampled_in_float32() -> None:
    scores = logits(1, 1.0).to(torch.bfloat16)
    seeds = list(range(50))
    low = sampler(seeds, top_p=0.9).step(scores.expand(50, -1))
    assert torch.equal(low, sampler(seeds, top_p=0.9).step(scores.float().expand(50, -1)))
