"""How a score holds up as data get worse: two summaries of its curve over levels of severity, the first of them clean data.

As MultiBench's code has them (Liang et al., 2021, 'MultiBench: Multiscale Benchmarks for Multimodal Representation
Learning'; eval_scripts/robustness.py), its step of 0.1 replaced by 1 / (L - 1), so that values do not grow with the number
of levels, and without its scaling of all methods to [0, 1], which would make a value depend on who else takes part.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def relative_robustness(curve: Float[np.ndarray, " L"]) -> float:
    """The area under the curve, levels from 0 to 1, by trapezoids: the mean score over severities, clean data included."""
    return float(np.mean((curve[:-1] + curve[1:]) / 2)) if len(curve) > 1 else float(curve[0])


def effective_robustness(curve: Float[np.ndarray, " L"], late_fusion: Float[np.ndarray, " L"]) -> float:
    """How far the curve lies above late fusion's, shifted to begin where the curve does: the mean over the levels of noise.

    What a method loses less than late fusion would, had it the same clean score; above 0 it is the more robust of the
    two beyond that (after Taori et al., 2020, 'Measuring robustness to natural distribution shifts', sec. 2).
    """
    above = curve - (late_fusion + (curve[0] - late_fusion[0]))  # 0 at the first level
    return float(np.mean(above[1:])) if len(above) > 1 else 0.0
