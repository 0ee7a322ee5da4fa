"""The scaling plan: which programs it takes, and what the model of time makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmjax.config import changed
from mmjax.study.ahead import QUICK
from mmjax.study.scaling import Played, Program, Speeds, compiled, compiled_loss
from mmjax.train.chips import chip_of

ROWS, GLOBAL, WHOLE = 64, 32_768, 4_096
COUNTS = (8, 64, 512, WHOLE)
MODELS = {"CLIP B/16": "clip_vit_b16", "CLIP L/14": "clip_vit_l14", "SigLIP B/16": "siglip_vit_b16", "SigLIP So400m/14": "siglip_so400m"}
LOSSES = {model: "softmax" if model.startswith("CLIP") else "sigmoid" for model in MODELS}
WIDTHS = {"CLIP B/16": 512, "CLIP L/14": 768, "SigLIP B/16": 768, "SigLIP So400m/14": 1152}
WAYS = ("dense", "chunked", "ring")
SIZES = [(loss, width) for width in (512, 768, 1152) for loss in ("softmax", "sigmoid") if (loss, width) != ("sigmoid", 512)]


class Case(NamedTuple):
    """A training step to compile."""

    model: str  # of MODELS
    chips: int
    rows: int = ROWS  # of the batch, a chip
    grown: str = "data"  # the mesh axis that one dimension of the slice goes to; the others go to `data`
    logits: str = "dense"
    cache: int = 1
    chip: str = "v5p"
    depth: int = 0  # of both towers, where it is not the config's
    unrolled: bool = False  # whether the blocks are compiled one by one
    quick: bool = True  # whether the compiler is asked for less effort

    @property
    def name(self) -> str:
        """What tells it from the others."""
        more = {f"cache{self.cache}": self.cache > 1, f"depth{self.depth}": self.depth}
        more |= {word: getattr(self, word) for word in ("unrolled", "quick")}
        told = [MODELS[self.model], self.logits, self.chip, str(self.chips), self.grown, str(self.rows)]
        return "-".join([*told, *(word for word, is_so in more.items() if is_so)])

    @property
    def mesh(self) -> dict[str, int]:
        """Sizes of the mesh's axes."""
        side = 8 if self.chips == 8 else round(self.chips ** (1 / 3))
        return {"data": self.chips} if self.grown == "data" else {"data": self.chips // side, self.grown: side}

    def compiled(self, load: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Compiles it; `load` gives a config by its name."""
        towers = {"scan": not self.unrolled, "remat": True} | ({"depth": self.depth} if self.depth else {})
        config = changed(
            load(MODELS[self.model]),
            {f"model.encoders.{tower}.{key}": value for tower in ("image", "text") for key, value in towers.items()},
            {"objectives.contrastive.logits": self.logits, "optimizer.cache": self.cache, "data.batch_size": self.rows * self.chips},
        )
        return compiled(config, chip_of(self.chip), self.mesh, QUICK if self.quick else {})


class Loss(NamedTuple):
    """A loss to compile alone."""

    loss: str  # "softmax" or "sigmoid"
    width: int
    chips: int
    rows: int = ROWS
    logits: str = "dense"
    chip: str = "v5p"
    quick: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return "-".join(["loss", *map(str, self[:-1]), *["quick"] * self.quick])

    def compiled(self, load: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Compiles it."""
        node = {"name": "contrastive", "loss": self.loss, "pairs": [("image", "text")], "logits": self.logits}
        options = QUICK if self.quick else {}
        return compiled_loss(node, self.width, self.rows * self.chips, chip_of(self.chip), {"data": self.chips}, options)


SO400M = "SigLIP So400m/14"
ALONE = [Loss(loss, width, n, logits=way) for loss, width in SIZES for way in WAYS for n in COUNTS]
LARGE = [Loss("softmax", 768, 512, rows, way) for rows in (512, 2_048) for way in WAYS]
WEAK = [Case(model, n) for model in MODELS for n in COUNTS]
OWN = [Loss(LOSSES[case.model], WIDTHS[case.model], case.chips, quick=True) for case in WEAK]
STRONG = [Case(model, n, GLOBAL // n) for model in MODELS if model != "SigLIP B/16" for n in (64, WHOLE)]
CACHED = Case("CLIP B/16", 8, GLOBAL // 8, cache=GLOBAL // 8 // ROWS)
# What runs beside computing does so only with the compiler's whole effort.
RING = Case("CLIP B/16", WHOLE, logits="ring", quick=False)
FSDP = [Case(SO400M, n, grown="fsdp", quick=False) for n in (8, WHOLE)]
AXIS = Case(SO400M, WHOLE, GLOBAL // WHOLE)
AXES = [AXIS._replace(grown=axis, quick=False) for axis in ("fsdp", "tensor", "sequence")]
SLOW = Case("CLIP B/16", 8, quick=False)
UNROLLED = [Case("CLIP B/16", 8, depth=2, unrolled=unrolled) for unrolled in (False, True)]
CASES = [*ALONE, *LARGE, *OWN, *WEAK, *STRONG, CACHED, SLOW, *UNROLLED, RING, *FSDP, *AXES]


class Plan:
    """The programs by case, and what the model makes of them."""

    def __init__(self, programs: Mapping[Any, Program]):
        self.programs = programs
        self._played: dict[tuple[Any, Speeds], Played] = {}

    def step(self, case: Any, speeds: Speeds = Speeds()) -> Played:  # noqa: B008
        """A step of a case in the model."""
        if (case, speeds) not in self._played:
            self._played[case, speeds] = self.programs[case].step(speeds)
        return self._played[case, speeds]

    def towers(self, model: str, chips: int, speeds: Speeds = Speeds()) -> float:  # noqa: B008
        """Seconds of a step without its loss."""
        own = Loss(LOSSES[model], WIDTHS[model], chips, quick=True)
        return self.step(Case(model, chips), speeds).seconds - self.step(own, speeds).seconds

    def seconds(self, model: str, chips: int, loss: str, way: str = "dense", speeds: Speeds = Speeds()) -> float:  # noqa: B008
        """Seconds of a step with any loss."""
        return self.towers(model, chips, speeds) + self.step(Loss(loss, WIDTHS[model], chips, logits=way), speeds).seconds

    def efficiency(self, model: str, chips: int, loss: str, way: str = "dense", speeds: Speeds = Speeds()) -> float:  # noqa: B008
        """Throughput a chip, beside that of 8 chips with dense logits."""
        return self.seconds(model, 8, loss, speeds=speeds) / self.seconds(model, chips, loss, way, speeds)

    def strong(self, case: Case) -> float:
        """Throughput a chip, beside that of 8 chips with `ROWS` rows each."""
        reference = Case(case.model, 8)
        return case.rows / self.step(case).seconds / (reference.rows / self.step(reference).seconds)

    def used(self, case: Case) -> float:
        """Share of the chip's arithmetic that goes into what training needs: three forward passes, without what is computed again."""
        program = self.programs[case]
        return 3 * program.by_hand["forward"] * program.rows / self.step(case).seconds / program.chip.flops

    def sent(self, case: Any) -> float:
        """Bytes that a chip sends in a step."""
        return sum(sent for sent, _, _ in self.step(case).moved.values())
