"""Makes mmjax/evals/zeroshot_imagenet.json: the prompts and ImageNet's class names that were published with CLIP, as open_clip has them.

pip install open_clip_torch==3.3.0
python tests/golden/make_prompts.py
"""

import importlib.metadata
import json
from pathlib import Path

from open_clip import zero_shot_metadata as clip

FILE = Path(__file__).parents[2] / "mmjax" / "evals" / "zeroshot_imagenet.json"


def main():
    package = importlib.metadata.distribution("open_clip_torch")
    (licence,) = [file for file in package.files if file.name == "LICENSE"]
    found = {
        "source": f"open_clip_torch {package.version}, zero_shot_metadata.py, after https://github.com/openai/CLIP (MIT, (c) 2021 OpenAI)",
        "licence": licence.locate().read_text().splitlines(),
        "templates": {
            "imagenet": [template("{}") for template in clip.OPENAI_IMAGENET_TEMPLATES],
            "imagenet_7": [template("{}") for template in clip.SIMPLE_IMAGENET_TEMPLATES],
        },
        "names": {"imagenet": list(clip.IMAGENET_CLASSNAMES)},
    }
    FILE.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
