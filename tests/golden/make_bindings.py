"""Makes weights/coca.safetensors, weights/imagebind.pth and bindings.npz: CoCa and ImageBind made small, as they lie on disk, and what
their own code gives for them.

CoCa is open_clip's; ImageBind is the authors' repository (facebookresearch/ImageBind, of which only the files in imagebind/models
are read; its licence lets nobody copy it here). Every parameter is random, the norms' too, so that nothing mapped wrongly goes
unseen. Also the numbers of parameters and of heads of the published sizes, tower by tower.

    pip install torch timm==1.0.31 open_clip_torch==3.3.0 einops ftfy regex
    git clone https://github.com/facebookresearch/ImageBind /tmp/imagebind
    python tests/golden/make_bindings.py /tmp/imagebind
"""

import importlib.metadata
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32)
TEXT = np.array([[3, 14, 15, 9, 26, 49], [7, 1, 8, 49, 0, 0]])  # the end is the largest id
MEL = RNG.normal(size=(2, 1, 12, 14)).astype(np.float32)  # bins and frames
DEPTH, THERMAL = (RNG.uniform(0, 1, (2, 1, 8, 8)).astype(np.float32) for _ in range(2))
IMU = RNG.normal(size=(2, 6, 40)).astype(np.float32)
out: dict[str, np.ndarray] = {"text": TEXT}
out |= {name: x.transpose(0, 2, 3, 1) for name, x in {"image": IMAGE, "image_depth": DEPTH, "image_thermal": THERMAL}.items()}
out |= {"audio": MEL[:, 0].transpose(0, 2, 1), "series": IMU.transpose(0, 2, 1)}


def drawn(model):
    """The model with all its parameters drawn anew, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim:  # scales stay
                size = 0.3 if p.ndim == 1 else max(p[0].numel(), 4) ** -0.5
                p.copy_(size * torch.randn(p.shape, generator=generator) + float(p.ndim == 1 and "weight" in name))
    return model.eval()


def size(name, *parts):
    out[f"count/{name}"] = np.array(sum(p.numel() for part in parts for p in part.parameters()))
    out[f"heads/{name}"] = np.array([m.num_heads for part in parts for m in part.modules() if isinstance(m, nn.MultiheadAttention)])


def coca():
    vision = {"layers": 2, "width": 16, "head_width": 8, "mlp_ratio": 2.0, "patch_size": 4, "image_size": 12}
    pool = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2, "output_tokens": True}
    words = {"context_length": 6, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2, "mlp_ratio": 2.0}
    decoder = {**words, "layers": 1, "mlp_ratio": 1}
    model = drawn(open_clip.CoCa(8, decoder, {**words, "embed_cls": True, "output_tokens": True}, {**vision, **pool}))
    save_file(model.state_dict(), HERE / "weights" / "coca.safetensors")
    image, tokens = model._encode_image(torch.tensor(IMAGE))
    text, ids = model._encode_text(torch.tensor(TEXT))
    keep = {"image": image, "text": text, "image_tokens": tokens, "text_tokens": ids}
    out.update({f"coca/{name}": x.detach().numpy() for name, x in keep.items()})
    out["coca/scale"] = np.array(model.logit_scale.exp().item())
    with torch.device("meta"):
        for name in ("B/32", "L/14"):
            config = open_clip.get_model_config(f"coca_ViT-{name.replace('/', '-')}")
            del config["custom_text"]
            whole = open_clip.CoCa(**config)
            size(f"image/coca-{name}", whole.visual)
            size(f"text/coca-{name[0]}", whole.text)


def imagebind(repository):
    sys.path.insert(0, repository)
    file_io = types.ModuleType("iopath.common.file_io")
    vars(file_io)["g_pathmgr"] = None  # reads its tokenizer's file, which nothing here needs
    package = types.ModuleType("imagebind")
    package.__path__ = [f"{repository}/imagebind"]  # without its own __init__, which imports readers of videos
    sys.modules |= {"iopath": types.ModuleType("iopath"), "iopath.common": types.ModuleType("iopath.common"), "imagebind": package}
    sys.modules["iopath.common.file_io"] = file_io
    from imagebind.models import imagebind_model as theirs
    from imagebind.models import multimodal_preprocessors as pre

    widths = {"vision": 8, "text": 8, "audio": 12, "depth": 8, "thermal": 8, "imu": 8}
    blocks = {"vision": 2, "text": 2, "audio": 2, "depth": 1, "thermal": 1, "imu": 1}
    sizes = {f"{m}_embed_dim": width for m, width in widths.items()} | {f"{m}_num_blocks": n for m, n in blocks.items()}
    model = theirs.ImageBindModel(out_embed_dim=6, **sizes, **{f"{m}_num_heads": 2 for m in widths})

    def stem(conv, width=None, *before):
        return pre.PatchEmbedGeneric([*before, conv], nn.LayerNorm(width) if width else None)

    # The published sizes of inputs are written into the model, so those parts are made anew of the same classes.
    place = {"num_cls_tokens": 1, "pos_embed_fn": partial(pre.SpatioTemporalPosEmbeddingHelper, learnable=True)}
    seen = stem(nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4), bias=False), None, pre.PadIm2Video(2, "repeat"))
    made = {
        "vision": pre.RGBDTPreprocessor(seen, None, [3, 2, 12, 12], **place),
        "text": pre.TextPreprocessor(50, 6, 8, causal_masking=True),
        "audio": pre.AudioPreprocessor(stem(nn.Conv2d(1, 12, 4, 3, bias=False), 12), img_size=[1, 12, 14], **place),
        "depth": pre.RGBDTPreprocessor(None, stem(nn.Conv2d(1, 8, 4, 4, bias=False), 8), [1, 8, 8], **place),
        "thermal": pre.ThermalPreprocessor(stem(nn.Conv2d(1, 8, 4, 4, bias=False), 8), img_size=[1, 8, 8], **place),
        "imu": pre.IMUPreprocessor(8, stem(nn.Linear(48, 8, bias=False), 8), 8, img_size=(6, 40), **place),
    }
    model.modality_preprocessors = nn.ModuleDict(made)
    model = drawn(model)
    torch.save(model.state_dict(), HERE / "weights" / "imagebind.pth")
    given = {"vision": IMAGE, "text": TEXT, "audio": MEL, "depth": DEPTH, "thermal": THERMAL, "imu": IMU}
    for m, y in model({m: torch.tensor(x) for m, x in given.items()}).items():
        out[f"imagebind/{m}"] = y.detach().numpy()
    with torch.device("meta"), mock.patch.object(torch, "linspace", partial(torch.linspace, device="cpu")):
        huge = theirs.imagebind_huge()
    for m in widths:
        size(f"imagebind/{m}", huge.modality_preprocessors[m], huge.modality_trunks[m], huge.modality_heads[m])


if __name__ == "__main__":
    coca()
    imagebind(sys.argv[1])
    commit = subprocess.check_output(["git", "-C", sys.argv[1], "rev-parse", "HEAD"], text=True).strip()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "open_clip_torch", "timm")]
    np.savez_compressed(HERE / "bindings.npz", versions=np.array([*versions, f"ImageBind {commit}"]), **out)
