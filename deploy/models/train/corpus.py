# SPDX-License-Identifier: Apache-2.0
"""The training text: small English stories and chats about them, from our own grammar.

    python3 corpus.py --seed 7 --count 5     # print a few documents
"""

import argparse
from dataclasses import dataclass

import plots
import words
from grammar import Dice, expand

CHAT_SHARE = 0.45            # of the documents; the others are plain stories
GREETING_SHARE = 0.04        # of the chats
SYSTEM_LINE_SHARE = 0.15     # of the story chats
SECOND_STORY_SHARE = 0.15    # of the story chats
QUESTION_SHARE = 0.5         # of the stories told in a chat
SECOND_QUESTION_SHARE = 0.4  # of those
PARAGRAPH_SHARE = 0.35       # of the stories; the others are one paragraph
CHILD_SHARE = 0.1           # of the characters; the others are animals

SYSTEM_LINE = "You tell short stories."
GREETINGS = [
    ("Hello!", "Hello! Would you like to hear a story?"),
    ("Hi", "Hi! I can tell you a story."),
    ("Who are you?", "I am a small story teller. Ask me for a story!"),
    ("What can you do?", "I can tell short stories. Tell me who the story is about."),
    ("Thank you!", "You are welcome!"),
    ("How are you?", "I am fine, thank you! Would you like a story?"),
    ("Good morning!", "Good morning! Would you like to hear a story?"),
    ("Goodbye!", "Goodbye! Sleep well."),
]
REQUESTS = [
    "Tell me {article} story about {subject}.",
    "Tell me {article} story about {subject}.",
    "Tell me {article} short story about {subject}.",
    "Can you tell me {article} story about {subject}?",
    "Please tell me {article} story about {subject}.",
    "Write {article} story about {subject}.",
    "Write {article} short story about {subject}.",
    "I want {article} story about {subject}.",
]


@dataclass(frozen=True)
class Character:
    name: str
    kind: str
    trait: str
    size: str
    he: str
    him: str
    his: str

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Toy:
    name: str
    color: str

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Place:
    name: str
    at: str       # "in the forest"
    cover: str    # a thing there that one can look behind

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Food:
    name: str
    some: str     # with its article

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Story:
    text: str
    plot: plots.Plot
    facts: dict


@dataclass(frozen=True)
class Document:
    """Either a plain story (`text`) or a chat (`messages`: role and text of each turn)."""
    text: str = ""
    messages: tuple = ()

    def texts(self):
        """The strings the tokenizer sees, in order."""
        if not self.messages:
            return [self.text]
        return [part for role, text in self.messages for part in (role + "\n", text)]


