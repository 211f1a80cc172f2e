#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Proves that the shipped model file belongs to the program beside it.

    python3 verify.py [FILE]      check the shipped file, or FILE
    python3 verify.py --selftest  also damage copies of it in several ways; each must be noticed

Writes the corpus and trains the tokenizer again, compares everything in the file that they decide,
and reads an unseen story with the weights. Standard library only; takes 15 seconds, or a
minute with --selftest.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "train"))

import gguf  # noqa: E402
import metadata  # noqa: E402
import recipe  # noqa: E402
from config import MODEL  # noqa: E402
from reference import Model  # noqa: E402

SHIPPED = HERE / "tiny-stories-1m-q8_0.gguf"
LARGEST_FILE = 5_000_000    # bytes
LARGEST_LOSS = 1.0          # nats per token; knowing only how often each token occurs gives 5.5
SHORTEN = 60                # characters of a value in a message


def shorten(value):
    text = repr(value)
    return text if len(text) <= SHORTEN else text[:SHORTEN] + "..."


def difference(expected, found):
    """What differs between two metadata values, in words; None if they are equal."""
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"expected {len(expected)} entries, found {len(found)}"
        for i, pair in enumerate(zip(expected, found)):
            if pair[0] != pair[1]:
                return f"entry {i}: expected {shorten(pair[0])}, found {shorten(pair[1])}"
        return None
    if isinstance(expected, float) and isinstance(found, float):
        # The file has 32-bit floats.
        equal = gguf.pack_value(expected) == gguf.pack_value(found)
    else:
        equal = expected == found
    return None if equal else f"expected {shorten(expected)}, found {shorten(found)}"


def compare_keys(expected, found):
    """Complaint about two dictionaries with different keys; None if there is none."""
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        return f"missing: {sorted(missing)}, not expected: {sorted(extra)}"
    return None


def check_size(path):
    size = path.stat().st_size
    return f"{size} bytes, more than {LARGEST_FILE}" if size > LARGEST_FILE else None


def check_tensor_kind(shape, tensor):
    kind = "F32" if len(shape) == 1 else "Q8_0"
    if tensor.shape != shape or tensor.type_name != kind:
        return f"expected {kind} {shape}, found {tensor.type_name} {tensor.shape}"
    return None


def check_weights(tensors):
    """Every weight must be a number, and no tensor may be all alike."""
    for name, tensor in tensors.items():
        values = tensor.values()
        if not all(map(math.isfinite, values)):
            return f"{name} has weights that are not finite"
        if min(values) == max(values):
            return f"{name} is constant"
    return None


def check_loss(model_metadata, tensors, prepared):
    """The weights must fit the tokenizer and the shapes: a wrong order of rows would not."""
    story = next(document for document in prepared.validation if not document.messages)
    ids = prepared.tokenizer.encode_document(story)
    loss = Model(model_metadata, tensors).loss(ids)
    if loss <= LARGEST_LOSS:
        return None
    return f"{loss:.3f} nats per token, more than {LARGEST_LOSS}: {shorten(story.text)}"


def checks(path, prepared):
    """Yields (what was checked, complaint or None); ends early where going on makes no sense."""
    if not path.is_file():
        yield "the file exists", f"no file {path}"
        return
    yield "the file is small enough", check_size(path)
    try:
        found, tensors = gguf.read(path)
    except (gguf.FormatError, UnicodeDecodeError) as error:
        yield "the file is whole: header, offsets, end", str(error)
        return
    yield "the file is whole: header, offsets, end", None

    expected = metadata.build(MODEL, prepared)
    yield "metadata keys", compare_keys(expected, found)
    for key in expected:
        if key in found:
            yield key, difference(expected[key], found[key])

    shapes = MODEL.tensor_shapes()
    complaint = compare_keys(shapes, tensors)
    yield "tensor names", complaint
    if complaint:
        return
    complaints = {name: check_tensor_kind(shape, tensors[name]) for name, shape in shapes.items()}
    wrong = [f"{name}: {complaint}" for name, complaint in complaints.items() if complaint]
    yield f"shapes and types of {len(shapes)} tensors", "; ".join(wrong) or None
    complaint = check_weights(tensors)
    yield "weights are finite and not constant", complaint
    if not wrong and not complaint:
        yield "an unseen story is no surprise", check_loss(expected, tensors, prepared)


def damaged_copies(path, directory):
    """Yields (what was done, file): copies of `path` that must not pass."""
    intact, tensors = gguf.read(path)
    intact["tokenizer.ggml.token_type"] = [
        gguf.Int32(kind) for kind in intact["tokenizer.ggml.token_type"]]
    copy = directory / "damaged.gguf"

    copy.write_bytes(path.read_bytes()[:-1000])
    yield "cut off", copy
    copy.write_bytes(b"\0" + path.read_bytes()[1:])
    yield "other magic", copy

    merges = list(intact["tokenizer.ggml.merges"])
    merges[500], merges[501] = merges[501], merges[500]
    gguf.write(copy, {**intact, "tokenizer.ggml.merges": merges}, tensors)
    yield "two merges swapped", copy
    gguf.write(copy, {**intact, "weir.recipe": "0" * 64}, tensors)
    yield "other recipe", copy
    gguf.write(copy, {**intact, "tokenizer.chat_template": "{{ messages }}"}, tensors)
    yield "other chat template", copy

    def write_with(name, data):
        old = tensors[name]
        gguf.write(copy, intact, {**tensors, name: gguf.Tensor(old.shape, old.type, data)})

    query = "blk.0.attn_q.weight"
    data = tensors[query].data
    write_with(query, bytes(len(data)))
    yield "weights all zero", copy
    write_with(query, b"\xff\xff" + data[2:])
    yield "a scale that is not a number", copy
    gguf.write(copy, intact, {name: tensor for name, tensor in tensors.items() if name != query})
    yield "a tensor missing", copy

    embedding = "token_embd.weight"
    data = tensors[embedding].data
    write_with(embedding, data[len(data) // 2:] + data[:len(data) // 2])
    yield "rows of the embedding moved", copy


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=SHIPPED)
    parser.add_argument("--selftest", action="store_true")
    args = parser.parse_args()
    passed = failed = 0

    def report(name, complaint):
        nonlocal passed, failed
        if complaint:
            failed += 1
            print(f"not ok - {name}: {complaint}", flush=True)
        else:
            passed += 1
            print(f"ok - {name}", flush=True)

    prepared = recipe.prepare()
    for name, complaint in checks(args.file, prepared):
        report(name, complaint)
    if args.selftest and not failed:
        with tempfile.TemporaryDirectory() as directory:
            for name, copy in damaged_copies(args.file, Path(directory)):
                complaints = [f"{check}: {complaint}"
                              for check, complaint in checks(copy, prepared) if complaint]
                noticed = f" ({complaints[0]})" if complaints else ""
                report(f"damage is noticed: {name}{noticed}",
                       None if complaints else "every check passed")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
