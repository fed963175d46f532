"""Score the images of a folder with Ray Data, on one machine or many, to Parquet files.

    pip install 'ray[data]'
    python examples/ray_score.py model-hardened.safetensors photos/ scores/ --workers 8

Every worker opens the model once. An image that cannot be read has no score and its error beside its name. Folders are
read by all machines, so they lie on storage that all of them have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import typer


class Scorer:
    """A worker: from names of image files to their scores."""

    def __init__(self, model: str) -> None:
        from iqa_armor import load_model

        self.model = load_model(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from iqa_armor.pipeline.score import each_score

        found = list(each_score(self.model, batch["image"], workers=1))
        errors = ["" if one.error is None else str(one.error) for one in found]
        return {"image": batch["image"], "score": np.array([one.score for one in found]), "error": np.array(errors)}


def main(
    model: Path,
    images: Annotated[Path, typer.Argument(help="Folder of images, with its folders.")],
    output: Annotated[Path, typer.Argument(help="New folder of Parquet files.")],
    workers: Annotated[int, typer.Option(help="Processes that score, each with a processor.")] = 1,
) -> None:
    from iqa_armor.pipeline.score import find_images

    names = [{"image": str(path.resolve())} for path in find_images([images])]
    rows = ray.data.from_items(names, override_num_blocks=min(len(names), 4 * workers))
    scored = rows.map_batches(
        Scorer,
        fn_constructor_args=[str(model.resolve())],
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    scored.write_parquet(str(output.resolve()))
    typer.echo(f"scored {len(names)} images, see {output}")


if __name__ == "__main__":
    typer.run(main)