class Author:
    """Writes documents; the same seed always gives the same ones."""

    def __init__(self, seed):
        self.dice = Dice(seed)
        self.plots = [plot for plot in plots.PLOTS for _ in range(plot.weight)]

    def document(self):
        if self.dice.chance(CHAT_SHARE):
            return Document(messages=tuple(self.chat()))
        return Document(text=self.story().text)

    def chat(self):
        dice = self.dice
        if dice.chance(GREETING_SHARE):
            question, answer = dice.pick(GREETINGS)
            return [("user", question), ("assistant", answer)]
        messages = []
        if dice.chance(SYSTEM_LINE_SHARE):
            messages.append(("system", SYSTEM_LINE))
        messages += self.told_story("a")
        if dice.chance(SECOND_STORY_SHARE):
            messages += self.told_story("another")
        return messages

    def told_story(self, article):
        """A request, the story, and perhaps questions about it."""
        dice = self.dice
        story = self.story()
        request = dice.pick(REQUESTS).format(article=article, subject=self.subject(story))
        messages = [("user", expand(request, story.facts, dice)), ("assistant", story.text)]
        if dice.chance(QUESTION_SHARE):
            count = 2 if dice.chance(SECOND_QUESTION_SHARE) else 1
            questions = story.plot.questions + (
                ("What is the name of the {hero.kind}?", "The {hero.kind} is named {hero}."),
                ("What did {hero} learn?", "{hero} learned that {lesson}"),
            )
            for question, answer in dice.draw(questions, count):
                messages.append(("user", expand(question, story.facts, dice)))
                messages.append(("assistant", expand(answer, story.facts, dice)))
        return messages

    def subject(self, story):
        """What a reader may ask for, as a template; never something the story lacks."""
        subjects = ["a {hero.kind}", "a {hero.kind} named {hero}", "a {hero.kind} named {hero}"]
        if story.plot.has_toy:
            subjects += ["a {hero.kind} and a {toy}", "a {hero.kind} and a {toy}",
                         "a {hero.kind} with a {toy.color} {toy}",
                         "a {hero.kind} and a {toy.color} {toy}", "a {toy}"]
        if story.plot.has_friend:
            subjects += ["a {hero.kind} and a {friend.kind}", "{hero} and {friend}"]
        if story.facts["hero"].trait in story.text:
            subjects.append("a {hero.trait} {hero.kind}")
        if story.facts["place"].at in story.text:
            subjects.append("a {hero.kind} {place.at}")
        return self.dice.pick(subjects)

    def story(self):
        dice = self.dice
        facts = self.facts()
        plot = dice.pick(self.plots)
        moral = expand(plot.moral, facts, dice)
        facts.update(moral=moral, lesson=moral[0].lower() + moral[1:])

        opening = [expand(line, facts, dice) for line in plots.OPENING]
        body = [expand(line, facts, dice) for line in plot.sentences]
        ends = plots.ENDINGS + (plots.ENDINGS_WITH_FRIEND if plot.has_friend else ())
        ending = dice.draw([expand(dice.pick(ends), facts, dice),
                            expand(dice.pick(plots.MORALS), facts, dice)], 2)

        paragraphs = [" ".join(filter(None, part)) for part in (opening, body, ending)]
        gap = "\n\n" if dice.chance(PARAGRAPH_SHARE) else " "
        return Story(gap.join(paragraphs), plot, facts)

    def facts(self):
        """Everything a plot may mention, drawn once so that a story does not contradict itself."""
        dice = self.dice
        hero, friend, guest = self.characters(3)
        place, far = [Place(name, f"{preposition} the {name}", cover)
                      for name, preposition, cover in dice.draw(words.PLACES, 2)]
        food, other_food = [Food(*food) for food in dice.draw(words.FOODS, 2)]
        weather, weather_line = dice.pick(words.WEATHER)
        noise, noise_maker = dice.pick(words.NOISES)
        skill, skill_place = dice.pick(words.SKILLS)
        seed, plant = dice.pick(words.SEEDS)
        facts = dict(
            hero=hero, friend=friend, guest=guest, place=place, far=far,
            toy=Toy(dice.pick(words.TOYS), dice.pick(words.COLORS)),
            food=food, other_food=other_food, weather=weather, noise=noise,
            noise_maker=noise_maker, skill=skill, skill_place=skill_place, seed=seed, plant=plant,
            tool=dice.pick(words.TOOLS), secret=dice.pick(words.SECRETS),
            parent=dice.pick(words.PARENTS), number=dice.pick(words.NUMBERS),
            house=dice.pick(words.HOUSES),
        )
        rescue = words.RESCUE_BY_KIND.get(friend.kind, words.RESCUE_BY_ANYONE)
        for name, template in (("weather_line", weather_line), ("lived", plots.LIVED),
                               ("rescue", rescue)):
            facts[name] = self.phrase(template, facts)
        return facts

    def phrase(self, template, facts):
        """Like `expand`, for a part of a sentence: it keeps its small first letter."""
        text = expand(template, facts, self.dice)
        return text if template[0].isupper() else text[0].lower() + text[1:]

    def characters(self, count):
        """Characters whose names and kinds all differ."""
        dice = self.dice
        names, kinds, cast = set(), set(), []
        while len(cast) < count:
            kind = dice.pick(words.CHILDREN if dice.chance(CHILD_SHARE) else words.ANIMALS)
            female = kind == "girl" or (kind != "boy" and dice.chance(0.5))
            name = dice.pick(words.GIRL_NAMES if female else words.BOY_NAMES)
            pronouns = ("she", "her", "her") if female else ("he", "him", "his")
            if name in names or kind in kinds:
                continue
            names.add(name)
            kinds.add(kind)
            cast.append(Character(name, kind, dice.pick(words.TRAITS), dice.pick(words.SIZES),
                                  *pronouns))
        return cast


def documents(seed, count):
    """`count` documents; a shorter list is always the beginning of a longer one."""
    author = Author(seed)
    return [author.document() for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description="Print documents of the training corpus.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()
    for document in documents(args.seed, args.count):
        if document.messages:
            print("\n".join(f"{role}: {text}" for role, text in document.messages))
        else:
            print(document.text)
        print("-" * 20)


if __name__ == "__main__":
    main()
