"""Sets of prompts that share none."""

import pytest

from helpers.tasks import disjoint_sets, induction, ioi, number_agreement, world_capitals
from suite.errors import TaskError


@pytest.mark.parametrize("task", [ioi, world_capitals, number_agreement, induction])
def test_no_prompt_is_in_two_sets_or_twice_in_one(task, gpt2_tokenizer):
    splits = disjoint_sets(task, gpt2_tokenizer, n_sets=3, n_find=32, n_test=40, seed=0)
    assert splits.sets.shape == (3, 32)
    assert sorted(splits.sets.ravel()) == list(range(96))
    assert (len(splits.find), len(splits.test)) == (96, 40)
    texts = splits.find.texts + splits.test.texts
    assert len(set(texts)) == 136
    again = disjoint_sets(task, gpt2_tokenizer, n_sets=3, n_find=32, n_test=40, seed=0)
    assert again.find == splits.find and again.test == splits.test


def test_repeated_prompts_are_left_out_and_more_are_drawn(gpt2_tokenizer):
    def each_twice(tokenizer, n, *, seed):
        return ioi(tokenizer, n, seed=seed).select([i // 2 for i in range(n)])

    splits = disjoint_sets(each_twice, gpt2_tokenizer, n_sets=2, n_find=2, n_test=3, seed=0)
    assert splits.find.texts + splits.test.texts == ioi(gpt2_tokenizer, 7, seed=0).texts


def test_a_task_with_too_few_prompts_is_refused(gpt2_tokenizer):
    def one_prompt(tokenizer, n, *, seed):
        return ioi(tokenizer, 1, seed=0).select([0] * n)

    with pytest.raises(TaskError, match="only 1 different prompts, but 4 are needed"):
        disjoint_sets(one_prompt, gpt2_tokenizer, n_sets=1, n_find=2, n_test=2, seed=0)
