"""Makes weights/openai.pt: the model of weights/open_clip.pt as OpenAI's own files hold CLIP, a TorchScript archive.

In half precision, as OpenAI's code converts it: all but norms, embeddings and the scale.

    pip install torch==2.13.0 open_clip_torch==3.3.0
    python tests/golden/make_torchscript.py
"""

import re
from pathlib import Path

import open_clip
import torch

WEIGHTS = Path(__file__).with_name("weights")


def main():
    vision = open_clip.CLIPVisionCfg(layers=2, width=16, head_width=8, mlp_ratio=2.0, patch_size=4, image_size=12)
    words = open_clip.CLIPTextCfg(context_length=6, vocab_size=50, width=16, heads=2, layers=2, mlp_ratio=2.0)
    model = open_clip.CLIP(8, vision, words, quick_gelu=True).eval()
    model.load_state_dict(torch.load(WEIGHTS / "open_clip.pt"))
    for name, size in {"input_resolution": 12, "context_length": 6, "vocab_size": 50}.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(size))
    inputs = {"encode_image": torch.zeros(1, 3, 12, 12), "encode_text": torch.zeros(1, 6, dtype=torch.long)}
    traced = torch.jit.trace_module(model, inputs, check_trace=False)
    for name, p in traced.named_parameters():
        p.data = p.data if re.search("ln_|embedding|logit_scale", name) else p.data.half()
    torch.jit.save(traced, WEIGHTS / "openai.pt")


if __name__ == "__main__":
    main()
