"""The report of whole, broken and hostile run folders."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_run import HOSTILE, cloud, gallery, heard, history, make_run, reliability, results

from mmjax.contract import Bars, Gallery, Intervals, Item, Lines, Matrix, Plane, Reliability, Scatter, Sheet, Table, save_artifact
from mmjax.report import metrics, write_report
from mmjax.report.draw import lines_svg, reliability_svg, running_mean, scatter_groups, scatter_svg
from mmjax.report.html import describe
from mmjax.report.run import read_run

VOID = {"meta", "img", "br", "input", "hr", "link", "wbr"}


class Page(HTMLParser):
    """All tags with their attributes, the text, and whether what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> where {self.open} is open"

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""

    def count(self, kind):
        return sum(kind in (attrs.get("class") or "").split() for _, attrs in self.tags)


def report(path):
    text = write_report(path).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    return page


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("runs") / "made_up")
    return path, report(path)


def test_nothing_is_loaded(whole):
    path, page = whole
    assert not any(tag in ("script", "link", "iframe", "object", "embed", "base", "form") for tag, _ in page.tags)
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            if attrs.get(name) is not None:
                assert attrs[name].startswith(("data:image/png;base64,", "data:audio/mpeg;base64,", "#")), (tag, attrs[name])
    assert not re.search(r"url\((?!#)|@import", (path / "report.html").read_text())


def test_links_and_ids(whole):
    _, page = whole
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for _, attrs in page.tags if (attrs.get("href") or "").startswith("#")} <= set(ids)


def test_pictures_are_described(whole):
    _, page = whole
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")


def test_every_metric_with_its_baselines(whole):
    path, page = whole
    for metric in metrics.read_metrics(results()):
        assert any(attrs.get("title") == metric.key for _, attrs in page.tags)
    html = re.sub(r"\s+", " ", (path / "report.html").read_text())
    row = re.search(r'title="test/retrieval/text_to_image/r@10">.*?</tr>', html)[0]
    assert [cell for cell in re.findall(r">([^<>]+)<", row) if cell.strip()] == ["r@10", "0.412", "0.078", "0.210", "5.3×"]
    beaten = re.search(r'title="test/retrieval/text_to_image/r@1">.*?</tr>', html)[0]
    assert "▲" in beaten and "▲" not in row
    assert "r@10 of retrieval, text to image, on test: 0.412, 5.3× chance (0.078), 1.96× ridge (0.210)" in page.text


def test_right_ones_are_marked_in_words(whole):
    _, page = whole
    marked = sum(item.correct for g in (gallery(True), gallery(False), heard()) for row in g.results for item in row)
    assert page.count("right") == page.text.count("✓ right") == 2 * marked  # on test and validation
    assert "none of these 10 is right" in page.text and "right one at rank 3" in page.text


def test_all_sections_have_content(whole):
    _, page = whole
    for text in ("1,500 of 1,500", "0123456789ab with changes", "سیب قرمز", "雨伞", "300 rows", "HfG Schwäbisch Gmünd", "batch_size: 256"):
        assert text in page.text, text
    for text in (
        "data/test/unreadable",
        "time/total_s",
        "4 min 11 s",
        "train/lr",
        "validation/retrieval/text_to_image",
        "best 0.226 at step 1,250",
    ):
        assert text in page.text, text
    assert page.count("chart") == 12 and page.count("matrix") == 2
    assert "To know about this run" not in page.text


