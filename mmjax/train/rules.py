"""Ready `optimizer.rules` for encoders made of blocks, `block_00` and so on: rates by depth, or the last blocks alone.

    c.optimizer.rules = [*layer_decay("image", layers=12, decay=0.75, weight_decay=0.05), (".*", dict(decay=0.05))]

The first rule that matches a parameter holds: these go before those of the rest of the model.
"""

from __future__ import annotations

from typing import Any

from mmjax.config import ConfigError

AFTER = "(transformer/norm|norm|pool)(/.*)?"  # what stands behind the last block
PLAIN = "(.*/)?(bias|scale)"  # has no weight decay

Rules = list[tuple[str, dict[str, Any]]]


def layer_decay(part: str, layers: int, decay: float, lr: float = 1.0, weight_decay: float = 0.0) -> Rules:
    """Rates that fall from the end of an encoder to its beginning by `decay` a block (Bao et al., 2022, 'BEiT', app. H).

    Block i of `layers` has lr * decay^(layers - i); what follows the blocks has lr, what precedes them lr * decay^(layers + 1).
    """
    if layers < 1 or not 0 < decay <= 1:
        raise ConfigError(f"layer_decay: layers={layers} should be at least 1, and decay={decay} above 0 and at most 1.")
    places = [(AFTER, 0), *((_block(i), layers - i) for i in reversed(range(layers))), (".*", layers + 1)]
    return [rule for place, depth in places for rule in _both(f"model/{part}/", place, dict(lr=lr * decay**depth), weight_decay)]


def last_layers(part: str, layers: int, count: int, lr: float = 1.0, weight_decay: float = 0.0) -> Rules:
    """The last `count` of an encoder's `layers` blocks and what follows them are trained, the rest is frozen."""
    if not 0 <= count <= layers:
        raise ConfigError(f"last_layers: count={count} should be between 0 and layers={layers}.")
    places = [AFTER, *(_block(i) for i in reversed(range(layers - count, layers)))]
    trained = [rule for place in places for rule in _both(f"model/{part}/", place, dict(lr=lr), weight_decay)]
    return [*trained, (f"model/{part}/.*", dict(freeze=True))]


def _block(i: int) -> str:
    return rf"(.*/)?block_{i:02d}/.*"


def _both(begin: str, place: str, rule: dict[str, Any], decay: float) -> Rules:
    return [(f"{begin}(?={place}$){PLAIN}", rule), (f"{begin}{place}", {**rule, "decay": decay})]
