# SPDX-License-Identifier: Apache-2.0
"""The metadata of the model file. Needs no numpy and no torch: verify.py compares it too."""

from gguf import Int32
from tokenizer import END_OF_TEXT, PADDING, SPECIAL_TOKENS, TURN_END

FILE_TYPE_Q8_0 = 7                    # LLAMA_FTYPE_MOSTLY_Q8_0, llama.h
QUANTIZATION_VERSION = 2              # GGML_QNT_VERSION, ggml.h
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3    # llama_token_type, llama.h

# ChatML. It must not add the first token: llama.cpp does (`add_bos_token`).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(config, recipe):
    """Key -> value, for config.ModelConfig and recipe.Recipe."""
    vocabulary = recipe.tokenizer.vocabulary
    types = [Int32(TOKEN_CONTROL if i < len(SPECIAL_TOKENS) else TOKEN_NORMAL)
             for i in range(len(vocabulary))]
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny-stories-1m",
        "general.size_label": "1.1M",
        "general.description": "Tells short English stories. Made for tests and demonstrations, "
                               "trained from nothing on generated text only.",
        "general.license": "apache-2.0",
        "general.languages": ["en"],
        "general.file_type": FILE_TYPE_Q8_0,
        "general.quantization_version": QUANTIZATION_VERSION,
        "weir.recipe": recipe.fingerprint,
        "llama.block_count": config.layers,
        "llama.context_length": config.context,
        "llama.embedding_length": config.width,
        "llama.feed_forward_length": config.feed_forward,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "llama.rope.freq_base": config.rope_base,
        "llama.rope.dimension_count": config.head_width,
        "llama.vocab_size": config.vocabulary,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in recipe.tokenizer.merges],
        "tokenizer.ggml.bos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eot_token_id": TURN_END,
        "tokenizer.ggml.padding_token_id": PADDING,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
