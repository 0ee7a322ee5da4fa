"""Training recipes for any fusion: what each changes in a config of a `fuser` that predicts `label`, by dotted path."""

RECIPES = {
    "modality_dropout": {"data.modality_dropout": 0.3},  # Neverova et al., 2015
    "no_modality_dropout": {"data.modality_dropout": None},
    "unimodal": {"model.unimodal": True, "objectives.unimodal": {"name": "unimodal", "weight": 0.5}},  # Vielzeuf et al., 2018
    "gradient_blending": {"model.unimodal": True, "objectives.label.name": "gradient_blending"},  # Wang et al., 2020
    "ogm_ge": {"objectives.ogm_ge": {"name": "ogm_ge"}},  # Peng et al., 2022
    "rmfe": {"objectives.rmfe": {"name": "rmfe", "weight": 1e-4}},  # Gat et al., 2020
    "mixup": {"model.mixup": 0.4},  # Verma et al., 2019
    "distillation": {"objectives.distillation": {"name": "distillation", "weight": 0.5}},  # Hinton et al., 2015
    "cca": {"objectives.cca": {"name": "cca", "weight": 0.1}},  # Andrew et al., 2013
}


def apply(config, recipe):
    """The config with a recipe's changes; "" is none."""
    from ml_collections import ConfigDict

    from mmjax.config import ConfigError, changed, nearest

    if recipe and recipe not in RECIPES:
        raise ConfigError(f"recipe={recipe!r} is unknown.{nearest(recipe, RECIPES)}")
    return ConfigDict(changed(config.to_dict(), RECIPES.get(recipe, {})))