def test_text_is_escaped(tmp_path):
    run = make_run(tmp_path / "a<b>&'run")
    names = {f"test/x/{HOSTILE}": 0.5, f"test/x/{HOSTILE}/chance": 0.1, f"time/{HOSTILE}": 1.0, "other": HOSTILE, "test/x/$y$": 0.3}
    (run / "results.json").write_text(json.dumps(names))
    (run / "environment.json").write_text(json.dumps({"command": HOSTILE, HOSTILE: [HOSTILE]}))
    with open(run / "metrics.jsonl", "w") as file:
        file.write(json.dumps({"step": 1, f"train/{HOSTILE}": 1.0, "validation/$x$": 2.0, f"validation/{HOSTILE}": 2.0}) + "\n")
    folder = run / "artifacts" / HOSTILE.replace("/", "") / "x"
    save_artifact(folder / "m.json", Matrix([[1.0, 2.0], [3.0, math.nan]], [HOSTILE, "a"], [HOSTILE, "b"], HOSTILE))
    save_artifact(folder / "b.json", Bars([HOSTILE], {HOSTILE: [-1.0], "label": [2.0]}, HOSTILE))
    save_artifact(folder / "t.json", Table([HOSTILE], [[HOSTILE], [None], [["a", HOSTILE]]], HOSTILE))
    save_artifact(folder / "g.json", Gallery([Item("text", HOSTILE, HOSTILE)], [[Item("image", b'\x89PNG"><script>', HOSTILE)]]))
    save_artifact(folder / "s.json", Sheet([HOSTILE], [[Item("text", HOSTILE, HOSTILE, pieces=[(7, HOSTILE)])]], HOSTILE))
    page = report(run)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.text.count(HOSTILE) > 15


def test_an_empty_folder(tmp_path):
    page = report(tmp_path)
    for name in ("config.json", "environment.json", "results.json", "metrics.jsonl"):
        assert f"There is no {name}" in page.text
    assert "No final results yet" in page.text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_a_killed_run(tmp_path):
    lines = [json.dumps(line) for line in history(500)]
    text = "\n".join(lines)
    (tmp_path / "metrics.jsonl").write_text(text[:-30])
    (tmp_path / "config.json").write_text('{"steps": 1500, "checkpoint": {"best": "validation/retrieval/text_to_image/r@5"}, ')
    page = report(tmp_path)
    assert "The last line of metrics.jsonl is cut short" in page.text
    assert "config.json cannot be read" in page.text
    assert "one point so far" in page.text  # the second evaluation is the line that was cut
    assert "these were logged last during training" in page.text and "So far: " in page.text


def test_lines_that_cannot_be_read(tmp_path):
    lines = [
        "{",
        "[1]",
        '{"train/loss": 1}',
        '{"step": NaN}',
        '{"step": 1e999}',
        "",
        '{"step": 7, "train/loss": 2.5, "note": "x", "v": [1]}',
        "7",
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n{"step": 8, "train/loss": 2}')
    run = read_run(tmp_path)
    assert run.history == {"train/loss": {7: 2.5, 8: 2.0}}
    assert any("1, 2, 3, 4, 5, 8, 9" in problem for problem in run.problems)


def test_after_a_resume_the_later_line_wins(tmp_path):
    lines = [(10, 1.0), (20, 0.9), (30, 5.0), (20, 0.8), (30, 0.7), (40, 0.6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "train/loss": v}) + "\n" for s, v in lines))
    run = read_run(tmp_path)
    assert list(run.history["train/loss"].items()) == [(10, 1.0), (20, 0.8), (30, 0.7), (40, 0.6)]
    assert any("goes back to an earlier step 1 time" in problem for problem in run.problems)


def test_values_that_are_not_finite(tmp_path):
    lines = [{"step": s, "train/loss": v, "validation/x/r@1": None} for s, v in enumerate([1.0, None, math.nan, math.inf, 0.5])]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {
        "step": None,
        "test/x/r@1": math.nan,
        "test/x/r@1/chance": 0.1,
        "test/x/r@5": 0.5,
        "test/x/r@5/chance": 0,
        "time/total_s": None,
    }
    (tmp_path / "results.json").write_text(json.dumps(found))
    page = report(tmp_path)
    assert "train/loss is not finite at step 1, 2, 3." in page.text
    assert "no finite value" in page.text and "nan" not in page.text.lower()
    assert "r@5 of x, on test: 0.500" in page.text


@pytest.mark.parametrize(
    "text", ['{"artifact": "gallery", "queries": [', '{"artifact": "film"}', "[]", '{"artifact": "table", "x": 1}', "{}"]
)
def test_artifacts_that_cannot_be_read(tmp_path, text):
    (tmp_path / "artifacts" / "test").mkdir(parents=True)
    (tmp_path / "artifacts" / "test" / "broken.json").write_text(text)
    assert "artifacts/test/broken.json cannot be read" in report(tmp_path).text


