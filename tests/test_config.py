"""Names, arguments and what is said where they are wrong."""

import sys

import pytest

from mmjax.config import ConfigError, build, check_call, differences, names, parse_arg, plain, resolve


def test_short_names_are_files_and_classes_are_called_like_them():
    assert resolve("encoders", "vit").__name__ == "ViT"
    assert resolve("encoders", "text_transformer").__name__ == "TextTransformer"
    assert resolve("encoders", "resnet:Bottleneck").__name__ == "Bottleneck"
    assert resolve("data.sources", "openmoji").__name__ == "OpenMoji"
    for kind in ("encoders", "objectives", "models", "evals", "data.sources"):
        assert names(kind) and all(resolve(kind, name) for name in names(kind)), "every file of a folder has its class"


def test_a_class_of_ones_own_by_its_full_name(tmp_path, monkeypatch):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "idea.py").write_text("class Idea:\n    def __init__(self, width=3):\n        self.width = width\n")
    (tmp_path / "my_pkg" / "broken.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build("encoders", {"name": "my_pkg.idea:Idea", "width": 5}, "x").width == 5
    with pytest.raises(ConfigError, match="no 'Idee'. Did you mean 'Idea'"):
        resolve("encoders", "my_pkg.idea:Idee")
    with pytest.raises(ConfigError, match="no module 'my_pkg.other'"):
        resolve("encoders", "my_pkg.other:Idea")
    with pytest.raises(ConfigError, match="needs the package 'not_installed_at_all'.*pip install"):
        resolve("encoders", "my_pkg.broken:Idea")
    sys.modules.pop("my_pkg", None)


def test_arguments_are_checked_against_the_signature():
    def part(a, b=2, *, c=3): ...

    assert check_call(part, {"a": 1, "c": 4, "name": "part"}, "x") == {"a": 1, "c": 4}
    with pytest.raises(ConfigError, match=r"x.bb is unknown. Did you mean 'b'"):
        check_call(part, {"a": 1, "bb": 4}, "x")
    with pytest.raises(ConfigError, match=r"x.a is missing: part needs it"):
        check_call(part, {}, "x")
    assert check_call(part, {}, "x", provided=["a"]) == {}
    with pytest.raises(ConfigError, match="x should be a mapping with a 'name'"):
        build("encoders", 3, "x")
    with pytest.raises(ConfigError, match=r"x.name is missing: one of"):
        build("encoders", {"width": 3}, "x")


def test_a_variant_stands_for_arguments_and_ones_own_win():
    vit = build("encoders", {"name": "vit", "variant": "L/14", "depth": 3}, "x")
    assert (vit.patch, vit.width, vit.heads, vit.depth) == (14, 1024, 16, 3)
    with pytest.raises(ConfigError, match=r"x.variant: 'B/61' is unknown. Did you mean 'B/16'"):
        build("encoders", {"name": "vit", "variant": "B/61"}, "x")
    with pytest.raises(ConfigError, match=r"x.varient is unknown. Did you mean 'variant'"):
        build("encoders", {"name": "vit", "varient": "B/16"}, "x")
    with pytest.raises(ConfigError, match=r"x.variant is unknown"):
        build("encoders", {"name": "lenet", "variant": "50"}, "x")


def test_the_argument_of_a_config():
    arg = parse_arg("smoke,seed=3,rate=1,name=b/16,on=false", smoke=False, seed=0, rate=0.5, name="a", on=True)
    assert vars(arg) == {"smoke": True, "seed": 3, "rate": 1.0, "name": "b/16", "on": False}
    assert parse_arg("", smoke=False).smoke is False
    assert vars(parse_arg("path=a/{00..12}.tar,column=7", path="", column="x")) == {"path": "a/{00..12}.tar", "column": "7"}
    with pytest.raises(ConfigError, match="path='' should be of type str"):
        parse_arg("path", path="a")
    assert parse_arg("data=/d/{00000..00012}.tar,smoke", smoke=False, data="x").data == "/d/{00000..00012}.tar"
    with pytest.raises(ConfigError, match="'smok' is unknown. Did you mean 'smoke'"):
        parse_arg("smok", smoke=False)
    with pytest.raises(ConfigError, match="seed='x' should be of type int"):
        parse_arg("seed=x", seed=0)


def test_plain_and_differences():
    from ml_collections import ConfigDict

    config = ConfigDict({"a": {"b": (1, 2)}, "c": [("x", {"d": 1})]})
    assert plain(config) == {"a": {"b": [1, 2]}, "c": [["x", {"d": 1}]]}
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}) == {"a.c": (2, 3), "a.d": (None, 4)}
