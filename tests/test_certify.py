"""Certifying models: the figures, their JSON, table and page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import CPU, memory_dataset, small_network, write_images
from torch import Generator, Tensor
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.defenses.base import Certificate
from iqa_armor.defenses.smoothing import SMOOTHERS, input_smoothing
from iqa_armor.defenses.smoothing.input_smoothing import MeanSmoothing, MedianSmoothing
from iqa_armor.errors import DataError, ModelLoadError, UsageError
from iqa_armor.graph.trace import trace
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.pipeline.certify import build_smoothers, certify_images
from iqa_armor.pipeline.certify_model import Subject
from iqa_armor.pipeline.settings import CertifySettings
from iqa_armor.report.certification import certification_report
from iqa_armor.report.page import render_page
from iqa_armor.results.outcome import Certification

MakeModel = Callable[..., QualityModel]
QUICK = CertifySettings(methods=("ms", "rs"), samples=50, limit=5)
RANGE = ScoreScale(-1, 1)


def notes(found: Certification) -> tuple[str, ...]:
    return certification_report(found).notes


def rendered(found: Certification) -> str:
    return render_page(certification_report(found))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@dataclass(frozen=True)
class Halving:
    """A purifier that halves the contrast."""

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return 0.25 + images / 2


@dataclass(frozen=True)
class Local:
    """A smoother whose bounds are worth less."""

    guarantee: ClassVar[str] = "local, first-order"
    radius: float = 0.05
    sigma: float = 0.0

    def bind(self, model: QualityModel) -> Any:
        return self

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        return torch.zeros(len(images))

    def certify(self, images: Tensor, generator: Generator) -> Certificate:
        zeros = torch.zeros(len(images))
        return Certificate(zeros, zeros - math.inf, zeros + math.inf)


@pytest.fixture(scope="module")
def found() -> Certification:
    plain = Preprocessing(size=(32, 40), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    models = [
        QualityModel(small_network(seed), plain, scale=ScoreScale(-1, seed + 1), name=f"model{seed}").eval()
        for seed in (0, 1)
    ]
    return certify_images(models, memory_dataset(8, 8), QUICK, baseline=0, device=CPU)


def test_figures_are_those_of_the_images(found: Certification) -> None:
    model = found.models[1]
    assert (model.size, list(model.methods)) == ((32, 40), ["ms", "rs"])
    assert model.step_l2 == pytest.approx(math.sqrt(3 * 32 * 40) / 255)
    for figures in model.methods.values():
        assert len(figures.images) == 5
        deltas = [image.upper - image.lower for image in figures.images]  # type: ignore[operator]
        assert figures.delta == pytest.approx(sum(deltas) / 5)
        assert figures.delta_share == pytest.approx(figures.delta / 3)  # type: ignore[operator]
        assert all(image.lower <= image.smoothed <= image.upper for image in figures.images)  # type: ignore[operator]
        smoothed = torch.tensor([image.smoothed for image in figures.images])
        mos = torch.tensor([image.mos for image in figures.images])
        assert figures.srocc == pytest.approx(float(srocc(smoothed, mos)))
        assert (figures.guarantee, figures.settings["samples"], figures.abstained) == ("global", 50, 0)
    base, other = (entry.methods["ms"] for entry in found.models)
    assert base.ratio_to_baseline == pytest.approx(1)
    assert other.ratio_to_baseline == pytest.approx(other.delta_share / base.delta_share)  # type: ignore[operator]


def test_bounds_are_those_of_the_smoother(found: Certification) -> None:
    plain = Preprocessing(size=(32, 40), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = QualityModel(small_network(), plain, scale=ScoreScale(-1, 1)).eval()
    images = memory_dataset(8, 8).reported()[1].limit(5)
    subject = Subject(model, images, model.prepare, CPU, QUICK)
    certificate = MedianSmoothing(samples=50).bind(model).certify(subject.image(3), subject.generator(3))
    image = found.models[0].methods["ms"].images[3]
    assert (image.lower, image.smoothed) == pytest.approx((float(certificate.lower), float(certificate.scores)))


def test_an_image_gets_the_same_noise_whatever_else_there_is(make_model: MakeModel, found: Certification) -> None:
    fewer = certify_images(
        [make_model(scale=ScoreScale(-1, 1))],
        memory_dataset(8, 8),
        CertifySettings(samples=50, limit=2),
        device=CPU,
    )
    image = fewer.models[0].methods["ms"].images[1]
    (same,) = (other for other in found.models[0].methods["ms"].images if other.name == image.name)
    assert image.lower == pytest.approx(same.lower)


def test_json_round_trip_keeps_missing_bounds(make_model: MakeModel) -> None:
    few = certify_images([make_model()], memory_dataset(8, 4), CertifySettings(samples=3, limit=2), device=CPU)
    figures = few.models[0].methods["ms"]
    assert figures.abstained == 1
    assert figures.delta is None
    assert figures.images[0].lower is None
    again = Certification.from_json(few.to_json())
    assert again == few
    assert json.loads(few.to_json())["schema"] == "iqa-armor/certification/1"
    with pytest.raises(DataError, match="not of schema iqa-armor/certification/1: models"):
        Certification.from_json("{}")


def test_range_is_measured_where_the_data_allows_it(make_model: MakeModel, tmp_path: Path) -> None:
    measured = certify_images([make_model()], memory_dataset(8, 4), QUICK, device=CPU)
    assert measured.models[0].scale is not None
    assert "measured on 5 training images" in measured.models[0].scale.source
    folder = write_images(tmp_path / "images", count=2)
    with pytest.raises(ModelLoadError, match="--score-range"):
        certify_images([make_model()], [folder], QUICK, device=CPU)


def test_the_model_keeps_its_state(make_model: MakeModel) -> None:
    model = make_model(scale=RANGE)
    certify_images([model], memory_dataset(8, 4), QUICK, device=CPU)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_options_change_the_methods_that_have_them() -> None:
    settings = CertifySettings(methods=("ms:sigma=0.3", "rs", "drs"), sigma=0.2, radius=0.1, denoiser="blur")
    assert build_smoothers(settings) == {
        "ms:sigma=0.3": MedianSmoothing(sigma=0.3, radius=0.1),
        "rs": MeanSmoothing(sigma=0.2, radius=0.1),
        "drs": MeanSmoothing(sigma=0.2, radius=0.1, denoiser="blur", clamp=True),
    }
    with pytest.raises(UsageError, match="none of the methods ms, rs has the setting 'denoiser'"):
        build_smoothers(CertifySettings(methods=("ms", "rs"), denoiser="blur"))
    with pytest.raises(UsageError, match="method 'ms': MedianSmoothing needs sigma"):
        build_smoothers(CertifySettings(sigma=-1.0))
    with pytest.raises(UsageError, match=r"methods: .*at least 1"):
        CertifySettings(methods=())


def test_denoisers_are_named_by_words(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    monkeypatch.setattr(input_smoothing, "read_purifier", lambda word: words.append(word) or Halving())
    settings = CertifySettings(methods=("ms", "dms"), samples=40, denoiser=f"{__name__}:Halving", limit=3)
    found = certify_images([make_model(scale=RANGE)], memory_dataset(8, 4), settings, device=CPU)
    assert set(words) == {f"{__name__}:Halving"}
    methods = found.models[0].methods
    assert methods["dms"].settings["denoiser"] == f"{__name__}:Halving"
    assert 0 < methods["dms"].delta < methods["ms"].delta  # type: ignore[operator]


def test_another_guarantee_is_said(make_model: MakeModel) -> None:
    local = f"{__name__}:Local"
    assert SMOOTHERS.read(f"{local}:radius=0.1") == Local(radius=0.1)
    assert build_smoothers(CertifySettings(methods=("ms", local), sigma=0.2, radius=0.1)) == {
        "ms": MedianSmoothing(sigma=0.2, radius=0.1),
        local: Local(radius=0.1),  # whose sigma is no noise on pixels
    }
    settings = CertifySettings(methods=(local,), limit=2)
    found = certify_images([make_model()], memory_dataset(8, 4), settings, device=CPU)
    assert found.models[0].methods[local].guarantee == "local, first-order"
    assert any(f"{local} is local, first-order" in note for note in notes(found))
    assert "<svg" not in rendered(found)  # nothing is bounded, and one score for all ranks nothing


def test_notes_say_how_small_the_radius_is(found: Certification) -> None:
    said = " ".join(notes(found))
    assert "32×40 image has L2 norm 0.24, 4.86 times the radius of 0.05" in said
    assert "estimate from finitely many noisy copies is random" in said
    (wide,) = (model.model_copy(update={"size": (384, 384), "step_l2": 2.608}) for model in found.models[:1])
    assert "384×384 image has L2 norm 2.6, 52.2 times" in " ".join(notes(found.model_copy(update={"models": (wide,)})))


def test_page_is_one_file_with_table_charts_and_json(found: Certification) -> None:
    hostile = found.models[0].model_copy(update={"name": "<b>&</script>"})
    page = rendered(found.model_copy(update={"models": (hostile, found.models[1])}))
    assert page.count("<svg") == 2
    assert "<b>&" not in page
    assert "http" not in page.replace("http-equiv", "").replace("https://matplotlib", "")
    assert "model1" in page
    stored = page.partition('id="certification">')[2].partition("</script>")[0]
    assert Certification.from_json(stored).models[0].name == "<b>&</script>"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return two model files of ours, a folder of images and its labels."""
    models = []
    for seed, name in enumerate(("base", "hardened")):
        path = tmp_path / f"{name}.safetensors"
        network = trace(small_network(seed), torch.zeros(1, 3, 32, 40))
        scale = ScoreScale(-1, 1)
        save_artifact(QualityModel(network, Preprocessing(size=(32, 40)), scale=scale), path, recipe={}, provenance={})
        models.append(path)
    return [*models, write_images(tmp_path / "images", count=12)]


