"""An exported file behind Ray Serve, on one machine or many: images that come together are scored together.

    pip install 'ray[serve]' onnxruntime pillow
    iqa-armor export model.safetensors -o model.onnx
    MODEL=model.onnx serve run --app-dir examples ray_serve:app
    curl --data-binary @photo.jpg http://127.0.0.1:8000/

It takes no package of ours: the file says in its metadata how images are prepared.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, UnidentifiedImageError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Scorer:
    """Scores of images; give the deployment more replicas, or a GPU and onnxruntime-gpu, where one is not enough."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        told = json.loads(self.session.get_modelmeta().custom_metadata_map["iqa_armor"])
        self.size, self.span = told["preprocessing"]["size"], told["score_range"]

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def scores(self, images: list[np.ndarray]) -> list[float]:
        (scores,) = self.session.run(["scores"], {"images": np.stack(images)})
        return [float(score) for score in scores]

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            image = Image.open(io.BytesIO(await request.body()), formats=["JPEG", "PNG", "WEBP"]).convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
            return JSONResponse({"error": "no JPEG, PNG or WebP image"}, status_code=400)
        height, width = self.size
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        score = await self.scores(pixels.transpose(2, 0, 1) / 255)
        return JSONResponse({"score": score, "score_range": self.span})


app = Scorer.bind(str(Path(os.environ["MODEL"]).resolve()))  # workers have a folder of their own
