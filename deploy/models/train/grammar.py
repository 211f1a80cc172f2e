# SPDX-License-Identifier: Apache-2.0
"""Templates: `[a|b|c]` picks one, `{hero.kind}` inserts a fact of the story."""

import random
import re

INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
ARTICLE_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|um|un(?!i))")
SENTENCE_START = re.compile(r'(^"?|[.!?] "?)([a-z])')


class Dice:
    """Random choices that are the same on every Python version.

    Python promises to keep the sequence of `random()` for a seed, but not those of `choice`,
    `sample` and `shuffle`; the shipped model is checked against a regenerated corpus, so only
    the promised one is used.
    """

    def __init__(self, seed):
        self._random = random.Random(seed).random

    def chance(self, probability):
        return self._random() < probability

    def pick(self, items):
        return items[int(self._random() * len(items))]

    def draw(self, items, count):
        """`count` different items in random order."""
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(count)]


def expand(template, facts, dice):
    """The sentence(s) that `template` stands for. `facts` maps names to objects."""
    text = template
    while choice := INNERMOST_CHOICE.search(text):
        option = dice.pick(choice.group(1).split("|"))
        text = text[:choice.start()] + option + text[choice.end():]
    text = text.format(**facts)
    text = ARTICLE_BEFORE_VOWEL.sub(r"\1n ", text)
    text = " ".join(text.split())
    return SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)
