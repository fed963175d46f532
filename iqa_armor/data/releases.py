"""Published datasets that are tables of labels beside folders of images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from iqa_armor.data.base import Dataset, ImageSet, Split
from iqa_armor.data.images import FileImages
from iqa_armor.data.labelled import LabelledImage, Places, Problems, find_labels, labelled_dataset, plain_name
from iqa_armor.data.table import SPLIT_NAMES, Row, read_labels
from iqa_armor.errors import DataError, expanded, is_file

_NO_SPLIT = "no official split is in its label file: figures on its test images are not those of publications"


@dataclass(frozen=True)
class Release:
    """How one published dataset is laid out; called, it opens one from its folder or the one above."""

    get: str  # where it is and what to unpack
    files: tuple[str, ...]  # patterns of its label files, the preferred first; all that fit one pattern are read
    folders: tuple[str, ...]  # where its images lie; the first folder that holds any is taken
    image: tuple[str, ...]  # columns that name an image, the preferred first; without names they are counted from 1
    mos: tuple[str, ...]  # columns of its score
    columns: tuple[str, ...] = ()  # further columns that it needs
    name: Callable[[Row], str] | None = None  # file of an image, where that is more than its name
    # Where scores are distances from undistorted images, which have 0: what those get, minus the distance.
    best: float | None = None
    # Column of the official split, which some of the label files lack, and what it may hold.
    split: tuple[str, Mapping[str, Split]] | None = None
    # What an image of a name shows; images of one scene are in one split, by a hash of it where there is none.
    scene: Callable[[Row, str], str] = lambda row, name: name  # noqa: ARG005
    originals: str = ""  # folder of the pristine originals, which are called like their scenes
    sheet: str = ""  # sheet of an Excel file
    labels: str = Dataset.labels  # what its scores are

    def __call__(self, spec: str, location: str) -> Dataset:
        """Return the dataset; a DataError lists what it lacks."""
        files, problems = find_labels(location, self.files, how_to_get=self.get), Problems(spec)
        rows = [row for file in files for row in self._rows(file)]
        depth = next(name.count("/") for name in self.files if files[0].match(name))
        root = files[0].parents[depth]
        folder = self._folder((root, expanded(location)), [name for _, name, _ in rows])
        images, pristine = self._places(folder), self._places(root / self.originals)
        has_split = self.split is not None and all(self.split[0] in row.values for row, _, _ in rows)
        found = []
        for row, name, mos in rows:
            path, scene, score = images.find(name) if name else None, self.scene(row, name), row.score(mos, problems)
            if path is None:
                problems.add("image names that are empty or paths", repr(name))
            if not scene:
                problems.add("rows without a reference", f"line {row.line}")
            split = row.split(self.split[0], problems, self.split[1]) if self.split and has_split else None
            score = score if self.best is None else self.best - score
            reference = pristine.find(scene) if self.originals and scene else None
            found.append(LabelledImage(name, path or folder, score, split, scene, reference))
        made = labelled_dataset(found, problems, folder=folder, labels=self.labels, advice=self.get, files=files)
        return replace(made, remarks=(f"{spec}: {_NO_SPLIT}",)) if self.split and not has_split else made

    def _rows(self, file: Path) -> list[tuple[Row, str, str]]:
        """Return the rows of a label file with the name of the image and the column of the score."""
        table = read_labels(file, self.columns, sheet=self.sheet)
        kinds = (self.image, self.mos)
        image, mos = (next((name for name in names if name in table.header), names[0]) for names in kinds)
        table.require((image, *self.columns, mos))
        return [(row, self.name(row) if self.name else row[image], mos) for row in table.rows]

    def _folder(self, roots: Sequence[Path], names: Sequence[str]) -> Path:
        places = [root / folder for folder in self.folders for root in dict.fromkeys(roots)]
        for place in (place for place in places if place.is_dir()):
            images = self._places(place)
            if any((path := images.find(name)) is not None and path.is_file() for name in names):
                return place
        raise DataError(f"{roots[0]} holds none of the images in {' or '.join(self.folders[:2])}. {self.get}")

    @staticmethod
    def _places(folder: Path) -> Places:
        return Places((folder,), (folder,), ignores_case=True)


def _before(mark: str) -> Callable[[Row, str], str]:
    return lambda _, name: name.partition(mark)[0]


def _in_column(name: str) -> Callable[[Row, str], str]:
    return lambda row, _: row[name]


_KONIQ_SIZES, _KONIQ_PLACES = ("1024x768", "512x384"), ("{}", "koniq10k_{0}/{0}", "koniq10k_{}", "images/{}")

# Hosu et al., "KonIQ-10k", IEEE TIP 2020, arXiv:1910.06180. The z-scores are the MOS of the file with the split.
KONIQ10K = Release(
    get="KonIQ-10k is at https://database.mmsp-kn.de/koniq-10k-database.html: unpack koniq10k_1024x768.zip or "
    "koniq10k_512x384.zip and put koniq10k_distributions_sets.csv into the same folder",
    files=("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv"),
    folders=(*(place.format(size) for size in _KONIQ_SIZES for place in _KONIQ_PLACES), "images", "."),
    image=("image_name",),
    mos=("mos_zscore", "mos"),
    split=("set", SPLIT_NAMES),
)
# Lin, Hosu and Saupe, "KADID-10k", QoMEX 2019. Its `dmos` averages a five-point scale of impairment on which 5 is
# imperceptible, so it rises with quality in spite of its name.
KADID10K = Release(
    get="KADID-10k is at https://database.mmsp-kn.de/kadid-10k-database.html: unpack kadid10k.zip, which holds "
    "dmos.csv and images/",
    files=("dmos.csv",),
    folders=("images",),
    image=("dist_img",),
    mos=("dmos",),
    columns=("ref_img",),
    scene=_in_column("ref_img"),
    originals="images",
    labels="dmos as published: it rises with quality, 1 to 5",
)
# Fang et al., "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020.
_SPAQ_FILE = "Annotations/MOS and Image attribute scores"
SPAQ = Release(
    get=f"SPAQ is at https://github.com/h4nwei/SPAQ: unpack TestImage/ and {_SPAQ_FILE}.xlsx",
    files=(f"{_SPAQ_FILE}.csv", f"{_SPAQ_FILE}.xlsx"),
    folders=("TestImage",),
    image=("image name",),
    mos=("mos",),
    labels="MOS as published, 0 to 100",
)
# Ponomarenko et al., "Image database TID2013", Signal Processing: Image Communication 30, 2015.
TID2013 = Release(
    get="TID2013 is at https://www.ponomarenko.info/tid2013.htm: unpack tid2013.rar, which holds mos_with_names.txt, "
    "distorted_images/ and reference_images/",
    files=("mos_with_names.txt",),
    folders=("distorted_images",),
    image=("2",),
    mos=("1",),
    scene=lambda _, name: name.partition("_")[0].upper(),
    originals="reference_images",
    labels="MOS as published, 0 to 9",
)
# Larson and Chandler, "Most apparent distortion", Journal of Electronic Imaging 19(1), 2010.
_CSIQ_NAMES = MappingProxyType({"noise": "awgn", "jpeg 2000": "jpeg2000"})


def _csiq_name(row: Row) -> str:
    kind = _CSIQ_NAMES.get(row["dst_type"].lower(), row["dst_type"].lower())
    return f"{kind}/{row['image']}.{kind}.{row['dst_lev'].partition('.')[0]}.png"


CSIQ = Release(
    get="CSIQ is at https://s2.smu.edu/~eclarson/csiq.html: unpack csiq.DMOS.xlsx, whose sheet all_by_image is read, "
    "src_imgs/ and dst_imgs/",
    files=("csiq.DMOS.csv", "csiq.DMOS.xlsx"),
    folders=("dst_imgs", "."),
    image=("image",),
    mos=("dmos",),
    columns=("dst_type", "dst_lev"),
    name=_csiq_name,
    best=1,
    scene=_in_column("image"),
    originals="src_imgs",
    sheet="all_by_image",
    labels="1 − DMOS, since DMOS falls with quality",
)
# Gu et al., "PIPAL", ECCV 2020, arXiv:2007.12142.
PIPAL = Release(
    get="PIPAL is at https://github.com/HaomingCai/PIPAL-dataset: unpack Train_Label/, Train_Ref/ and all distorted "
    "images into Train_Dist/",
    files=("Train_Label/*.txt",),
    folders=("Train_Dist", "Train_Distort", "Dist_Imgs"),
    image=("1",),
    mos=("2",),
    scene=_before("_"),
    originals="Train_Ref",
    labels="Elo scores as published: they rise with quality",
)
# Ying et al., "From Patches to Pictures (PaQ-2-PiQ)", CVPR 2020, arXiv:1912.10088; also called LIVE-FB.
FLIVE = Release(
    get="FLIVE is at https://github.com/niu-haoran/FLIVE_Database: unpack labels_image.csv and database/",
    files=("labels_image.csv", "labels<=640_padded.csv"),
    folders=("database", "<=640_padded", "."),
    image=("name", "name_image"),
    mos=("mos", "mos_image"),
    split=("is_valid", {"true": "validation", "1": "validation", "false": "training", "0": "training"}),
    labels="MOS as published, 0 to 100",
)
# Li et al., "AGIQA-3K", IEEE TCSVT 2023, arXiv:2306.04717.
AGIQA3K = Release(
    get="AGIQA-3K is at https://github.com/lcysyzxdxc/AGIQA-3k-Database: put data.csv beside the images",
    files=("data.csv",),
    folders=("images", "AGIQA-3K", "."),
    image=("name",),
    mos=("mos_quality",),
    columns=("prompt",),
    scene=_in_column("prompt"),
    labels="MOS of quality as published, 0 to 5",
)
# Kurakin et al., "Adversarial Attacks and Defences Competition", 2018, arXiv:1804.00097; its images have no scores.
_NIPS2017 = "The NIPS 2017 adversarial-learning development set consists of images.csv and images/*.png"


def open_nips2017(spec: str, location: str) -> Dataset:
    """Return the images of a folder with `images.csv` (column ImageId) and `images/*.png`, at their own size."""
    file, problems = find_labels(location, ["images.csv"], how_to_get=_NIPS2017)[0], Problems(spec)
    table = read_labels(file, ("imageid",))
    table.require(("imageid",))
    names = [plain_name(f"{row['imageid']}.png", problems) for row in table.rows]
    files = tuple(file.parent / "images" / name for name in names)
    problems.extend("duplicate images", [name for name, count in Counter(names).items() if count > 1])
    problems.extend("missing images", [f"images/{each.name}" for each in files if not is_file(each)])
    problems.raise_if_any()
    return Dataset(spec, {"test": ImageSet(tuple(names), FileImages(files))}, keeps_size=True)