@pytest.mark.parametrize(
    "artifact",
    [
        Matrix([[1.0], [1.0, 2.0]], [], []),
        Matrix([], [], []),
        Bars(["a"], {"x": [1.0, 2.0]}),
        Table(["a"], [1]),
        Gallery([Item("text", None)], [[]]),
        Sheet(["a"], []),
        Scatter([0.0], [0.0, 1.0], {"a": ["x", "y"]}),
        Scatter([0.0, math.nan], [0.0, 1.0], {"a": ["x", "y"]}),
        Reliability({"a": [(0.0, 1.0, 2)]}),
        Intervals(["a"], [1.0, 2.0], [0.1, 0.1], "x"),
        Plane(["a", "b"], [1.0], [1.0], "x", "y"),
    ],
    ids=[
        "ragged",
        "no cells",
        "longer",
        "no rows",
        "no content",
        "untitled",
        "fewer places",
        "no place",
        "no accuracy",
        "more values",
        "fewer points",
    ],
)
def test_artifacts_that_cannot_be_drawn(tmp_path, artifact):
    path = tmp_path / "artifacts" / "test" / "x" / "broken.json"
    path.parent.mkdir(parents=True)
    fields = {name: [i._asdict() for i in value] if name == "queries" else value for name, value in artifact._asdict().items()}
    path.write_text(json.dumps({"artifact": type(artifact).__name__.lower(), **fields}))
    assert "test/x/broken cannot be drawn" in report(tmp_path).text


def test_empty_artifacts(tmp_path):
    folder = tmp_path / "artifacts" / "test" / "x"
    for name, artifact in {
        "g": Gallery([], []),
        "s": Sheet([], []),
        "b": Bars([], {}),
        "t": Table([], []),
        "m": Matrix([[math.nan]], ["a"], ["b"]),
        "p": Scatter([], [], {"a": []}),
        "q": Scatter([1.0], [2.0], {"a": [None]}),
        "r": Reliability({"a": [], "b": [(0.0, 1.0, 0, 0.0, 0.0)]}),
        "i": Intervals([], [], [], "x", 0.0),
        "j": Intervals(["a"], [1.0], [math.nan], "x"),
        "k": Plane([], [], [], "x", "y", log=True),
        "l": Lines({"a": [], "b": [0.5]}, "x", "y"),
    }.items():
        save_artifact(folder / f"{name}.json", artifact)
    assert "cannot" not in report(tmp_path).text.replace("cannot be read (", "")


def test_clips_are_played_and_series_are_pictures(whole):
    path, page = whole
    clips = [attrs for tag, attrs in page.tags if tag == "audio"]
    assert len(clips) == 2 * (1 + 4 + 4) and all("controls" in c and c["aria-label"] and c["preload"] == "none" for c in clips)
    assert "media-src data:" in (path / "report.html").read_text(), "or the browser plays none"


def test_a_map_is_drawn_once_for_every_way_to_colour_it(whole):
    _, page = whole
    assert page.count("scatter") == 4, "by modality and by label, on test and validation"
    by_label = next(attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "by label" in attrs.get("aria-label", ""))
    for name in {name for name in cloud().groups["label"] if name}:
        assert f"{cloud().groups['label'].count(name)} {name}" in by_label
    assert by_label.endswith("11 none.")


def test_groups_of_points_can_be_told_apart():
    groups = scatter_groups([f"{i:02}" for i in range(36)] + [None])
    assert len({(g["series"], g["mark"]) for g in groups}) == 37 and [g["points"] for g in groups] == [[i] for i in range(37)]
    few = scatter_groups(["b", "a", "b"])
    assert [(g["name"], g["points"], g["mark"]) for g in few] == [("a", [1], 0), ("b", [0, 2], 1)]


