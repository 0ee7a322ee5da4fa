"""Makes weights/clap.safetensors, weights/swin.safetensors and clap.npz: CLAP and Swin as transformers has them, and what it gives.

Both are made small and all their weights drawn anew, the statistics of batch norms too; also the numbers of parameters of the
published sizes. Every clip is given alone, so that each is drawn out from its own length. Nothing is downloaded.

    pip install torch transformers==5.23.0
    python tests/golden/make_clap.py
"""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as hf

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
MEL, FRAMES = RNG.normal(size=(3, 128, 8)).astype(np.float32), np.array([100, 61, 128])
TEXT = np.array([[3, 14, 15, 9, 26, 49], [7, 5, 8, 49, 0, 0]])
VALID = np.arange(6) < np.array([6, 4])[:, None]
IMAGE = RNG.uniform(-1, 1, (2, 3, 16, 32)).astype(np.float32)
TEXT_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 10,
}
WINDOWS = {"window_size": 4, "patch_size": 2, "depths": [2, 2], "mlp_ratio": 2.0}
AUDIO_CONFIG = {
    **WINDOWS,
    "num_mel_bins": 8,
    "spec_size": 32,
    "patch_stride": [2, 2],
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "num_attention_heads": [2, 4],
}
# Of LAION's larger models (laion/larger_clap_general).
LARGER = {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}


def drawn(model):
    """The model with all its parameters and statistics drawn anew, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim:
                size = 0.3 if p.ndim == 1 else p[0].numel() ** -0.5
                p.copy_(size * torch.randn(p.shape, generator=generator) + float(p.ndim == 1 and "weight" in name))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if "var" in name else -0.5))
    return model.eval()


def stored(name, model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copy(Path(folder) / "model.safetensors", HERE / "weights" / f"{name}.safetensors")


def sequence(x):
    return x.flatten(2).transpose(1, 2).numpy()


def features():
    """What CLAP hears of a short clip, which it is given over and over up to 0.2 seconds."""
    t = np.arange(4_000) / 48_000
    wave = (0.4 * np.sin(2 * np.pi * (300 * t + 40_000 * t**2)) + 0.02 * RNG.normal(size=len(t))).astype(np.float32)
    hears = hf.ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc", padding="repeatpad")
    return {"wave": wave, "features": hears(wave, sampling_rate=48_000, max_length=9_600, return_tensors="np")["input_features"][0, 0]}


@torch.no_grad()
def main():
    out = {"mel": MEL, "frames": FRAMES, "text": TEXT, "valid": VALID, "image": IMAGE.transpose(0, 2, 3, 1), **features()}
    clap = drawn(hf.ClapModel(hf.ClapConfig(text_config=TEXT_CONFIG, audio_config=AUDIO_CONFIG, projection_dim=12)))
    stored("clap", clap)
    mask = torch.tensor(VALID).long()
    ids = torch.where(mask == 1, torch.tensor(TEXT), 1)  # 1 is its padding, which it finds in the ids
    given = [
        clap(input_ids=ids, attention_mask=mask, input_features=torch.tensor(x[None, None, :n])) for x, n in zip(MEL, FRAMES, strict=True)
    ]
    out["clap/audio"] = torch.cat([y.audio_embeds for y in given]).numpy()
    out["clap/text"] = given[0].text_embeds.numpy()
    out["clap/audio_tokens"] = sequence(torch.cat([y.audio_model_output.last_hidden_state for y in given]))
    out["clap/audio_pooled"] = torch.cat(
        [clap.audio_model(torch.tensor(x[None, None, :n])).pooler_output for x, n in zip(MEL, FRAMES, strict=True)]
    ).numpy()
    out["clap/text_pooled"] = clap.text_model(input_ids=ids, attention_mask=mask).pooler_output.numpy()

    swin = drawn(hf.SwinModel(hf.SwinConfig(**WINDOWS, image_size=16, embed_dim=8, num_heads=[2, 4])))
    stored("swin", swin)
    y = swin(torch.tensor(IMAGE))
    out |= {"swin/tokens": y.last_hidden_state.numpy(), "swin/pooled": y.pooler_output.numpy()}

    with torch.device("meta"):
        clap = hf.ClapModel(hf.ClapConfig())
        models = {
            "clap": clap,
            "clap/audio": clap.audio_model,
            "clap/text": clap.text_model,
            "clap/larger_audio": hf.ClapAudioModel(hf.ClapAudioConfig(**LARGER)),
            "swin-T": hf.SwinModel(hf.SwinConfig()),
        }
    out |= {f"count/{name}": np.array(sum(p.numel() for p in model.parameters())) for name, model in models.items()}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    np.savez_compressed(HERE / "clap.npz", versions=np.array(versions), **out)


if __name__ == "__main__":
    main()
