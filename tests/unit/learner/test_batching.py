"""Packing, sharing out and cutting into micro-batches: nothing lost, nothing moved by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlvr.learner.attention import with_prefixes
from rlvr.learner.batching import micro_batches, rank_batches
from rlvr.learner.prompts import shared_prompts
from rlvr.types import CreditInputs, Group, Outcome, Prompt, Response, Sample, Turn, Verdict


def random_turns(generator, tokens):
    """Of about half of the responses some; the second observation may follow the first token."""
    if generator.random() < 0.5 or tokens < 2:
        return ()
    ends = sorted({*generator.integers(1, tokens, 3).tolist(), tokens})
    said = [generator.integers(1, 99, generator.integers(1, 5)).astype(np.int32) for _ in ends]
    return tuple(Turn(end, ids) for end, ids in zip(ends, [*said[:-1], said[-1][:0]], strict=True))


def written_out(response):
    """All ids after the prompt, and whether each was sampled: one token after the other."""
    said = {turn.end: turn.observation.tolist() for turn in response.turns}
    ids, sampled = [], []
    for t, token in enumerate(response.token_ids.tolist(), start=1):
        ids += [token, *said.get(t, [])]
        sampled += [True, *(False for _ in said.get(t, []))]
    return ids, sampled


def random_groups(generator, count, size):
    groups = []
    for g in range(count):
        prompt = Prompt(
            str(g), generator.integers(1, 99, generator.integers(1, 6)).tolist(), "", "", "exact"
        )
        responses, verdicts = [], []
        for _ in range(size):
            n = int(generator.integers(1, 30))
            responses.append(
                Response(
                    generator.integers(1, 99, n).astype(np.int32),
                    -generator.random(n).astype(np.float32),
                    np.full(n, g, np.int32),
                    "length" if generator.random() < 0.2 else "stop",
                    turns=random_turns(generator, n),
                )
            )
            good = generator.random() < 0.5
            outcome = Outcome.CORRECT if good else Outcome.INCORRECT
            verdicts.append(Verdict(float(generator.random()), outcome))
        groups.append(
            Group(prompt, [Sample(r, "", v) for r, v in zip(responses, verdicts, strict=True)])
        )
    return groups


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_response_arrives_once_with_all_that_belongs_to_it(ranks, seed):
    generator = np.random.default_rng(seed)
    groups = random_groups(generator, count=5, size=4)
    advantages = generator.standard_normal(20)
    # what was prepared for a token is its log-probability, to tell whose it is
    logp = torch.from_numpy(
        np.concatenate([s.response.logp_rollout for g in groups for s in g.samples])
    )
    inputs = CreditInputs({"place": torch.arange(20)}, {"logp": logp})
    batches = rank_batches(groups, advantages, ranks=ranks, groups_per_mini_batch=2, inputs=inputs)
    flat = [(g, i) for g in range(5) for i in range(4)]
    seen = []
    for batch in batches:
        assert batch.input_ids.untyped_storage().nbytes() == 8 * batch.num_tokens  # travels alone
        for s in range(batch.num_sequences):
            k = int(batch.response_id[s])
            g, i = flat[k]
            seen.append(k)
            response, prompt = groups[g].samples[i].response, list(groups[g].prompt.token_ids)
            a, b = batch.cu_seqlens[s], batch.cu_seqlens[s + 1]
            ids, sampled = written_out(response)
            assert batch.input_ids[a:b].tolist() == prompt + ids
            assert int(batch.prompt_length[s]) == len(prompt)
            assert batch.position_ids[a:b].tolist() == list(range(b - a))
            n = batch.sequence_id == s
            # the token at token_index is y_t, the one before it is what predicts it
            own = batch.input_ids[batch.token_index[n]]
            assert own.tolist() == response.token_ids.tolist()
            places = [a + len(prompt) + k for k, drawn in enumerate(sampled) if drawn]
            assert batch.token_index[n].tolist() == places
            before = [(prompt + ids)[place - int(a) - 1] for place in places]
            assert batch.input_ids[batch.predict_index[n]].tolist() == before
            np.testing.assert_array_equal(batch.logp_rollout[n], response.logp_rollout)
            assert torch.equal(batch.inputs.token["logp"][n], batch.logp_rollout[n])
            assert int(batch.inputs.sequence["place"][s]) == k
            assert batch.policy_version[n].tolist() == response.policy_version.tolist()
            assert batch.reward[s] == np.float32(groups[g].samples[i].verdict.reward)
            assert batch.advantage[s] == np.float32(advantages[k])
            assert bool(batch.truncated[s]) == response.truncated
            assert bool(batch.correct[s]) == (
                groups[g].samples[i].verdict.outcome is Outcome.CORRECT
            )
            assert int(batch.group_id[s]) == g and int(batch.mini_batch[s]) == g // 2
    assert sorted(seen) == list(range(20))


def test_ranks_share_tokens_evenly_and_split_few_groups(seed):
    generator = np.random.default_rng(seed)
    groups = random_groups(generator, count=32, size=8)
    batches = rank_batches(groups, np.zeros(256), ranks=4, groups_per_mini_batch=32)
    tokens = [b.num_tokens for b in batches]
    longest = max(int(b.sequence_length.max()) for b in batches)
    assert max(tokens) - min(tokens) <= 2 * longest
    owners = [set(b.group_id.tolist()) for b in batches]
    split = sum(len(a & b) for a, b in zip(owners, owners[1:], strict=False))
    assert split <= 3


def test_micro_batches_keep_the_budget_and_groups_together(seed):
    generator = np.random.default_rng(seed)
    groups = random_groups(generator, count=12, size=4)
    long = groups[3].samples[1]
    ids = np.ones(200, np.int32)  # longer than the budget
    changed = {"token_ids": ids, "logp_rollout": -ids / 2.0, "policy_version": ids, "turns": ()}
    response = replace(long.response, **changed)
    groups[3].samples[1] = replace(long, response=response)
    [batch] = rank_batches(groups, np.zeros(48), ranks=1, groups_per_mini_batch=12)
    some = torch.randperm(48)[:40]
    cost = torch.rand(48)
    members = micro_batches(batch, some, cost, 100)
    total = [float(cost[own].sum()) for own in members]
    assert total == sorted(total, reverse=True)
    assert sorted(torch.cat(members).tolist()) == sorted(some.tolist())
    owners: dict[int, int] = {}
    for own in members:
        packing, _ = shared_prompts(batch.select(own)[0])
        assert packing.num_tokens <= 100 or len(own) == 1
        for g in set(batch.group_id[own].tolist()):
            owners[g] = owners.get(g, 0) + 1
    prompt = [len(g.prompt.token_ids) for g in groups]
    for g, parts in owners.items():
        own = [i for i in some.tolist() if i // 4 == g]
        tokens = prompt[g] + int((batch.sequence_length - batch.prompt_length)[own].sum())
        assert parts == 1 or tokens > 100


def test_micro_batches_are_as_many_as_asked_and_cost_the_same(seed):
    generator = np.random.default_rng(seed)
    groups = random_groups(generator, count=30, size=4)
    [batch] = rank_batches(groups, np.zeros(120), ranks=1, groups_per_mini_batch=30)
    cost = batch.sequence_length.double() ** 1.3
    members = micro_batches(batch, torch.arange(120), cost, 10_000, least=5)
    total = torch.stack([cost[own].sum() for own in members])
    assert len(members) == 5 and total.max() / total.mean() < 1.1
    assert sorted(torch.cat(members).tolist()) == list(range(120))
    assert micro_batches(batch, torch.arange(0), cost, 100) == []


def test_a_shared_prompt_is_there_once_and_predicts_every_first_token(seed):
    generator = np.random.default_rng(seed)
    groups = random_groups(generator, count=5, size=4)
    [whole] = rank_batches(groups, np.zeros(20), ranks=1, groups_per_mini_batch=5)
    batch, _ = whole.select(torch.randperm(20)[:13])
    packing, predict_index = shared_prompts(batch)
    present = batch.group_id.unique().tolist()
    prompts = [list(groups[g].prompt.token_ids) for g in present]
    assert packing.num_sequences == len(prompts) + 13
    after = batch.sequence_length - batch.prompt_length
    assert packing.num_tokens == sum(map(len, prompts)) + int(after.sum())
    own = packing.input_ids.split(packing.sequence_length.tolist())
    assert [x.tolist() for x in own[: len(prompts)]] == prompts
    key_index, keys = with_prefixes(packing.cu_seqlens, packing.prefix)
    for s in range(13):
        i = len(prompts) + s
        n = batch.sequence_id == s
        read = key_index[keys[i] : keys[i + 1]]  # all that the response may attend to
        a, b = batch.cu_seqlens[s : s + 2]
        assert torch.equal(packing.input_ids[read], batch.input_ids[a:b])
        assert packing.position_ids[read].tolist() == list(range(b - a))
        before = batch.input_ids[batch.predict_index[n]]
        assert torch.equal(packing.input_ids[predict_index[n]], before)
        assert torch.equal(
            packing.position_ids[predict_index[n]], batch.position_ids[batch.predict_index[n]]
        )


def test_selection_carries_every_field_along(seed):
    generator = np.random.default_rng(seed)
    [batch] = rank_batches(
        random_groups(generator, 4, 3),
        generator.standard_normal(12),
        ranks=1,
        groups_per_mini_batch=4,
    )
    picked = torch.randperm(12)[:5]
    part, n = batch.select(picked)
    assert part.response_id.tolist() == batch.response_id[picked].tolist()
    torch.testing.assert_close(part.logp_rollout, batch.logp_rollout[n])
    torch.testing.assert_close(part.target, batch.input_ids[batch.token_index[n]])
    torch.testing.assert_close(
        part.input_ids[part.predict_index], batch.input_ids[batch.predict_index[n]]
    )
    assert part.token_advantage.tolist() == batch.token_advantage[n].tolist()
    assert part.num_tokens == int(batch.sequence_length[picked].sum())
