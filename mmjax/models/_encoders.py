"""What models of several encoders share: building them from a config, and encoding the streams of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn

from mmjax import config, contract
from mmjax.contract import Batch, Encoding
from mmjax.nn.model import ModuleModel

Encoders = Mapping[str, nn.Module | str]  # by stream; a string names the stream whose encoder this one shares


def built(nodes: Mapping[str, Any]) -> dict[str, nn.Module | str]:
    """The encoders of a model's config.

    Raises:
        ConfigError: a name is no stream or is a target, a shared encoder is not there, or an encoder's config is wrong.
    """
    encoders: dict[str, nn.Module | str] = {}
    for stream, node in nodes.items():
        path = f"model.encoders.{stream}"
        try:
            contract.kind(stream)
        except ValueError as error:
            raise config.ConfigError(f"{path}: {error}") from None
        if contract.kind(stream) in contract.TARGETS:
            raise config.ConfigError(f"{path}: {stream!r} is a target, which no encoder reads.")
        if isinstance(node, str):
            if isinstance(nodes.get(node), str) or node not in nodes:
                raise config.ConfigError(f"{path}: {node!r} is no stream with an encoder of its own.{config.nearest(node, nodes)}")
            encoders[stream] = node
        else:
            encoders[stream] = config.build("encoders", node, path)
    return encoders


def owner(encoders: Encoders, stream: str) -> str:
    """The stream under whose name the encoder of `stream` stands."""
    shared = encoders[stream]
    return shared if isinstance(shared, str) else stream


def encode(encoders: Encoders, batch: Batch, *, train: bool) -> dict[str, Encoding]:
    """The encodings of all streams that the batch carries, called inside a flax module, whose parts the encoders become."""
    own: dict[str, nn.Module] = {}
    found = {}
    for stream in contract.streams(batch):
        if stream not in encoders:
            continue
        present = contract.present(batch, stream)
        if f"{stream}/pooled" in batch:
            found[stream] = Encoding(batch[stream], batch[f"{stream}/valid"] & present[:, None], batch[f"{stream}/pooled"], present)
            continue
        name = owner(encoders, stream)
        if name not in own:
            own[name] = cast(nn.Module, encoders[name]).copy(name=name)
        found[stream] = own[name](batch[stream], batch.get(f"{stream}/valid"), present, train=train)
    return found


class EncoderModel(ModuleModel):
    """A model that begins with encoders, each of which can be run by itself."""

    def __init__(self, module: nn.Module, encoders: Encoders):
        super().__init__(module)
        self.encoders = encoders

    def part(self, stream: str) -> str:
        """What the encoder of a stream is called among the parameters: by another stream, where they share it."""
        return owner(self.encoders, stream)

    def encode(self, variables: Mapping[str, Any], batch: Batch, stream: str) -> Batch:
        """What stands for `stream` in a batch once it is encoded: tokens and pooled vector, without times and lower stages."""
        name = self.part(stream)
        own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
        module = cast(nn.Module, self.encoders[name])
        e: Any = module.apply(own, batch[stream], batch.get(f"{stream}/valid"), contract.present(batch, stream), train=False)
        return {stream: e.tokens, f"{stream}/valid": e.valid, f"{stream}/pooled": e.pooled, f"{stream}/present": e.present}
