# SPDX-License-Identifier: Apache-2.0
"""Turns a trained StoryModel into the tensors of the model file."""

import numpy as np

import gguf
import metadata
from gguf import F32, Q8_0, Tensor


def quantize_q8_0(matrix):
    """Blocks of 32 values: an f16 scale and 32 int8, the same bytes as ggml's reference code."""
    blocks = matrix.reshape(-1, 32)
    scales = np.abs(blocks).max(1, keepdims=True) / 127
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    scaled = blocks * inverse
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int8)   # as C's roundf
    return np.hstack([scales.astype("<f2").view(np.uint8), rounded.view(np.uint8)]).tobytes()


def to_tensor(array):
    """Matrices as Q8_0; norms, which are small and matter, as F32."""
    array = np.ascontiguousarray(array, "<f4")
    if array.ndim == 1:
        return Tensor(array.shape, F32, array.tobytes())
    return Tensor(array.shape, Q8_0, quantize_q8_0(array))


def interleave(rows, head_width):
    """Rows of a query or key matrix from half-split order to llama.cpp's neighbouring pairs."""
    heads = rows.reshape(-1, 2, head_width // 2, rows.shape[1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def tensors(model):
    """Name -> Tensor, in the order of ModelConfig.tensor_shapes()."""
    config = model.config
    weights = {name: value.float().numpy() for name, value in model.state_dict().items()}
    found = {"token_embd": weights["embedding.weight"], "output_norm": weights["norm.weight"]}
    queries = config.heads * config.head_width
    keys = config.kv_heads * config.head_width
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}.", f"blk.{layer}."
        q, k, v = np.split(weights[ours + "attention.qkv.weight"], [queries, queries + keys])
        gate, up = np.split(weights[ours + "feed_forward.gate_up.weight"], 2)
        found.update({
            theirs + "attn_norm": weights[ours + "attention_norm.weight"],
            theirs + "attn_q": interleave(q, config.head_width),
            theirs + "attn_k": interleave(k, config.head_width),
            theirs + "attn_v": v,
            theirs + "attn_output": weights[ours + "attention.output.weight"],
            theirs + "ffn_norm": weights[ours + "feed_forward_norm.weight"],
            theirs + "ffn_gate": gate,
            theirs + "ffn_up": up,
            theirs + "ffn_down": weights[ours + "feed_forward.down.weight"],
        })
    return {name + ".weight": to_tensor(array) for name, array in found.items()}


def write(path, model, recipe):
    """Writes the model file."""
    gguf.write(path, metadata.build(model.config, recipe), tensors(model))
