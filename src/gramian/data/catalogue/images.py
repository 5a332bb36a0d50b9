"""Pictures, and sets of small labelled ones."""
# ruff: noqa: E501 - a table reads best with a row a line

from gramian.data.catalogue.entry import Entry
from gramian.data.catalogue.wheels import SCIKIT_IMAGE


def _picture(name: str, shape: str, what: str, file: str = "", **options: object) -> Entry:
    return Entry(name, what, "image", shape, wheel=SCIKIT_IMAGE, files=(file or f"{name}.png",), options=options)


def _sample(name: str, what: str) -> Entry:
    licence = "CC BY (see the README beside them)"
    return Entry(name, what, "image", "427 x 640 x 3", "sklearn", files=(f"images/{name}.jpg",), licence=licence)


IMAGES = (
    Entry(
        "digits", "handwritten digits", "digits", "1797 x 8 x 8, 10 classes", "sklearn", files=("data/digits.csv.gz",),
        licence="BSD-3-Clause package; a copy of the UCI set",
    ),
    Entry(
        "mnist_test", "handwritten digits: the 10,000 test images", "idx_images", "10000 x 28 x 28, 10 classes", "public",
        files=("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"), licence="CC BY-SA 3.0",
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
            "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
        ),
    ),
    Entry(
        "lfw_subset", "100 faces, then 100 patches without one", "faces", "200 x 25 x 25, 2 classes",
        wheel=SCIKIT_IMAGE, files=("lfw_subset.npy",),
    ),
    _sample("china", "a temple"),
    _sample("flower", "a dahlia"),
    _picture("brick", "512 x 512", "texture of a brick wall"),
    _picture("grass", "512 x 512", "texture of grass"),
    _picture("gravel", "512 x 512", "texture of gravel"),
    _picture("camera", "512 x 512", "a man with a camera"),
    _picture("moon", "512 x 512", "the moon's surface"),
    _picture("astronaut", "512 x 512 x 3", "a portrait"),
    _picture("coffee", "400 x 600 x 3", "a cup of espresso"),
    _picture("chelsea", "300 x 451 x 3", "a tabby cat"),
    _picture("rocket", "427 x 640 x 3", "a launch", "rocket.jpg"),
    _picture("retina", "1411 x 1411 x 3", "an eye's fundus", "retina.jpg"),
    _picture("hubble", "872 x 1000 x 3", "the Hubble deep field", "hubble_deep_field.jpg"),
    _picture("ihc", "512 x 512 x 3", "stained tissue"),
    _picture("cell", "660 x 550", "a cell"),
    _picture("coins", "303 x 384", "coins from Pompeii"),
    _picture("page", "191 x 384", "a scanned page"),
    _picture("text", "172 x 448", "a photographed page"),
    _picture("clock", "300 x 400", "a clock in motion", "clock_motion.png"),
    _picture("horse", "328 x 400", "a horse's silhouette", mode="L"),
    _picture("microaneurysms", "102 x 102", "a detail of a retina"),
    _picture("phantom", "400 x 400", "the Shepp–Logan phantom", mode="L"),
    Entry(
        "motorcycle", "two views and their disparity", "stereo", "500 x 741 x 3, disparity", wheel=SCIKIT_IMAGE,
        files=("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz"),
    ),
)  # fmt: skip
