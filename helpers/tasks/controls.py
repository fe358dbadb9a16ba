"""Control tasks, which should share little with the others: Greater-Than and World Capitals."""

import random
from typing import Any

from helpers.tasks.prompts import Prompts, prompt_row, prompts_from_rows
from helpers.tasks.words import single_token, token_ids, vocabulary
from suite.errors import VocabularyError


def greater_than(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """Greater-Than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17" wants a
    number above 32.

    Answer and distractor are one number above and one below the start, of the three drawn at random
    (02 to 99); so `correct` says little here, and the logit difference is what counts. The partner
    starts in 01, which allows both. Positions: YY (the start) and END. Raises TaskError for n < 1
    and where years are not a century and two digits.
    """
    rng, rows, century = random.Random(seed), [], token_ids(tokenizer, " 17")
    years = {year: token_ids(tokenizer, f" 17{year:02d}") for year in range(1, 100)}
    years = {year: ids[-1] for year, ids in years.items() if ids[:-1] == century}
    if 1 not in years or len(years) < 4:
        raise VocabularyError(
            "This vocabulary does not write a year as its century and one token: the task cannot run on this model."
        )
    for _ in range(n):
        low, start, high = sorted(rng.sample(sorted(years.keys() - {1}), 3))
        begin = f"The {rng.choice(vocabulary('events'))} lasted from the year 17"
        text, partner = (f"{begin}{year:02d} to the year 17" for year in (start, 1))
        words = {"answers": years[high], "distractors": years[low]}
        rows.append(words | prompt_row(tokenizer, text, partner, {"YY": len(begin) + 2}))
    return prompts_from_rows(rows)


def world_capitals(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """World Capitals: "The capital of Italy is Rome. The capital of France is" wants " Paris" (a
    fact, not in context).

    The partner asks for a third country, whose capital is the distractor. Countries and capitals of
    several tokens are left out. Positions: COUNTRY0 and ANSWER0 (the example's country and
    capital), COUNTRY and END. Raises TaskError for n < 1 and fewer than three countries of one
    token.
    """
    rng, rows, pairs = random.Random(seed), [], [pair.split() for pair in vocabulary("capitals")]
    pairs = [
        pair for pair in pairs if all(len(token_ids(tokenizer, f" {word}")) == 1 for word in pair)
    ]
    if len(pairs) < 3:
        raise VocabularyError(
            f"Only {len(pairs)} countries and capitals are single tokens, not three: the task cannot run on this model."
        )
    for _ in range(n):
        (country0, capital0), (country, capital), (other, wrong) = rng.sample(pairs, 3)
        example = f"The capital of {country0} is {capital0}."
        text, partner = (f"{example} The capital of {name} is" for name in (country, other))
        words = {
            "answers": single_token(tokenizer, capital),
            "distractors": single_token(tokenizer, wrong),
        }
        ends = {
            "COUNTRY0": example.index(" is "),
            "ANSWER0": len(example) - 1,
            "COUNTRY": text.rindex(" is"),
        }
        rows.append(words | prompt_row(tokenizer, text, partner, ends))
    return prompts_from_rows(rows)
