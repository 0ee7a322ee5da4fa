"""Makes weights/*.safetensors and weights.npz: checkpoints of the reference libraries as they lie on disk, and what these give for them.

Every model is the library's own, made small; all its weights are random, the norms' too, so that nothing mapped wrongly goes
unseen. Also the numbers of parameters of the published sizes. Nothing is downloaded.

    pip install torch transformers==5.23.0 open_clip_torch==3.3.0 timm==1.0.31
    python tests/golden/make_weights.py
"""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import transformers as hf

HERE = Path(__file__).parent
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = {"image_size": 12, "patch_size": 4}
RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32)
PICTURE = RNG.uniform(-1, 1, (2, 3, 32, 64)).astype(np.float32)
TEXT = np.array([[3, 14, 15, 9, 26, 49], [7, 1, 8, 49, 0, 0]])  # the end is the largest id
VALID = np.arange(6) < np.array([6, 4])[:, None]
SQUARE = np.random.default_rng(2).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
VIDEO = np.random.default_rng(1).uniform(-1, 1, (2, 4, 3, 8, 8)).astype(np.float32)
MEL = RNG.normal(size=(2, 10, 12)).astype(np.float32)
WAVE = RNG.normal(size=(2, 90)).astype(np.float32)
out: dict[str, np.ndarray] = {"text": TEXT, "valid": VALID, "mel": MEL, "wave": WAVE, "video": VIDEO.transpose(0, 1, 3, 4, 2)}
out |= {name: x.transpose(0, 2, 3, 1) for name, x in {"image": IMAGE, "picture": PICTURE, "square": SQUARE}.items()}


def drawn(model):
    """The model with all its parameters drawn anew, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and p.ndim:  # fixed positions and scales stay
                size = 0.3 if p.ndim == 1 else p[0].numel() ** -0.5
                p.copy_(size * torch.randn(p.shape, generator=generator) + float(p.ndim == 1 and "weight" in name))
    return model.eval()


def drawn_statistics(model):
    """Running statistics as of some data."""
    generator = torch.Generator().manual_seed(1)
    for key, buffer in model.named_buffers():
        if "running" in key:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if "var" in key else -0.5))


def stored(name, model):
    """Saves a model of transformers, and keeps its file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copy(Path(folder) / "model.safetensors", HERE / "weights" / f"{name}.safetensors")


def keep(name, **arrays):
    out.update({f"{name}/{k}": v.detach().numpy() for k, v in arrays.items()})


def image_text():
    text = {**TINY, "vocab_size": 50, "max_position_embeddings": 6}
    config = hf.CLIPConfig(text_config={**text, "eos_token_id": 49}, vision_config={**TINY, **IMAGES}, projection_dim=8)
    clip = drawn(hf.CLIPModel(config))
    stored("clip", clip)
    y = clip(input_ids=torch.tensor(TEXT), pixel_values=torch.tensor(IMAGE), attention_mask=torch.tensor(VALID).long())
    keep("clip", image=y.image_embeds, text=y.text_embeds, tokens=y.text_model_output.last_hidden_state)

    vision = open_clip.CLIPVisionCfg(layers=2, width=16, head_width=8, mlp_ratio=2.0, patch_size=4, image_size=12)
    words = open_clip.CLIPTextCfg(context_length=6, vocab_size=50, width=16, heads=2, layers=2, mlp_ratio=2.0)
    theirs = drawn(open_clip.CLIP(8, vision, words, quick_gelu=True))
    torch.save(theirs.state_dict(), HERE / "weights" / "open_clip.pt")
    keep(
        "open_clip",
        image=theirs.encode_image(torch.tensor(IMAGE), normalize=True),
        text=theirs.encode_text(torch.tensor(TEXT), normalize=True),
    )

    eyes = open_clip.CLIPVisionCfg(layers=[1, 1, 2, 1], width=4, head_width=32, image_size=64)
    rn = drawn(open_clip.CLIP(8, eyes, words, quick_gelu=True))
    drawn_statistics(rn)
    torch.save(rn.state_dict(), HERE / "weights" / "open_clip_rn.pt")
    keep(
        "open_clip_rn", image=rn.encode_image(torch.tensor(SQUARE), normalize=True), text=rn.encode_text(torch.tensor(TEXT), normalize=True)
    )

    siglip = drawn(hf.SiglipModel(hf.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config={**TINY, **IMAGES})))
    stored("siglip", siglip)
    y = siglip(input_ids=torch.tensor(TEXT), pixel_values=torch.tensor(IMAGE))
    keep("siglip", image=y.image_embeds, text=y.text_embeds)


