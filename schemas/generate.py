"""Write the JSON Schemas of all wire models to ``schemas/json/``, or check that they are up to date.

python -m grpo_tta.schemas.generate            writes them
python -m grpo_tta.schemas.generate --check    exits 1 and names each file that differs, is missing or is left over
"""

import json
import sys
from pathlib import Path

from grpo_tta import schemas
from grpo_tta.schemas.base import WireModel

FOLDER = Path(__file__).parent / "json"


def generated() -> dict[str, str]:
    """File name -> its text, for every public wire model."""
    models = (getattr(schemas, name) for name in schemas.__all__)
    return {
        f"{model.__name__}.json": json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for model in models
        if isinstance(model, type) and issubclass(model, WireModel) and model is not WireModel
    }


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    wanted = generated()
    if arguments == ["--check"]:
        present = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
        wrong = sorted(name for name in {*wanted, *present} if wanted.get(name) != present.get(name))
        for name in wrong:
            print(f"schemas/json/{name} is not what the models generate: run 'python -m grpo_tta.schemas.generate'")
        return 1 if wrong else 0
    if arguments:
        print(f"unknown arguments: {' '.join(arguments)}; the only one is --check")
        return 2
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
