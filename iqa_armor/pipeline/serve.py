"""A model as a service: images come one by one over HTTP and are scored in small batches."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor

from iqa_armor import __version__
from iqa_armor.data.images import keeping_room, opened, read_image
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.machine import usable_processors
from iqa_armor.models.base import QualityModel
from iqa_armor.models.training_scores import KINDS, rescaling
from iqa_armor.pipeline.score import score_prepared
from iqa_armor.pipeline.settings import Service

WRAPPED = (b"--", b"{")  # how forms and JSON begin, which clients often send, and no image does
NEEDS = ("fastapi", "uvicorn", "prometheus_client")


class Refused(Exception):
    """A request that gets another answer than a score; its arguments are an HTTP status and why."""


class _Waiting(NamedTuple):
    pixels: Tensor
    found: asyncio.Future[float | ArmorError]


class Batcher:
    """Scores images (3, H, W) that come within a few milliseconds together, in one thread; `told` gets batch sizes."""

    def __init__(self, model: QualityModel, service: Service, *, seed: int, told: Callable[[int], Any]) -> None:
        self.model, self.service, self.seed, self.told = model, service, seed, told
        self.waiting: asyncio.Queue[_Waiting] = asyncio.Queue(service.max_waiting)
        self.most = 1 if isinstance(model, Defended) and model.is_random else service.batch_size

    async def score(self, pixels: Tensor) -> float:
        """Return the score of a prepared image; Refused if too many wait, or the model cannot score it."""
        mine = _Waiting(pixels, asyncio.get_running_loop().create_future())
        try:
            self.waiting.put_nowait(mine)
        except asyncio.QueueFull:
            raise Refused(503, "too many images are waiting; try again later") from None
        found = await mine.found
        if isinstance(found, ArmorError):
            raise Refused(422, str(found))
        return found

    async def run(self) -> None:
        shape = attrgetter("pixels.shape")
        with ThreadPoolExecutor(1) as pool:
            while True:
                batch = [await self.waiting.get()]
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.service.wait / 1000):
                        while len(batch) < self.most:
                            batch.append(await self.waiting.get())
                wanted = sorted((one for one in batch if not one.found.done()), key=shape)
                for _, alike in groupby(wanted, key=shape):
                    await self._answer(pool, list(alike))

    async def _answer(self, pool: ThreadPoolExecutor, batch: list[_Waiting]) -> None:
        self.told(len(batch))
        images, loop = [one.pixels for one in batch], asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(pool, lambda: score_prepared(self.model, images, seed=self.seed))
        except RuntimeError as error:  # whatever torch meets must not end the service
            found = [ArmorError(f"the model failed: {error}")] * len(batch)
        for one, score in zip(batch, found, strict=True):
            if not one.found.done():  # its client has gone
                one.found.set_result(score)


def read_upload(content: bytes, prepare: Callable[[Tensor], Tensor], most_pixels: float) -> Tensor:
    """Return the prepared image (3, H, W) that the bytes of a file hold, or raise a DataError."""
    with keeping_room(), opened(content) as image:
        if image.width * image.height > most_pixels:
            raise DataError(f"the image has {image.width}x{image.height} pixels; at most {most_pixels:.0f} are taken")
        return prepare(read_image(image))


class _Api:
    """The answers of a service, and what is counted of them."""

    def __init__(self, model: QualityModel, service: Service, *, seed: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.model, self.service, self.registry = model, service, CollectorRegistry()
        self.meanings: dict[str, Callable[[float], float]] = {}
        for kind in KINDS:
            with suppress(ArmorError):  # the model does not record what this takes
                self.meanings[kind] = rescaling(model, kind)
        known: dict[str, Any] = {"registry": self.registry}
        self.answers = Counter("iqa_armor_answers", "Answers to /score by status.", ["status"], **known)
        self.seconds = Histogram("iqa_armor_seconds", "Seconds that an answer took.", **known)
        sizes = Histogram("iqa_armor_batch", "Images scored together.", buckets=(1, 2, 4, 8, 16, 32), **known)
        self.batcher = Batcher(model.eval(), service, seed=seed, told=sizes.observe)
        Gauge("iqa_armor_waiting", "Images that wait.", **known).set_function(self.batcher.waiting.qsize)
        self.decoders = ThreadPoolExecutor(usable_processors())
        self.work: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def alive(self, _: Any) -> AsyncIterator[None]:
        self.work = asyncio.create_task(self.batcher.run())
        yield
        self.work.cancel()
        self.decoders.shutdown(wait=False, cancel_futures=True)

    async def score(self, chunks: AsyncIterator[bytes]) -> tuple[int, dict[str, Any]]:
        start, status = time.perf_counter(), 200
        try:
            async with asyncio.timeout(self.service.timeout):
                answer = await self._scored(chunks)
        except Refused as error:
            status, answer = error.args[0], {"detail": error.args[1]}
        except TimeoutError:
            status, answer = 504, {"detail": f"it took longer than {self.service.timeout:g} s"}
        self.answers.labels(status).inc()
        self.seconds.observe(time.perf_counter() - start)
        return status, answer

    async def _scored(self, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        content, model = await _body(chunks, self.service.max_size * 1e6), self.model
        loop, most = asyncio.get_running_loop(), self.service.max_pixels * 1e6
        try:
            pixels = await loop.run_in_executor(self.decoders, read_upload, content, model.prepare, most)
        except DataError as error:
            raise Refused(422, str(error)) from error
        score = await self.batcher.score(pixels)
        meant = {kind: mean(score) for kind, mean in self.meanings.items()}
        return {"model": model.name, "score": score, "higher_is_better": model.higher_is_better, **meant}


def make_app(model: QualityModel, service: Service | None = None, *, seed: int = 0) -> Any:
    """Return the ASGI application that serves a model, which stays where it is: /score, /health and /metrics.

    POST /score takes the bytes of an image file and gives {"model", "score", "higher_is_better"} and, as far as the
    model records what they take, "mos", "percentile" and "0-100". Anything else is {"detail": reason} with the status
    413 (too large), 415 (a form, JSON or nothing), 422 (no image, or none that the model can score), 503 (too busy) or
    504 (too slow); 499 counts clients that left early. Raises ArmorError if what it takes is not installed.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise ArmorError(f"a service takes {', '.join(missing)}, not here; run pip install 'iqa-armor[serve]'")
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from prometheus_client import generate_latest

    api = _Api(model, service or Service(), seed=seed)

    async def score(request: Request) -> Response:
        status, answer = await api.score(request.stream())
        return JSONResponse(answer, status, headers={"Retry-After": "1"} if status == 503 else None)

    async def health() -> Response:
        is_well = api.work is not None and not api.work.done()
        facts = {"status": "ok" if is_well else "stopped", "model": model.name, "version": __version__}
        return JSONResponse(facts, 200 if is_well else 503)

    async def metrics() -> Response:
        return Response(generate_latest(api.registry), media_type="text/plain; version=0.0.4")

    app = FastAPI(title="iqa-armor", version=__version__, lifespan=api.alive)
    app.add_api_route("/score", score, methods=["POST"])
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", metrics)
    return app


async def _body(chunks: AsyncIterator[bytes], most: float) -> bytes:
    from starlette.requests import ClientDisconnect

    content = bytearray()
    try:
        async for chunk in chunks:
            content += chunk
            if len(content) > most:
                raise Refused(413, f"the file is larger than {most / 1e6:g} MB")
    except ClientDisconnect as error:
        raise Refused(499, "the client has gone") from error
    if not content or content.startswith(WRAPPED):
        raise Refused(415, "send the bytes of one image file, not a form, as by curl --data-binary @photo.jpg")
    return bytes(content)