def images():
    for name, model in {
        "vit": hf.ViTModel(hf.ViTConfig(**TINY, **IMAGES), add_pooling_layer=False),
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(**{**TINY, "mlp_ratio": 2}, **IMAGES)),
        "dinov2_reg": hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**{**TINY, "mlp_ratio": 2}, **IMAGES, num_register_tokens=3)
        ),
    }.items():
        stored(name, drawn(model))
        keep(name, tokens=model(torch.tensor(IMAGE)).last_hidden_state)
    mae = drawn(hf.ViTMAEModel(hf.ViTMAEConfig(**TINY, **IMAGES, mask_ratio=0.0)))
    stored("mae", mae)
    keep("mae", tokens=mae(torch.tensor(IMAGE), noise=torch.arange(9.0).expand(2, 9)).last_hidden_state)
    ours = drawn(timm.models.VisionTransformer(12, 4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0, init_values=0.5, num_classes=5))
    torch.save(ours.state_dict(), HERE / "weights" / "timm.pth")
    keep("timm", tokens=ours.forward_features(torch.tensor(IMAGE)))


def convolutions():
    """Statistics of batches are drawn, too."""
    x = torch.tensor(PICTURE)
    sizes = {"hidden_sizes": [16, 32], "depths": [1, 2]}
    resnet = hf.ResNetModel(hf.ResNetConfig(embedding_size=4, layer_type="bottleneck", **sizes))
    drawn_statistics(drawn(resnet))
    stored("resnet", resnet)
    keep("resnet", tokens=resnet(x).last_hidden_state.flatten(2).transpose(1, 2))
    convnext = drawn(hf.ConvNextModel(hf.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 2], layer_scale_init_value=0.5)))
    stored("convnext", convnext)
    y = convnext(x)
    keep("convnext", tokens=y.last_hidden_state.flatten(2).transpose(1, 2), pooled=y.pooler_output)
    ours = drawn(timm.models.ConvNeXt(dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), num_classes=5, ls_init_value=0.5))
    torch.save(ours.state_dict(), HERE / "weights" / "timm_convnext.pth")
    keep("timm_convnext", tokens=ours.forward_features(x).flatten(2).transpose(1, 2))


def texts():
    words = {**TINY, "vocab_size": 50, "max_position_embeddings": 8}
    ids, mask = torch.tensor(TEXT), torch.tensor(VALID).long()
    for name, model in {
        "bert": hf.BertModel(hf.BertConfig(**words), add_pooling_layer=False),
        "roberta": hf.RobertaModel(hf.RobertaConfig(**{**words, "max_position_embeddings": 10, "type_vocab_size": 1, "pad_token_id": 1})),
    }.items():
        stored(name, drawn(model))
        given = ids if name == "bert" else torch.where(ids == 1, 2, ids)  # 1 is its padding, which it finds in the ids
        keep(name, tokens=model(torch.where(mask == 1, given, 1), attention_mask=mask).last_hidden_state)
    gpt2 = drawn(hf.GPT2Model(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_inner=32, n_positions=8, vocab_size=50)))
    stored("gpt2", gpt2)
    keep("gpt2", tokens=gpt2(ids, attention_mask=mask).last_hidden_state)


