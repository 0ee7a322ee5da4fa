"""Makes audio.npz: what published PyTorch code gives for the weights and inputs stored beside it, and how many parameters it has.

CNN14 is of the authors' package panns-inference, made narrow; AST, Whisper's encoder and Wav2Vec 2.0 are of transformers,
made small. All weights are random: nothing is downloaded. To run it again, with the extra `torch`:

    pip install transformers
    pip install --no-deps panns-inference torchlibrosa && pip install librosa matplotlib
    python tests/golden/make_audio.py
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import transformers
from torch import nn
from transformers import ASTConfig, ASTModel, HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

# Published sizes; transformers' defaults are AST's and Wav2Vec 2.0 base's.
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}
WAV2VEC = {"base": {}, "large": LARGE, "large-lv60": LARGE | STABLE}
HUBERT = {"base": {}, "large-lv60": LARGE | STABLE, "xlarge": XLARGE | STABLE}
WHISPER = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 32, 20)}

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVS = {"conv_dim": (8, 8, 8), "conv_kernel": (6, 3, 2), "conv_stride": (3, 2, 2), "num_feat_extract_layers": 3}
POSITIONS = {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2}


def panns():
    """The module with the published models, without its package, which downloads when it is imported."""
    if "panns_inference" in sys.modules:
        return importlib.import_module("panns_inference.models")
    root = Path(importlib.util.find_spec("panns_inference").submodule_search_locations[0])
    package = ModuleType("panns_inference")
    package.__path__ = [str(root)]
    sys.modules["panns_inference"] = package
    return importlib.import_module("panns_inference.models")


def whisper(width, depth, heads, **changes):
    sizes = {"encoder_layers": depth, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}
    return WhisperEncoder(WhisperConfig(d_model=width, **sizes, **changes))


def counted(module):
    """Parameters that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def counts():
    with torch.device("meta"):
        models = {"ast": ASTModel(ASTConfig())}
        models |= {f"whisper/{name}": whisper(*sizes) for name, sizes in WHISPER.items()}
        models |= {f"wav2vec/{name}": Wav2Vec2Model(Wav2Vec2Config(**sizes)) for name, sizes in WAV2VEC.items()}
        models |= {f"hubert/{name}": HubertModel(HubertConfig(**sizes)) for name, sizes in HUBERT.items()}
    models["panns/cnn14"] = panns().Cnn14(32_000, 1024, 320, 64, 50, 14_000, 527)
    return {name: counted(model) for name, model in models.items()}


def main():
    generator = torch.Generator().manual_seed(0)
    arrays = {
        "about": np.array("panns-inference and transformers, random weights; made by make_audio.py"),
        "torch": np.array(torch.__version__),
        "transformers": np.array(transformers.__version__),
        "panns": np.array(importlib.metadata.version("panns-inference")),
    }
    arrays |= {f"count/{name}": np.array(number) for name, number in counts().items()}

    def randomised(module):
        for name, value in module.state_dict().items():
            if value.dtype == torch.float32 and "embed_positions" not in name:
                value.add_(torch.randn(value.shape, generator=generator) / max(value[0].numel(), 9) ** 0.5)
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
        return module.eval()

    def keep(case, module, x, **values):
        weights = {k: v for k, v in module.state_dict().items() if not k.startswith(("fc_audioset", "masked_spec")) and v.ndim}
        for name, value in {"x": x, **{f"weights/{k}": v for k, v in weights.items()}, **values}.items():
            arrays[f"{case}/{name}"] = value.detach().numpy().copy()

    module = panns()
    cnn = module.Cnn14(32_000, 1024, 320, 64, 50, 14_000, 5)
    cnn.spectrogram_extractor = cnn.logmel_extractor = nn.Identity()
    for i, (inputs, width) in enumerate(((1, 4), (4, 4), (4, 8), (8, 8), (8, 8), (8, 12)), 1):
        setattr(cnn, f"conv_block{i}", module.ConvBlock(inputs, width))
    cnn.fc1, cnn.fc_audioset = nn.Linear(12, 12), nn.Linear(12, 5)
    x = torch.randn(2, 1, 64, 64, generator=generator)
    keep("cnn14", randomised(cnn), x[:, 0], embedding=cnn(x)["embedding"])

    ast = randomised(ASTModel(ASTConfig(**TINY, patch_size=4, time_stride=3, frequency_stride=3, num_mel_bins=10, max_length=16)))
    x = torch.randn(2, 16, 10, generator=generator)
    y = ast(x)
    keep("ast", ast, x, y=y.last_hidden_state, pooled=y.pooler_output)

    encoder = randomised(whisper(16, 2, 2, num_mel_bins=5, max_source_positions=6))
    x = torch.randn(2, 12, 5, generator=generator)
    keep("whisper", encoder, x, y=encoder(x.transpose(1, 2)).last_hidden_state)

    for case, changes in {"base": {}, "stable": STABLE}.items():
        wav2vec = randomised(Wav2Vec2Model(Wav2Vec2Config(**TINY, **CONVS, **POSITIONS, **changes)))
        x = torch.randn(2, 90, generator=generator)
        ragged = torch.arange(90) < torch.tensor([90, 55])[:, None]
        y = wav2vec(x).last_hidden_state
        # with a mask, transformers' group norm still sees what is beyond the end; its layer norm does not
        padded = wav2vec(x * ragged, attention_mask=ragged.long()).last_hidden_state
        keep(f"wav2vec_{case}", wav2vec, x, y=y, padded=padded)
    np.savez_compressed(Path(__file__).with_name("audio.npz"), **arrays)


if __name__ == "__main__":
    with torch.no_grad():
        main()
