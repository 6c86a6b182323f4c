"""Skills: right answers, seeded, splits that share no question, texts of one length."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.corpus import SPLITS
from course_utils.data.skills import NUMBERS, SKILLS, skill_pairs
from course_utils.data.tokenizer import course_tokenizer

LARGEST = {"train": 8800, "validation": 400, "test": 400}


def test_the_answers_are_right():
    for prompt, answer in skill_pairs("reverse", "test", 50):
        digits = re.fullmatch(r"Q: reverse (\d{4})\n", prompt)[1]
        assert answer == "A: " + "".join(digits[3 - place] for place in range(4)) + "\n"
    words = {"odd": set("13579"), "even": set("02468")}
    found = {answer: {p[-2] for p, a in PARITY if a == answer} for _, answer in PARITY}
    assert found == {f"A: {word}\n": digits for word, digits in words.items()}


PARITY = skill_pairs("parity", "train", 400)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(SKILLS)), st.lists(st.integers(0, 2**32), min_size=3, max_size=3))
def test_splits_share_no_question_whatever_the_seeds(skill, seeds):
    drawn = {}
    for split, seed in zip(SPLITS, seeds, strict=True):
        drawn[split] = {prompt for prompt, _ in skill_pairs(skill, split, LARGEST[split], seed)}
        assert len(drawn[split]) == LARGEST[split]
    assert not drawn["train"] & drawn["test"] and not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]


def test_a_seed_repeats_and_another_draws_anew():
    assert skill_pairs("reverse", "train", 20, 1) == skill_pairs("reverse", "train", 20, 1)
    assert skill_pairs("reverse", "train", 20, 1) != skill_pairs("reverse", "train", 20, 2)
    assert len(set(NUMBERS)) == 10_000


def test_digits_are_tokens_and_questions_have_one_length():
    encode = course_tokenizer().encode
    for skill in SKILLS:
        pairs = skill_pairs(skill, "train", 200)
        assert len({len(encode(prompt)) for prompt, _ in pairs}) == 1
    assert len({len(encode(answer)) for _, answer in skill_pairs("reverse", "train", 200)}) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("sort", "train", 5), "skill is 'sort': choose one of reverse, parity"),
        (("reverse", "valid", 5), "split is 'valid': choose one of train, validation, test"),
        (("reverse", "test", 5000), "5000 pairs: the test split of 'reverse' has 1 to"),
        (("reverse", "test", 0), "0 pairs"),
    ],
)
def test_what_does_not_exist_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        skill_pairs(*given)
