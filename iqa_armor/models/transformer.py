"""A transformer encoder of plain layers, which can be traced, pruned and stored."""

from typing import cast

from torch import Tensor, nn

_JOINT = ".in_proj_"
_PARTS = ("query", "key", "value")


class Transformer(nn.Module):
    """Encoder over tokens (N, T, width) with positions (N, T, width), normalised before each part and at the end.

    `heads` divides `width`; `hidden` is the width inside the feed-forward parts.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; positions are added to queries and keys of every
    layer, as in Carion et al., ECCV 2020, Appendix A.3.
    """

    def __init__(self, width: int, *, heads: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        stack = nn.ModuleList(_EncoderLayer(width, heads, hidden, dropout=dropout) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layers": stack, "norm": nn.LayerNorm(width)})

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for layer in cast("nn.ModuleList", self.encoder["layers"]):
            tokens = layer(tokens, positions)
        return self.encoder["norm"](tokens)  # type: ignore[no-any-return]


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.relu = nn.ReLU()
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout1(self.self_attn(normed, normed + positions))
        hidden = self.dropout(self.relu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout2(self.linear2(hidden))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head attention whose projections are layers of their own.

    torch's joint projection holds all three in one tensor; apart, pruning the tokens' channels leaves the heads whole.
    """

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in _PARTS)
        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, placed: Tensor) -> Tensor:
        """Return what every token (N, T, width) gathers; `placed` are the tokens with their positions added."""
        query, key, value = (
            layer(given).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, placed), (self.key, placed), (self.value, tokens))
        )
        weights = self.dropout(self.softmax(query.matmul(key.transpose(2, 3)) * self.scale))
        return self.out_proj(weights.matmul(value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def project(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with torch's joint projections `in_proj_weight`, `in_proj_bias` parted in three."""
    parted: dict[str, Tensor] = {}
    for name, value in state.items():
        owner, joint, kind = name.rpartition(_JOINT)
        if joint and len(value) % len(_PARTS) == 0:
            parted.update({f"{owner}.{part}.{kind}": third for part, third in zip(_PARTS, value.chunk(3), strict=True)})
        else:
            parted[name] = value
    return parted
