#!/usr/bin/env bash
# The five stages at a tiny budget, by the command lines that a user types: `make demo`.
# Everything goes to demo_out/ (made anew) and data_augmented/demo_*.csv.
set -euo pipefail
cd "$(dirname "$0")/.."
source .venv/bin/activate

PEOPLE=20  # asked about, of the 100 that are trained on
STEPS=40   # of 8 texts each

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

rm -rf demo_out
mkdir demo_out

echo "=== 1. What each token receives of two models' attention"
for model in gemma3-270m smollm2-135m; do
  run python save_attention.py model=models/$model dataset=data/biography_synthetic.csv save_name=demo_out/attn_$model
done

echo; echo "=== 2. The difference of the two, on SmolLM2's tokens"
run python contrast_attention.py attn_dump_large=demo_out/attn_gemma3-270m \
  attn_dump_small=demo_out/attn_smollm2-135m attn_diff=demo_out/attn_difference
run python demo/ranked_tokens.py demo_out/attn_difference data/biography_synthetic.csv

echo; echo "=== 3. Ten variants of each text: tokens dropped at random, and by their rank in the difference"
run python data_augmentation.py augment_type=random alpha=0.7 multiply=10 \
  model=models/smollm2-135m dataset=data/biography_synthetic.csv save_name=demo_random
run python data_augmentation.py augment_type=attention alpha=0.7 beta=0.05 multiply=10 \
  attn_weights=demo_out/attn_difference \
  model=models/smollm2-135m dataset=data/biography_synthetic.csv save_name=demo_difference

echo; echo "=== 4. and 5. SmolLM2 trained on the plain text and on each augmentation, and asked"
for arm in none random difference; do
  dataset=data_augmented/demo_$arm.csv
  if [ $arm = none ]; then dataset=data/biography_synthetic.csv; fi
  run python train.py model=models/smollm2-135m dataset=$dataset model_dir=demo_out/model_$arm quant=null \
    trainer.max_steps=$STEPS trainer.save_strategy=steps +trainer.save_steps=$STEPS
  run python evaluate.py model_dir=demo_out/model_$arm/checkpoint-$STEPS people=$PEOPLE choice=false
done

echo; echo "=== The three arms"
run python demo/table.py none=demo_out/model_none/checkpoint-$STEPS \
  random=demo_out/model_random/checkpoint-$STEPS difference=demo_out/model_difference/checkpoint-$STEPS
cat <<END

This is a demonstration at a tiny budget: $STEPS steps of training, $PEOPLE of 100 people asked, one seed. It shows that the
stages fit together; it says nothing about which arm is better.

Where the files lie:
  demo_out/attn_*.pkl                                 attention dumps and their difference
  data_augmented/demo_random.csv, demo_difference.csv  the augmented texts
  demo_out/model_*/checkpoint-$STEPS                      the trained adapters
  demo_out/model_*/checkpoint-$STEPS/evaluation           every question and answer (predictions.csv), scores (metrics.json)
END
