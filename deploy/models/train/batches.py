# SPDX-License-Identifier: Apache-2.0
"""Groups documents into batches: whole documents of near-equal length, each from position 0."""

import numpy as np
import torch

from model import IGNORED

# Documents are sorted by length only inside a random bunch of this size, so that a batch holds
# other documents in every epoch.
BUNCH = 1_500


def encode(documents, tokenizer, context):
    """Token ids of each document, cut to one more than the context (inputs and targets)."""
    return [np.array(tokenizer.encode_document(document)[:context + 1])
            for document in documents]


def pack(order, lengths, budget):
    """Cuts `order` (document numbers, by rising length) into groups of <= `budget` tokens."""
    groups, group = [], []
    for number in order:
        if group and (len(group) + 1) * lengths[number] > budget:
            groups.append(group)
            group = []
        group.append(number)
    return groups + [group]


def endless(documents, budget, seed):
    """Yields lists of document numbers for ever, every document once per epoch."""
    random = np.random.default_rng(seed)
    lengths = [len(document) for document in documents]
    while True:
        bunches = np.array_split(random.permutation(len(documents)),
                                 max(1, len(documents) // BUNCH))
        groups = [group for bunch in bunches
                  for group in pack(sorted(bunch, key=lengths.__getitem__), lengths, budget)]
        for number in random.permutation(len(groups)):
            yield groups[number]


def pad(documents):
    """(inputs, targets), both (B, T); padding is token 0 in the inputs, IGNORED in the targets."""
    ids = np.full((len(documents), max(map(len, documents))), IGNORED)
    for row, document in zip(ids, documents):
        row[:len(document)] = document
    return torch.from_numpy(ids[:, :-1].clip(min=0)), torch.from_numpy(ids[:, 1:].copy())
