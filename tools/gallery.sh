#!/usr/bin/env bash
# Make the pictures of docs/gallery.md anew, each by the command that stands beside it there.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
gramian inspect smollm2-135m --no-fisher --out "$work/smollm2"
gramian inspect all-minilm-l6-v2 --no-fisher --out "$work/minilm"
gramian inspect efficientnet-lite0 --no-fisher --out "$work/efficientnet"
for method in eigen-cam lrp occlusion; do gramian apply explain-image "$method" --out "$work/$method"; done
gramian apply explain-image eigen-cam --data chelsea --set facets=3 --out "$work/facets"
gramian apply explain-similarity bilrp --out "$work/bilrp"
gramian apply scale-up mup --out "$work/mup"
gramian apply scale-up standard --out "$work/standard"
gramian apply forecast spacetime --out "$work/forecast"
mkdir -p docs/gallery
for model in smollm2 minilm efficientnet; do cp "$work/$model/figures/states.svg" "docs/gallery/$model-states.svg"; done
cp "$work/efficientnet/figures/spectra.svg" docs/gallery/efficientnet-spectra.svg
.venv/bin/python - "$work" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

work, names = Path(sys.argv[1]), ("chelsea", "china", "flower", "rocket")
for method in ("eigen-cam", "lrp", "occlusion"):
    row = Image.new("RGB", (224 * len(names), 224))
    for k, name in enumerate(names):
        row.paste(Image.open(work / method / "model" / f"{name}.png"), (224 * k, 0))
    row.save(f"docs/gallery/{method}.jpg", quality=88)
row = Image.new("RGB", (224 * 3, 224))
for k, file in enumerate(sorted((work / "facets" / "model").glob("facet-*.png"))):
    row.paste(Image.open(file).resize((224, 224)), (224 * k, 0))
row.save("docs/gallery/facets.jpg", quality=88)
PYTHON
cp "$work/bilrp/model/pair0.png" docs/gallery/bilrp.png
cp "$work/mup/model/sweep.png" docs/gallery/mup.png
cp "$work/standard/model/sweep.png" docs/gallery/standard.png
cp "$work/forecast/model/forecast.png" docs/gallery/forecast.png
