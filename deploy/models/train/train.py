# SPDX-License-Identifier: Apache-2.0
"""Makes the model from nothing: corpus, tokenizer, training, GGUF file.

    /usr/bin/python3 train.py --out tiny-stories-1m-q8_0.gguf

Too slow? Stop it and go on with fewer steps, or with 0 to write the checkpoint as it is:
    /usr/bin/python3 train.py --out tiny-stories-1m-q8_0.gguf --resume --steps 2000
"""

import argparse
import ctypes
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import batches
import export
import recipe
from config import MODEL, TRAIN
from model import IGNORED, StoryModel

REPORT_EVERY = 50        # steps
CHECKPOINT_EVERY = 250   # steps
VALIDATION_BATCH = 24    # documents


def keep_freed_memory():
    """Tells glibc not to return freed memory to the kernel; that alone is 15-25 % of the speed.

    Every step allocates and frees the same large buffers; by default each is mapped and zeroed
    anew. Constants: malloc.h, mallopt(3).
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 << 20)


def low_precision():
    """bf16 for matrix products: without it Debian's torch is too slow to train with."""
    return torch.cpu.amp.autocast(dtype=torch.bfloat16)


def make_optimizer(model, config):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": config.weight_decay},
                              {"params": vectors, "weight_decay": 0.0}],
                             lr=config.peak_rate, betas=config.betas)


def validation_loss(model, documents):
    """Mean loss per token over `documents` (lists of token ids), in nats."""
    documents = sorted(documents, key=len)
    total = tokens = 0
    with torch.no_grad(), low_precision():
        for start in range(0, len(documents), VALIDATION_BATCH):
            inputs, targets = batches.pad(documents[start:start + VALIDATION_BATCH])
            count = int((targets != IGNORED).sum())
            total += model.loss(inputs, targets).item() * count
            tokens += count
    return total / tokens


def save(path, state):
    """Never leaves half a checkpoint, whenever the program is stopped."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train(prepared, config, checkpoint, resume):
    """Trains a StoryModel; saves and, with `resume`, continues from the file `checkpoint`."""
    torch.manual_seed(config.seed)
    documents = batches.encode(prepared.train, prepared.tokenizer, MODEL.context)
    unseen = batches.encode(prepared.validation, prepared.tokenizer, MODEL.context)
    model = StoryModel(MODEL)
    model.initialize(config.initial_spread)
    optimizer = make_optimizer(model, config)
    first_step = 0
    if resume:
        state = torch.load(checkpoint)
        if state["fingerprint"] != prepared.fingerprint:
            raise SystemExit(f"{checkpoint} was made by another version of this program")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]

    groups = batches.endless(documents, config.tokens_per_step, config.seed)
    started, tokens, losses = time.time(), 0, []
    for step, group in enumerate(islice(groups, first_step, config.steps), first_step):
        for parameters in optimizer.param_groups:
            parameters["lr"] = config.rate(step)
        inputs, targets = batches.pad([documents[number] for number in group])
        with low_precision():
            loss = model.loss(inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()

        tokens += int((targets != IGNORED).sum())
        losses.append(loss.item())
        done = step + 1
        if done % REPORT_EVERY == 0 or done == config.steps:
            seconds = time.time() - started
            remaining = (config.steps - done) * seconds / (done - first_step)
            print(f"step {done}/{config.steps}  loss {sum(losses) / len(losses):.4f}  "
                  f"{tokens / 1e6:.2f} M tokens  {tokens / seconds:.0f} tok/s  "
                  f"{seconds:.0f} s, {remaining:.0f} s left", flush=True)
            losses = []
        if done % CHECKPOINT_EVERY == 0 or done == config.steps:
            print(f"  validation loss {validation_loss(model, unseen):.4f}", flush=True)
            save(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                              "step": done, "fingerprint": prepared.fingerprint})
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--checkpoint", type=Path, help="default: OUT with .pt at its end")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--steps", type=int, default=TRAIN.steps)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    checkpoint = args.checkpoint or args.out.with_suffix(".pt")

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    prepared = recipe.prepare()
    print(f"{len(prepared.train)} documents, {len(prepared.tokenizer.vocabulary)} tokens, "
          f"{MODEL.parameters()} parameters, recipe {prepared.fingerprint[:12]}", flush=True)
    model = train(prepared, replace(TRAIN, steps=args.steps), checkpoint, args.resume)
    export.write(args.out, model, prepared)
    print(f"wrote {args.out}, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
