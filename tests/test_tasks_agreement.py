"""Prompts whose answer is not among their words: number and gender agreement."""

import re
from collections import Counter

import pytest

from helpers.tasks import agreement, gender_agreement, number_agreement, vocabulary
from suite.errors import TaskError, VocabularyError


@pytest.mark.parametrize("vocabulary_of", ["tokenizer", "gpt2_tokenizer"])
def test_number_agreement_by_hand(vocabulary_of, request):
    tokenizer = request.getfixturevalue(vocabulary_of)
    pairs = [tuple(pair.split()) for pair in vocabulary("countable")]
    singular = dict(pairs)
    plural = {many: one for one, many in pairs}
    prompts = number_agreement(tokenizer, 40)
    cases = Counter()
    for i, text in enumerate(prompts.texts):
        subject, preposition, attractor = re.fullmatch(r"The (\w+) (\w+) the (\w+)", text).groups()
        assert preposition in vocabulary("prepositions")
        is_plural = subject in plural
        other = plural[subject] if is_plural else singular[subject]
        assert prompts.corrupted_texts[i] == f"The {other} {preposition} the {attractor}"
        verbs = [tokenizer.decode(prompts.answers[i]), tokenizer.decode(prompts.distractors[i])]
        assert verbs == ([" are", " is"] if is_plural else [" is", " are"])
        cases[is_plural, attractor in plural] += 1
        words = [tokenizer.decode(token).strip() for token in prompts.tokens[i]]
        assert words == ["The", subject, preposition, "the", attractor]
    assert set(cases.values()) == {10}, "attractors agree in half of the prompts of either number"
    assert prompts.positions == {"SUBJECT": (1,) * 40, "ATTRACTOR": (4,) * 40, "END": (4,) * 40}
    assert prompts == number_agreement(tokenizer, 40)
    assert prompts != number_agreement(tokenizer, 40, seed=1)


def test_gender_agreement_by_hand(gpt2_tokenizer):
    prompts = gender_agreement(gpt2_tokenizer, 40)
    for i, text in enumerate(prompts.texts):
        form = r"(.+), (\w+) went to the (\w+) because"
        time, name, place = re.fullmatch(form, text).groups()
        assert time in vocabulary("times") and place in vocabulary("places")
        kinds = ["female", "male"] if i % 2 == 0 else ["male", "female"]
        other = re.fullmatch(form, prompts.corrupted_texts[i])[2]
        assert name in vocabulary(kinds[0]) and other in vocabulary(kinds[1])
        assert prompts.corrupted_texts[i] == text.replace(name, other)
        pronouns = [
            gpt2_tokenizer.decode(token) for token in (prompts.answers[i], prompts.distractors[i])
        ]
        assert pronouns == ([" she", " he"] if i % 2 == 0 else [" he", " she"])
        at_name = prompts.tokens[i][prompts.positions["NAME"][i]]
        assert gpt2_tokenizer.decode(at_name) == f" {name}"
    assert not set(vocabulary("female")) & set(vocabulary("male"))


@pytest.mark.parametrize("task", [number_agreement, gender_agreement])
def test_agreement_refuses_what_it_cannot_be_built_from(task, gpt2_tokenizer):
    with pytest.raises(TaskError, match="at least one prompt"):
        task(gpt2_tokenizer, 0)


def test_number_agreement_refuses_a_vocabulary_without_its_nouns(tokenizer, monkeypatch):
    def several_tokens(tokenizer: object, word: str) -> tuple[int, ...]:
        return (1, 2)

    monkeypatch.setattr(agreement, "word_ids", several_tokens)
    with pytest.raises(VocabularyError, match="Only 0 nouns .* cannot run on this model"):
        number_agreement(tokenizer, 4)
    with pytest.raises(VocabularyError, match="No female name .* cannot run on this model"):
        gender_agreement(tokenizer, 4)
