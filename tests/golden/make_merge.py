"""Makes merge.npz: what ToMe, by the authors of token merging, gives for the weights and inputs stored beside it.

It runs facebookresearch/ToMe, which lies in a folder DIR at commit af95e4b, on timm 0.4.12, of which what reads data, and what torch
no longer has are replaced by stand-ins. To run it again:

    PYTHONPATH=DIR python tests/golden/make_merge.py
"""

import collections.abc
import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import torch

ROWS, WIDTH, HEADS, DEPTH, MERGE = 3, 16, 2, 3, 3


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("torchvision", "timm.data", "tqdm", "PIL")):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


def weights(model):
    """By the paths of mmjax's encoder."""
    found = {}

    def dense(path, weight, bias):
        found[f"{path}/kernel"], found[f"{path}/bias"] = weight.T, bias

    def norm(path, module):
        found[f"{path}/scale"], found[f"{path}/bias"] = module.weight, module.bias

    conv = model.patch_embed.proj
    dense("embedding", conv.weight.permute(0, 2, 3, 1).reshape(WIDTH, -1), conv.bias)
    found["positions"], found["extra_tokens"] = model.pos_embed, model.cls_token
    norm("transformer/norm", model.norm)
    for i, block in enumerate(model.blocks):
        at = f"transformer/block_{i:02d}"
        norm(f"{at}/norm_1", block.norm1)
        norm(f"{at}/norm_2", block.norm2)
        parts = zip(("query", "key", "value"), block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True)
        for name, weight, bias in parts:
            dense(f"{at}/attention/{name}", weight, bias)
        dense(f"{at}/attention/out", block.attn.proj.weight, block.attn.proj.bias)
        dense(f"{at}/mlp/in", block.mlp.fc1.weight, block.mlp.fc1.bias)
        dense(f"{at}/mlp/out", block.mlp.fc2.weight, block.mlp.fc2.bias)
    return {f"weights/{name}": value.detach().numpy() for name, value in found.items()}


@torch.no_grad()
def main():
    six = ModuleType("torch._six")
    six.container_abcs = collections.abc
    sys.modules["torch._six"] = six
    sys.meta_path.insert(0, StandIns())
    import timm
    from timm.models.vision_transformer import VisionTransformer
    from tome.merge import bipartite_soft_matching, merge_wavg
    from tome.patch.timm import apply_patch

    torch.manual_seed(0)
    arrays = {}
    keys, x, size = torch.randn(ROWS, 13, 5), torch.randn(ROWS, 13, 4), torch.randint(1, 5, (ROWS, 13, 1)).float()
    arrays |= {"keys": keys, "x": x, "size": size[..., 0]}
    for protected, flags in enumerate(({}, {"class_token": True}, {"class_token": True, "distill_token": True})):
        merge, unmerge = bipartite_soft_matching(keys, 4, **flags)
        merged, sizes = merge_wavg(merge, x, size)
        arrays |= {f"{protected}/x": merged, f"{protected}/size": sizes[..., 0]}
        if protected < 2:  # with a distilled token it forgets to put the tokens back in order
            arrays[f"{protected}/unmerged"] = unmerge(merged)

    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, qkv_bias=True)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape)
    apply_patch(model.eval())
    model.r, image = MERGE, torch.randn(ROWS, 3, 16, 16)
    arrays |= {"image": image.permute(0, 2, 3, 1), "pooled": model(image)}
    arrays = {name: value.numpy() for name, value in arrays.items()} | weights(model)
    made_by = f"ToMe af95e4b; timm {timm.__version__}; torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("merge.npz"), made_by=made_by, **arrays)


if __name__ == "__main__":
    main()
