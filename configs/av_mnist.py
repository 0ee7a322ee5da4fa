"""AV-MNIST in its published setting: Vielzeuf et al., 2018, 'CentralNet', with the split, encoders and hyper-parameters of Liang
et al., 2021, 'MultiBench' (LeNets of 4 and 6 layers from 6 channels, SGD at 0.1, weight decay 1e-4, batches of 40, 30 epochs).

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/av_mnist.py --workdir runs/av_mnist --config.data.source.prepare=True

downloads MNIST and the Free Spoken Digit Dataset. It has not been run at full size, and its figures are not to be put beside
published ones, because it differs where it must or should:

- The noise is white, at `snr` dB of each clip, not ESC-50's, whose ratio to the speech is not stated.
- 2,500 clips of five people, not some 25,000: each is heard with some 37 training pictures. One person is heard in the test
  alone, one in validation alone; published validation data have the voices of the training data.
- `energy` is the share of the training pictures' variance that stays. The generator that is about (github.com/slyviacassell/_MFAS)
  keeps a quarter of the components instead, which is nearly all of MNIST's variance, and fits them on test pictures, too.
- Log-mel spectrograms of 112 x 112 instead of powers stretched to that size.
- The fused vector of 100 numbers is linear, where MultiBench's head has a ReLU.

`:smoke` runs on scikit-learn's digits and chords. `only=image` and `only=audio_speech` are the single modalities.
"""

from ml_collections import ConfigDict

from configs import _recipes, _smoke
from mmjax.config import parse_arg

SPEECH = "audio_speech"
EPOCH = 55_000 // 40


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, only="", recipe="", fusion="concat", energy=0.25, snr=-5.0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else 30 * EPOCH

    streams = [arg.only] if arg.only else ["image", SPEECH]
    pp = {"image": "decode|resize(28)", SPEECH: f"decode|white_noise({arg.snr})|crop_or_pad(0.999)"}
    batch_pp = {"image": f"keep_energy({arg.energy})", SPEECH: "log_mel(112, window=0.025, hop=0.009, fft=2048)"}  # 112 frames
    source = dict(name="av_digits", images="mnist", speech="spoken_digit", fold=None, data_dir=None, prepare=False)
    if arg.smoke:
        source = dict(name="av_digits", speech=_smoke.spoken_digits())
        pp["image"], batch_pp[SPEECH] = "decode|resize(4)", "log_mel(16, hop=0.05)"
    c.data = dict(
        source=source,
        batch_size=16 if arg.smoke else 40,
        pp={m: pp[m] for m in streams} | {"label": "index()"},
        batch_pp={m: batch_pp[m] for m in streams},
    )
    depths = {"image": 2, SPEECH: 3} if arg.smoke else {"image": 4, SPEECH: 6}
    fusion = dict(name=arg.fusion, width=100) if arg.fusion == "concat" else dict(name=arg.fusion)
    c.model = dict(
        name="fuser",
        encoders={m: dict(name="lenet", width=6, depth=depths[m]) for m in streams},
        fusion=fusion,
        heads=dict(label=dict(size=10)),
    )
    c.objectives = dict(label=dict(name="cross_entropy"))
    c.optimizer = dict(name="sgd", lr=0.1, schedule="constant", rules=[(".*", dict(decay=1e-4))])
    c.mesh = dict(data=-1, fsdp=1)
    every = 2 if arg.smoke else EPOCH
    c.evals = dict(classification=dict(name="classification", every=every, by="voice"), loss=dict(name="loss", every=every))
    if not arg.smoke:  # fuse_av_digits has them there
        c.evals.update(missing=dict(name="missing"), contribution=dict(name="contribution"), calibration=dict(name="calibration"))
    c.checkpoint = dict(every=every, keep=2, best="validation/classification/accuracy")
    c.log = dict(every=1 if arg.smoke else 50)
    return _recipes.apply(c, arg.recipe)
