"""Writes mel.npz: mel spectra and cepstra of a glide with noise, by librosa and torchaudio. Needs both packages."""

from pathlib import Path

import librosa
import numpy as np
import torch
import torchaudio

RATE = 16_000
t = np.arange(RATE // 2) / RATE
clip = 0.4 * np.sin(2 * np.pi * (150 * t + 3_000 * t**2)) + 0.02 * np.random.default_rng(0).normal(size=len(t))
clip = clip.astype(np.float32)
common = {"n_fft": 512, "hop_length": 160, "win_length": 400, "n_mels": 40}
out = {"clip": clip, "versions": f"librosa {librosa.__version__}, torchaudio {torchaudio.__version__}, torch {torch.__version__}"}
for htk, norm in ((False, "slaney"), (True, None)):
    name = "htk" if htk else "slaney"
    more = {"sr": RATE, "htk": htk, "norm": norm, "pad_mode": "constant", **common}
    mel = librosa.feature.melspectrogram(y=clip, **more)
    out[f"librosa/{name}/mel"] = mel.T
    out[f"librosa/{name}/mfcc"] = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=13).T
    arguments = {**common, "mel_scale": name, "norm": norm, "pad_mode": "constant"}
    mel = torchaudio.transforms.MelSpectrogram(RATE, **arguments)
    mfcc = torchaudio.transforms.MFCC(RATE, n_mfcc=13, melkwargs=arguments)
    out[f"torchaudio/{name}/mel"] = mel(torch.tensor(clip)).numpy().T
    out[f"torchaudio/{name}/mfcc"] = mfcc(torch.tensor(clip)).numpy().T
np.savez_compressed(Path(__file__).with_name("mel.npz"), **{k: np.asarray(v, np.float32) if k != "versions" else v for k, v in out.items()})