def test_points_lie_true_to_scale_and_upwards():
    scatter = Scatter([0.0, 2.0], [0.0, 1.0], {"a": ["x", "x"]})
    svg = scatter_svg(scatter, scatter_groups(scatter.groups["a"]), "two")
    assert re.findall(r"M([\d.]+),([\d.]+)", svg) == [("8.0", "210.0"), ("412.0", "8.0")] and 'viewBox="0 0 420 218"' in svg


def test_a_reliability_diagram_has_its_bins_its_diagonal_and_its_counts(whole):
    _, page = whole
    assert page.count("reliability") == 4, "two, on test and validation"
    assert "147 examples in 10 bins: mean confidence 0.793, 0.633 are right, expected error 0.160" in page.text
    svg = reliability_svg(reliability(), HOSTILE, "one")
    bars = re.findall(r'class="bar" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    assert bars[0] == ("140.0", "178.0", "72.0") and len(bars) == svg.count("<circle") == 6, "0.3 of 240 from 0.4 on; empty ones have none"
    counts = [float(height) for height in re.findall(r'class="count".*?height="([\d.]+)"', svg)]
    assert counts == [0, 0, 0, 0, 10, 20, 30, 40, 50, 60] and "42 examples from 0.9 to 1" in svg
    assert 'class="diagonal" d="M44.0,250.0L284.0,10.0"' in svg
    assert re.findall(r'class="gap" d="M([\d.]+),([\d.]+)V([\d.]+)"', svg)[0] == ("154.4", "178.0", "139.6"), "from 0.3 to 0.46"


def test_every_split_and_evaluator_has_its_place(tmp_path):
    run = make_run(tmp_path / "run")
    found = {"step": 1_500, "time/total_s": 2.0, "data/test_recordings/unreadable": 1}
    for split in ("test_recordings", "validation", "test", "other"):
        for evaluator in ("text_speech", "text_sound"):
            for direction in ("text_to_audio", "audio_to_text"):
                key = f"{split}/{evaluator}/{direction}/r@10"
                found |= {key: 0.5, f"{key}/chance": 0.1}
    (run / "results.json").write_text(json.dumps(found))
    (run / "config.json").write_text(json.dumps({"checkpoint": {"best": "validation/text_speech/text_to_audio/r@10"}}))
    (run / "metrics.jsonl").write_text("")
    told = describe(read_run(run))
    assert [t["split"] for t in told["tables"]] == ["test", "test_recordings", "validation", "other"]
    assert list(told["tables"][0]["tables"][0]) == [
        f"{e}/{d}" for e in ("text_sound", "text_speech") for d in ("audio_to_text", "text_to_audio")
    ]
    assert told["headline"].startswith("r@10 of text speech, text to audio, on test: 0.500") and len(told["tiles"]) == 4
    assert [name for name, _ in told["counts"]] == ["data/test_recordings/unreadable"] and not told["others"]


def test_test_stands_before_validation(whole):
    run = read_run(whole[0])
    run.history = {}  # nothing to draw
    page = describe(run)
    splits = [artifact["split"] for artifact in page["artifacts"]]
    assert splits == sorted(splits) and set(splits) == {"test", "validation"}
    assert [artifact["title"] for artifact in page["data"]] == ["splits", "concepts", "attribution"]
    assert [artifact["title"] for artifact in page["artifacts"]][:3] == ["text to image", "image to text", "by variant text to image"]


def test_the_headline_is_of_the_metric_asked_for(whole):
    run = read_run(whole[0])
    run.history = {}
    run.config["checkpoint"] = {"best": "validation/retrieval/image_to_text/r@5"}
    assert describe(run)["headline"].startswith("r@5 of retrieval, image to text, on test: ")
    assert describe(run, main="test/loss/total")["headline"] == "total of loss, on test: 1.910, better than chance (5.545)"


def test_classifiers_beside_chance_majority_and_simple_features(tmp_path):
    run = make_run(tmp_path / "run")
    found = {"step": 1_500}
    for name in ("fewshot/4_shot/top1", "linear_probe/top1", "linear_probe/top5"):
        found |= {f"test/{name}{level}": v for level, v in {"": 0.6, "/hog": 0.5, "/majority": 0.3, "/chance": 0.1}.items()}
    found["test/fewshot/4_shot/top1/std"] = 0.9  # a spread, which nothing is measured against
    (run / "results.json").write_text(json.dumps(found))
    told = describe(read_run(run))
    assert told["headline"] == ("top1 of linear probe, on test: 0.600, 6.0× chance (0.100), 2.0× majority (0.300), 1.20× hog (0.500)"), (
        "and not of a breakdown"
    )
    (table,) = told["tables"]
    assert table["columns"] == ["chance", "majority", "hog", "std"]


def test_baselines_are_one_component_behind_a_metric():
    found = metrics.split_baselines(["test/a", "test/a/chance", "test/loss/contrastive", "test/loss/total", "test/a/chance/x"])
    assert found == {"test/a": ["chance"], "test/loss/contrastive": [], "test/loss/total": [], "test/a/chance/x": []}


@pytest.mark.parametrize(
    "key, lower", [("test/loss/total", True), ("x/median_rank", True), ("x/r@10", False), ("x/text/wer", True), ("x/flowers", False)]
)
def test_direction(key, lower):
    assert metrics.lower_is_better(key) is lower


@pytest.mark.parametrize(
    "value, text",
    [(0.4123, "0.412"), (15.0, "15"), (64.5, "64.5"), (1234567, "1,234,567"), (2e-5, "2.00e−5"), (math.nan, "–"), (-0.5, "−0.500")],
)
def test_numbers(value, text):
    assert metrics.show(value) == text


@pytest.mark.parametrize(
    "seconds, text", [(4.21, "4.21 s"), (59.7, "59.7 s"), (251.3, "4 min 11 s"), (3725, "1 h 02 min"), (math.nan, "–")]
)
def test_seconds(seconds, text):
    assert metrics.show_seconds(seconds) == text


def test_running_mean_leaves_out_what_is_not_finite():
    np.testing.assert_allclose(running_mean(np.array([1.0, np.nan, 3.0, 5.0]), 3), [1.0, 2.0, 4.0, 4.0])


def test_curves_intervals_and_points_are_drawn_with_their_names(tmp_path):
    """Each name once, hostile ones too; equal places do not lie on each other, and a longer interval is a longer bar."""
    names = [HOSTILE, "concat", "gated"]
    folder = tmp_path / "artifacts" / "test" / "x"
    save_artifact(folder / "i.json", Intervals(names, [0.5, 0.5, 0.7], [0.1, 0.2, math.nan], "accuracy", 0.6))
    save_artifact(folder / "l.json", Lines({name: [0.9, 0.5 - 0.1 * (name == "gated")] for name in names}, "level", "accuracy"))
    save_artifact(folder / "p.json", Plane(names, [1.0, 1.0, 4.0], [0.5, 0.5, 0.7], "FLOPs", "accuracy", log=True))
    page = report(tmp_path)
    assert "cannot be drawn" not in page.text
    html = (tmp_path / "report.html").read_text()
    for kind in ("intervals", "lines", "plane"):
        (svg,) = re.findall(rf'<svg class="{kind}".*?</svg>', html, re.DOTALL)
        assert all(svg.count(f">{name}<") == 1 for name in names[1:]) and "<script" not in svg
        places = [float(y) for name in names[1:] for y in re.findall(rf'y="([0-9.]+)"[^>]*>{name}<', svg)]
        assert len(places) == 2 and abs(places[0] - places[1]) > 8
    (svg,) = re.findall(r'<svg class="intervals".*?</svg>', html, re.DOTALL)
    widths = [float(b) - float(a) for a, b in re.findall(r'class="bar" d="M([0-9.]+),[0-9.]+H([0-9.]+)"', svg)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2) and widths[2] == 0


def test_a_curve_keeps_its_colour_whatever_its_values():
    for last in (0.1, 0.9):
        svg = lines_svg(Lines({"a": [0.5, last], "b": [0.5, 0.5]}, "level", "accuracy"), "curves")
        assert re.search(r'class="s0"[^>]*>a<', svg) and re.search(r'class="s1"[^>]*>b<', svg)
