"""Prose with repeated names."""

import pytest

from helpers.tasks import stories_with_names, vocabulary
from suite.errors import TaskError
from suite.registry import DATA


def test_each_paragraph_names_two_people_again_and_again():
    lines = (DATA / "repeated_names.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert not line.startswith("{")  # a name at the start has another token
        assert line.count("{A}") >= 2 and line.count("{B}") >= 2
        left = line.replace("{A}", "").replace("{B}", "")
        assert "{" not in left
        assert not set(left.replace(",", " ").replace(".", " ").split()) & set(vocabulary("names"))


def test_names_are_tokens_of_the_text(tokenizer):
    stories = stories_with_names(tokenizer, 20, seed=1)
    assert len({story.text for story in stories}) == 20
    for story in stories:
        ids = tokenizer(story.text)["input_ids"]
        assert all(ids.count(name) >= 2 for name in story.names)
    assert stories_with_names(tokenizer, 20, seed=1) == stories


def test_no_stories_are_refused(tokenizer):
    with pytest.raises(TaskError, match="give n >= 1"):
        stories_with_names(tokenizer, 0)
