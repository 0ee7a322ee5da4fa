"""check.py: what it finds wrong with somebody's fusion, and names that mean nothing."""

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import pytest

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.concat import Concat
from mmjax.testing.named import class_of, outcomes

ROOT = Path(__file__).parents[2]


class Careless(nn.Module):
    """Reads what is absent, and has a layer that nothing passes."""

    width: int = 4
    dtype: str = "float32"

    @nn.compact
    def __call__(self, encodings, *, train):
        pooled = jnp.concatenate([encodings[m].pooled for m in sorted(encodings)], axis=-1)
        dead = nn.Dense(self.width, name="dead")(pooled)
        fused = nn.Dense(self.width, name="out")(pooled) + 0.0 * dead
        here = jnp.stack([e.present for e in encodings.values()]).any(axis=0)
        return Encoding.from_pooled(fused, here)

    tiny = classmethod(lambda cls: (cls(), Concat.tiny()[1]))


def test_what_is_wrong_is_found_and_said():
    failed = {check: error for check, _, error, _ in outcomes("fusion", Careless) if error}
    assert {"absent_content", "all_absent", "every_subset", "gradients"} <= set(failed)
    assert "dead/kernel" in failed["gradients"] and "out/kernel" not in failed["gradients"]
    assert "contract" not in failed and "compilations" not in failed


def test_names():
    assert class_of("concat") == ("fusion", Concat) and class_of("mmjax.fusion.concat:Concat") == ("fusion", Concat)
    assert class_of("vit")[0] == "encoders" and class_of("contrastive")[0] == "objectives"
    for name, message in (("conkat", "Did you mean 'concat'"), ("pathlib:Path", "has no tiny"), ("no_pkg:X", "no module 'no_pkg'")):
        with pytest.raises(ConfigError, match=message):
            class_of(name)


@pytest.mark.parametrize(("words", "said"), [([], "Name the class to check"), (["conkat"], "Did you mean 'concat'")])
def test_the_command_says_what_it_wants(words, said):
    done = subprocess.run([sys.executable, "experiments/check.py", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
