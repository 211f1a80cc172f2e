# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE in the manner of GPT-2: training, encoding and decoding, in plain Python."""

import re
from collections import Counter

# GPT-2's pattern (openai/gpt-2, encoder.py) for ASCII text. `re` has no \p{L}; the corpus is ASCII,
# and bytes outside it are single tokens for both.
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")

END_OF_TEXT, TURN_START, TURN_END, PADDING = range(4)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]


def printable_bytes():
    """GPT-2's visible character for each byte: itself if printable, else one from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte))
            for byte in range(256)]


CHARACTER_OF_BYTE = printable_bytes()
BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}


def visible(text):
    return "".join(CHARACTER_OF_BYTE[byte] for byte in text.encode())


def merge_pair(pieces, pair):
    """`pieces` with every occurrence of the two neighbours `pair` joined."""
    joined, i = [], 0
    while i < len(pieces):
        if pieces[i:i + 2] == pair:
            joined.append(pair[0] + pair[1])
            i += 2
        else:
            joined.append(pieces[i])
            i += 1
    return tuple(joined)


class Tokenizer:
    """`vocabulary[id]` is a token's text in visible characters; `merges` are pairs, best first."""

    def __init__(self, vocabulary, merges):
        self.vocabulary = vocabulary
        self.merges = merges
        self._id = {piece: i for i, piece in enumerate(vocabulary)}
        self._rank = {pair: i for i, pair in enumerate(merges)}
        self._ids_of_word = {}

    @classmethod
    def from_metadata(cls, metadata):
        """The tokenizer of a model file."""
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        return cls(metadata["tokenizer.ggml.tokens"], merges)

    @classmethod
    def train(cls, texts, size):
        """Joins the most frequent pair of neighbours until there are `size` tokens."""
        counts = Counter(word for text in texts for word in WORD.findall(text))
        words = {tuple(visible(word)): count for word, count in counts.items()}
        vocabulary = SPECIAL_TOKENS + CHARACTER_OF_BYTE
        merges = []
        while len(vocabulary) < size:
            pairs = Counter()
            for pieces, count in words.items():
                for pair in zip(pieces, pieces[1:]):
                    pairs[pair] += count
            # The pair itself breaks ties, so that the order of the words does not matter.
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            merges.append(best)
            vocabulary.append(best[0] + best[1])
            words = {merge_pair(pieces, best): count for pieces, count in words.items()}
        return cls(vocabulary, merges)

    def encode(self, text):
        """Token ids of plain text; special tokens are not looked for."""
        return [i for word in WORD.findall(text) for i in self._encode_word(word)]

    def _encode_word(self, word):
        if word not in self._ids_of_word:
            pieces = tuple(visible(word))
            while known := [pair for pair in zip(pieces, pieces[1:]) if pair in self._rank]:
                pieces = merge_pair(pieces, min(known, key=self._rank.get))
            self._ids_of_word[word] = [self._id[piece] for piece in pieces]
        return self._ids_of_word[word]

    def decode(self, ids):
        parts = (SPECIAL_TOKENS[i].encode() if i < len(SPECIAL_TOKENS)
                 else bytes(BYTE_OF_CHARACTER[character] for character in self.vocabulary[i])
                 for i in ids)
        return b"".join(parts).decode("utf-8", "replace")

    def encode_document(self, document):
        """Ids of a corpus.Document: begins with END_OF_TEXT, as llama.cpp will begin every prompt.

        A story ends in END_OF_TEXT, every turn of a chat in TURN_END.
        """
        if not document.messages:
            return [END_OF_TEXT, *self.encode(document.text), END_OF_TEXT]
        return self.encode_chat(document.messages)

    def encode_chat(self, messages, answer=False):
        """Ids of (role, text) pairs; with `answer`, up to where the assistant answers them."""
        ids = [END_OF_TEXT]
        for role, text in messages:
            ids += [TURN_START, *self.encode(f"{role}\n{text}"), TURN_END, *self.encode("\n")]
        if answer:
            ids += [TURN_START, *self.encode("assistant\n")]
        return ids
