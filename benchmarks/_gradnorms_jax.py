"""The benchmark's networks in JAX, with the weights of their torch originals."""

import jax
import jax.numpy as jnp
import numpy as np
import torch.nn as nn
from jax import lax

from benchmarks._gradnorms_networks import Attention, Block, Encoder, Transformer


def weights_of(model):
    "name -> array, as `named_parameters` has them."
    return {name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters()}


def below(w, name):
    "The weights of a submodule, by their names in it."
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in w.items() if key.startswith(prefix)}


# one sample at a time: no axis for the batch


def linear(m, w, x):
    y = x @ w["weight"].T
    return y + w["bias"] if "bias" in w else y


def convolution(m, w, x):
    padding = [(p, p) for p in m.padding]
    y = lax.conv_general_dilated(x[None], w["weight"], m.stride, padding)[0]
    return y + w["bias"][:, None, None] if "bias" in w else y


def group_norm(m, w, x):
    groups = x.reshape(m.num_groups, -1)
    centred = groups - groups.mean(1, keepdims=True)
    y = centred * lax.rsqrt(groups.var(1, keepdims=True) + m.eps)
    return y.reshape(x.shape) * w["weight"][:, None, None] + w["bias"][:, None, None]


def layer_norm(m, w, x):
    centred = x - x.mean(-1, keepdims=True)
    y = centred * lax.rsqrt(x.var(-1, keepdims=True) + m.eps)
    return y * w["weight"] + w["bias"]


def sequential(m, w, x):
    for name, child in m.named_children():
        x = apply(child, below(w, name), x)
    return x


def block(m, w, x):
    def part(name, x):
        return apply(getattr(m, name), below(w, name), x)

    inner = jax.nn.relu(part("n1", part("c1", x)))
    return jax.nn.relu(part("n2", part("c2", inner)) + part("short", x))


def attention(m, w, x):
    q, k, v = jnp.split(linear(m.qkv, below(w, "qkv"), x), 3, axis=1)
    length, d = q.shape
    q, k, v = (t.reshape(length, m.heads, -1).transpose(1, 0, 2) for t in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(d // m.heads)
    mixed = jax.nn.softmax(scores, -1) @ v
    return linear(m.out, below(w, "out"), mixed.transpose(1, 0, 2).reshape(length, d))


def encoder(m, w, x):
    def part(name, x):
        return apply(getattr(m, name), below(w, name), x)

    x = x + part("a", part("n1", x))
    return x + part("down", jax.nn.gelu(part("up", part("n2", x)), approximate=False))


def transformer(m, w, t):
    x = w["embed.weight"][t]
    x = sequential(m.layers, below(w, "layers"), x)
    x = layer_norm(m.norm, below(w, "norm"), x)
    return linear(m.head, below(w, "head"), x.mean(0))


LAYERS = {
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.ReLU: lambda m, w, x: jax.nn.relu(x),
    nn.Flatten: lambda m, w, x: x.reshape(-1),
    nn.AdaptiveAvgPool2d: lambda m, w, x: x.mean((1, 2)),
    nn.LogSoftmax: lambda m, w, x: jax.nn.log_softmax(x),
    Block: block,
    Attention: attention,
    Encoder: encoder,
    Transformer: transformer,
}


def apply(m, w, x):
    "The output of a torch module for one sample, with weights w: name -> array."
    known = next((f for kind, f in LAYERS.items() if isinstance(m, kind)), None)
    if known is None and not isinstance(m, nn.Sequential):
        raise TypeError(f"{type(m).__name__} is not known in JAX")
    return (known or sequential)(m, w, x)


def norms(model):
    "A compiled function of (weights, x, y) that gives the gradient norms by vmap(grad)."

    def loss(w, x, y):
        return -jax.nn.log_softmax(apply(model, w, x))[y]

    def norm(w, x, y):
        grads = jax.tree.leaves(jax.grad(loss)(w, x, y))
        return jnp.sqrt(sum(jnp.square(g).sum() for g in grads))

    return jax.jit(jax.vmap(norm, in_axes=(None, 0, 0)))
