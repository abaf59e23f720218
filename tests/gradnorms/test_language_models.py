"""BERT, GPT-2 and T5: their pieces by hand, and transformers' own if it is installed."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import choose_method, evaluation_statistics, grad_norms
from tests.gradnorms.helpers import backward_norms, close

N = 5
LENGTH = 6
WORDS = 20


def classes(out, y):
    return F.cross_entropy(out["logits"], y, reduction="none")


def next_word(out, y):
    "The mean over the words of a sentence that are not padding."
    logits = out["logits"][:, :-1].transpose(1, 2)
    losses = F.cross_entropy(logits, y["labels"][:, 1:], reduction="none", ignore_index=-100)
    return losses.sum(1) / (y["labels"][:, 1:] != -100).sum(1)


def sentences():
    "Words, which of them count, and labels that leave out the padding."
    torch.manual_seed(0)
    ids = torch.randint(1, WORDS, (N, LENGTH))
    lengths = torch.tensor([6, 3, 5, 6, 4])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask}, {"labels": labels}


# by hand


class Attention(nn.Module):
    "With dropout inside, in the manner of transformers."

    def __init__(self, d, causal):
        super().__init__()
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.causal = causal

    def forward(self, h, mask):
        q, k, v = (f(h).unflatten(2, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        seen = mask[:, None, None, :].bool()
        if self.causal:
            seen = seen & torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril()
        p = 0.1 if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, seen, dropout_p=p)
        return mixed.transpose(1, 2).flatten(2)


class Conv1D(nn.Module):
    "GPT-2's linear layer."

    def __init__(self, d, out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d, out) / d**0.5)
        self.bias = nn.Parameter(torch.randn(out))

    def forward(self, x):
        rows = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Layer(nn.Module):
    def __init__(self, d, linear, causal):
        super().__init__()
        self.a = Attention(d, causal)
        self.n = nn.LayerNorm(d)
        self.up = linear(d, 2 * d)
        self.down = linear(2 * d, d)

    def forward(self, h, mask):
        h = self.n(h + F.dropout(self.a(h, mask), 0.1, self.training))
        return h + self.down(F.gelu(self.up(h), approximate="tanh"))


class Bert(nn.Module):
    "Position ids (1, T) are looked up once for all sentences."

    def __init__(self, d=8):
        super().__init__()
        self.word = nn.Embedding(WORDS, d, padding_idx=0)
        self.position = nn.Embedding(12, d)
        self.kind = nn.Embedding(2, d)
        self.n = nn.LayerNorm(d)
        self.layers = nn.ModuleList([Layer(d, nn.Linear, False) for _ in range(2)])
        self.pool = nn.Linear(d, d)
        self.head = nn.Linear(d, 3)
        self.register_buffer("ids", torch.arange(12)[None])

    def forward(self, input_ids, attention_mask):
        length = input_ids.shape[1]
        h = self.word(input_ids) + self.kind(torch.zeros_like(input_ids))
        h = self.n(h + self.position(self.ids[:, :length]))
        for layer in self.layers:
            h = layer(h, attention_mask)
        return {"logits": self.head(self.pool(h[:, 0]).tanh()), "hidden": (h,)}


class GPT2(nn.Module):
    "The table of words is also the last layer."

    def __init__(self, d=8):
        super().__init__()
        self.wte = nn.Embedding(WORDS, d)
        self.wpe = nn.Embedding(12, d)
        self.layers = nn.ModuleList([Layer(d, Conv1D, True) for _ in range(2)])

    def forward(self, input_ids, attention_mask):
        places = torch.arange(input_ids.shape[1])[None]
        h = self.wte(input_ids) + self.wpe(places)
        for layer in self.layers:
            h = layer(h, attention_mask)
        return {"logits": F.linear(h, self.wte.weight)}


class OwnLoss(nn.Module):
    "A model that computes its own loss from labels, one for each sentence."

    def __init__(self):
        super().__init__()
        self.model = GPT2()

    def forward(self, input_ids, attention_mask, labels):
        return next_word(self.model(input_ids, attention_mask), {"labels": labels})


def own(losses, y):
    return losses


def case(name):
    x, y = sentences()
    kinds = torch.tensor([0, 1, 2, 0, 1])
    return {
        "bert": (Bert, x, kinds, classes),
        "gpt2": (GPT2, x, y, next_word),
        "own loss": (OwnLoss, {**x, **y}, y, own),
    }[name]


@pytest.mark.parametrize("name", ["bert", "gpt2", "own loss"])
def test_by_hand_in_training_mode(name):
    make, x, y, loss = case(name)
    torch.manual_seed(1)
    model = make().double()
    oracle = backward_norms(copy.deepcopy(model).eval(), loss, x, y)
    with evaluation_statistics(model):
        assert set(choose_method(model, loss, x, y).values()) == {"ghost"}
        for chunk in (None, 2):
            assert close(grad_norms(model, loss, x, y, chunk_size=chunk), oracle, 1e-10)
        assert close(grad_norms(model, loss, x, y, method="loop"), oracle, 1e-10)
    assert model.training


# transformers


def tiny(name):
    "(model, kind of its loss) of a random configuration."
    transformers = pytest.importorskip("transformers")
    small = dict(vocab_size=WORDS, pad_token_id=0)
    bert = dict(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    gpt2 = dict(n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1)
    t5 = dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    kinds = {
        "bert": ("Bert", "ForSequenceClassification", bert),
        "roberta": ("Roberta", "ForSequenceClassification", bert),
        "gpt2": ("GPT2", "LMHeadModel", gpt2),
        "t5": ("T5", "ForConditionalGeneration", t5),
    }
    family, head, settings = kinds[name]
    config = getattr(transformers, f"{family}Config")(**small, **settings)
    return getattr(transformers, f"{family}{head}")(config)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5"])
def test_transformers_in_training_mode(name):
    torch.manual_seed(1)
    model = tiny(name).double().train()
    x, y = sentences()
    loss = next_word
    if name in ("bert", "roberta"):
        y = torch.tensor([0, 1, 2, 0, 1])
        loss = classes
    if name == "t5":
        x["decoder_input_ids"] = x["input_ids"]
    oracle = backward_norms(copy.deepcopy(model).eval(), loss, x, y)
    with evaluation_statistics(model):
        assert close(grad_norms(model, loss, x, y), oracle, 1e-10)
        methods = set(choose_method(model, loss, x, y).values())
    assert methods == {"ghost"} or name == "t5"