def sounds():
    ast = drawn(hf.ASTModel(hf.ASTConfig(**TINY, patch_size=4, frequency_stride=3, time_stride=3, max_length=10, num_mel_bins=12)))
    stored("ast", ast)
    keep("ast", tokens=ast(torch.tensor(MEL)).last_hidden_state)
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 50, "pad_token_id": 0}
    whisper = drawn(hf.WhisperModel(hf.WhisperConfig(**sizes, **decoder, num_mel_bins=12, max_source_positions=5)))
    stored("whisper", whisper)
    keep("whisper", tokens=whisper.encoder(torch.tensor(MEL).transpose(1, 2)).last_hidden_state)
    convs = {"conv_dim": (8, 8, 8), "conv_kernel": (6, 3, 2), "conv_stride": (3, 2, 2), "num_feat_extract_layers": 3}
    positions = {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2}
    stable = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    for name, model in {
        "wav2vec2": hf.Wav2Vec2Model(hf.Wav2Vec2Config(**TINY, **convs, **positions)),
        "wav2vec2_stable": hf.Wav2Vec2Model(hf.Wav2Vec2Config(**TINY, **convs, **positions, **stable)),
        "hubert": hf.HubertModel(hf.HubertConfig(**TINY, **convs, **positions)),
    }.items():
        stored(name, drawn(model))
        keep(name, tokens=model(torch.tensor(WAVE)).last_hidden_state)


def videos():
    """TimeSformer's tokens go place by place there, frame by frame here."""
    x = torch.tensor(VIDEO)
    mae = drawn(hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**TINY, image_size=8, patch_size=4, num_frames=4, tubelet_size=2)))
    stored("videomae", mae)
    tokens = mae.videomae(x).last_hidden_state
    keep("videomae", tokens=tokens, pooled=mae.fc_norm(tokens.mean(1)))
    vivit = drawn(hf.VivitModel(hf.VivitConfig(**TINY, image_size=8, num_frames=4, tubelet_size=[2, 4, 4]), add_pooling_layer=False))
    stored("vivit", vivit)
    keep("vivit", tokens=vivit(x).last_hidden_state)
    divided = drawn(hf.TimesformerModel(hf.TimesformerConfig(**TINY, image_size=8, patch_size=4, num_frames=4)))
    stored("timesformer", divided)
    y = divided(x).last_hidden_state
    there = y[:, 1:].reshape(2, 4, 4, 16).transpose(1, 2).reshape(2, 16, 16)
    keep("timesformer", tokens=torch.cat([y[:, :1], there], 1))


def counts():
    """Of published sizes."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    roberta = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    mini = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    with torch.device("meta"):
        models = {
            "vit-B/16": hf.ViTModel(hf.ViTConfig(), add_pooling_layer=False),
            "vit-L/16": hf.ViTModel(hf.ViTConfig(**large), add_pooling_layer=False),
            "dinov2-B/14": hf.Dinov2Model(hf.Dinov2Config(patch_size=14, image_size=518)),
            "dinov2-reg-B/14": hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(patch_size=14, image_size=518)),
            "bert-B": hf.BertModel(hf.BertConfig(), add_pooling_layer=False),
            "bert-L": hf.BertModel(hf.BertConfig(**large), add_pooling_layer=False),
            "roberta-B": hf.RobertaModel(hf.RobertaConfig(**roberta), add_pooling_layer=False),
            "minilm-L6": hf.BertModel(hf.BertConfig(**mini), add_pooling_layer=False),
            "gpt2": hf.GPT2Model(hf.GPT2Config()),
            "resnet-50": hf.ResNetModel(hf.ResNetConfig()),
            "convnext-T": hf.ConvNextModel(hf.ConvNextConfig()),
            "videomae-B": hf.VideoMAEForVideoClassification(hf.VideoMAEConfig()).videomae,
            "vivit-B": hf.VivitModel(hf.VivitConfig(), add_pooling_layer=False),
            "timesformer-B": hf.TimesformerModel(hf.TimesformerConfig()),
            "gpt2-xl": hf.GPT2Model(hf.GPT2Config(n_embd=1600, n_layer=48, n_head=25)),
        }
    out.update({f"count/{name}": np.array(sum(p.numel() for p in model.parameters())) for name, model in models.items()})


if __name__ == "__main__":
    (HERE / "weights").mkdir(exist_ok=True)
    for part in (image_text, images, convolutions, texts, sounds, videos, counts):
        part()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "open_clip_torch", "timm")]
    np.savez_compressed(HERE / "weights.npz", versions=np.array(versions), **out)
