# SPDX-License-Identifier: Apache-2.0
"""Counts what the loss does not show: do stories end, and do they keep to the facts?

    python3 evaluate.py ../tiny-stories-1m-q8_0.gguf

Standard library only; some minutes, because it runs the model in plain Python.
"""

import argparse
import random
import re
from multiprocessing import Pool

import corpus
import gguf
import words
from config import CORPUS
from reference import Model
from tokenizer import Tokenizer

REQUESTS = 40
QUESTIONS = 40
TEMPERATURE = 0.8     # of the stories; questions are answered with the most likely words
LIMIT = 400           # tokens; a story in the corpus has about 200

model = tokenizer = None    # set in every process by `load`


def load(path):
    global model, tokenizer
    metadata, tensors = gguf.read(path)
    model, tokenizer = Model(metadata, tensors), Tokenizer.from_metadata(metadata)


def answer(messages, temperature, seed):
    """(the assistant's next message, number of its tokens)."""
    prompt = tokenizer.encode_chat(messages, answer=True)
    ids = list(model.generate(prompt, LIMIT, temperature, random.Random(seed)))
    return tokenizer.decode(ids), len(ids)


def kinds_agree(text):
    """Is everyone who is called "the fox" somewhere "a fox" or "a shy fox"?"""
    found = re.findall(r"(\w+) (%s)\b" % "|".join(words.ANIMALS + words.CHILDREN), text)
    referred = {kind for before, kind in found if before.lower() == "the"}
    introduced = {kind for before, kind in found if before.lower() != "the"}
    return referred <= introduced


def tell(number):
    """Asks for a story about an animal and a toy."""
    kind = words.ANIMALS[number % len(words.ANIMALS)]
    toy = words.TOYS[number % len(words.TOYS)]
    request = f"Tell me a story about a {kind} and a {toy}."
    text, tokens = answer([("user", request)], TEMPERATURE, number)
    toys = set(re.findall(r"\w+", text)) & set(words.TOYS)
    return (request, text, tokens, f" {kind}" in text, toy in toys, toys == {toy},
            kinds_agree(text))


def ask(messages):
    """Asks about a story that the corpus tells; `messages` ends with the right answer."""
    *question, (_, expected) = messages
    text, _ = answer(question, 0.0, 0)
    return question[-1][1], expected, text


def questions():
    """Unseen chats, cut after the first answer to a question about the first story."""
    chosen = []
    for document in corpus.documents(CORPUS.validation_seed, CORPUS.validation_documents):
        roles = [role for role, _ in document.messages]
        first = roles.index("user") + 2 if "user" in roles else 0
        # A short message after the first story is a question, a long one another story.
        if len(document.messages) > first + 1 and "?" in document.messages[first][1] \
                and "story" not in document.messages[first][1]:
            chosen.append(document.messages[:first + 2])
    return chosen[:QUESTIONS]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    with Pool(args.processes, load, (args.file,)) as pool:
        stories = pool.map(tell, range(REQUESTS), chunksize=1)
        answers = pool.map(ask, questions(), chunksize=1)

    for request, text, *_ in stories:
        print(f"{request}\n{text}\n")
    for question, expected, text in answers:
        print(f"{question}  {text}" + ("" if text == expected else f"  (right: {expected})"))
    texts, lengths, kinds, toys, only_toys, agree = list(zip(*stories))[1:]
    print(f"\nstories: {len(texts)}, distinct: {len(set(texts))}, "
          f"mean tokens: {sum(lengths) / len(lengths):.0f}")
    print(f"ended by themselves: {sum(length < LIMIT for length in lengths)}")
    print(f"about the animal that was asked for: {sum(kinds)}")
    print(f"about the toy that was asked for: {sum(toys)}, and no other: {sum(only_toys)}")
    print(f"nobody turns into another animal: {sum(agree)}")
    exact = sum(text == expected for _, expected, text in answers)
    print(f"questions answered exactly: {exact} of {len(answers)}")


if __name__ == "__main__":
    main()
