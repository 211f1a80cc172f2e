# SPDX-License-Identifier: Apache-2.0
"""The part of the recipe that has only one outcome: texts, tokenizer and their fingerprint."""

import hashlib
from dataclasses import dataclass

import corpus
from config import CORPUS, MODEL, fingerprint
from tokenizer import Tokenizer


@dataclass(frozen=True)
class Recipe:
    train: list           # corpus.Document
    validation: list      # corpus.Document
    tokenizer: Tokenizer
    fingerprint: str


def prepare():
    """Writes the corpus and trains the tokenizer on it; the same on every machine."""
    train = corpus.documents(CORPUS.train_seed, CORPUS.train_documents)
    validation = corpus.documents(CORPUS.validation_seed, CORPUS.validation_documents)
    digest = hashlib.sha256()
    for document in train:
        for text in document.texts():
            digest.update(text.encode("ascii") + b"\0")
    texts = [text for document in train[:CORPUS.tokenizer_documents] for text in document.texts()]
    tokenizer = Tokenizer.train(texts, MODEL.vocabulary)
    return Recipe(train, validation, tokenizer, fingerprint(digest.hexdigest(), tokenizer))