def test_files_get_a_table_of_bounds(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, _, folder = files
    monkeypatch.chdir(folder)  # so that names are short enough for one line
    done = run("certify", base, "000.png", "001.png", "--samples", 50, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    for words in ("000.png", "001.png", "lower", "upper", "global", "times the radius of 0.05", "2 image files"):
        assert words in " ".join(done.stdout.split())  # wherever lines were broken
    assert "certifying base by ms" in done.stderr


def test_data_gets_a_comparison_and_a_page(files: list[Path], tmp_path: Path) -> None:
    base, hardened, folder = files
    page = tmp_path / "new" / "certificates.html"
    options = ["--data", f"csv:{folder / 'labels.csv'}", "--limit", 3, "--samples", 50, "--report", page]
    methods = ["--method", "ms", "--method", "rs:sigma=0.25", "--batch-size", 50, "--radius", 0.02, "--device", "cpu"]
    done = run("certify", hardened, "--baseline", base, *options, *methods, "--json")
    assert done.exit_code == 0, done.stderr
    found = Certification.from_json(done.stdout)
    assert [model.name for model in found.models] == ["base", "hardened"]
    assert found.baseline == "base"
    assert found.data is not None
    assert (found.data.split, found.data.images) == ("test", 3)
    figures = found.models[1].methods["rs:sigma=0.25"]
    assert (figures.settings["sigma"], figures.settings["radius"]) == (0.25, 0.02)
    assert figures.ratio_to_baseline is not None
    assert found.models[1].seconds_plain < figures.seconds_certified  # type: ignore[operator]
    assert "base (baseline)" in page.read_text(encoding="utf-8")
    shown = run("certify", base, *options, "--device", "cpu", "--overwrite").stdout
    assert "SROCC" in shown
    assert "003.png" not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["MODEL", "IMAGES", "--method", "mss"], 2, "unknown smoother 'mss'; did you mean ms? known are ms, rs"),
        (["MODEL", "IMAGES", "--sigma", "0"], 2, "MedianSmoothing needs sigma"),
        (["MODEL", "IMAGES", "--denoiser", "x"], 2, "unknown purifier 'x'"),
        (["MODEL", "IMAGES", "--denoiser", "blur"], 2, "has the setting 'denoiser'"),
        (["MODEL", "IMAGES", "--data", "synthetic"], 2, "nothing for --data"),
        (["IMAGES"], 2, "name a MODEL file"),
        (["absent.pt", "IMAGES"], 3, "no model file absent.pt"),
        (["MODEL", "absent.png"], 5, "no such image: absent.png"),
        (["MODEL", "--data", "folder:absent"], 5, "absent"),
        (["MODEL", "IMAGES", "--report", "IMAGES"], 2, "is a folder"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, files: list[Path]
) -> None:
    names = {"MODEL": str(files[0]), "IMAGES": str(files[2])}
    done = run("certify", *(names.get(argument, argument) for argument in arguments))
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


def test_broken_images_are_refused_before_any_work(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = run("certify", files[0], files[2], tmp_path / "broken.png", "--device", "cpu")
    assert done.exit_code == 5
    assert "broken.png" in done.stderr
    assert "certifying" not in done.stderr
