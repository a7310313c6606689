#!/usr/bin/env bash
# The first biography under the difference of the demonstration's two models: `make picture`. It writes docs/difference.png
# and, for a browser, demo_out/picture/difference.html.
set -euo pipefail
cd "$(dirname "$0")/.."
source .venv/bin/activate

FOLDER=demo_out/picture
mkdir -p $FOLDER
head -n 2 data/biography_synthetic.csv > $FOLDER/text.csv
for model in gemma3-270m smollm2-135m; do
  python save_attention.py model=models/$model dataset=$FOLDER/text.csv save_name=$FOLDER/$model dtype=float32
done
for picture in $FOLDER/difference.html docs/difference.png; do
  python contrast_attention.py attn_dump_large=$FOLDER/gemma3-270m attn_dump_small=$FOLDER/smollm2-135m \
    attn_diff=$FOLDER/difference dataset=$FOLDER/text.csv heatmap=$picture
done
