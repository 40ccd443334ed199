#!/bin/sh
# Cheaper pre-training, compared with the plain one at equal wall time and at equal audio heard: several masks of an utterance,
# visible frames only, both (data2vec 2.0), blocks at 25 Hz, log-mels instead of convs. Frozen probes decide, for a variant's
# loss is a quantity of its own. Two runs side by side, a core each: leave the machine alone meanwhile.
#
# usage: AUDIO_SSL_CORPORA=DIR tools/cheaper.sh [OUT] [MINUTES] [HOURS]      (OUT: runs/cheaper; 10 minutes; 10 hours heard)
set -eu
cd "$(dirname "$0")/.."
corpora=${AUDIO_SSL_CORPORA:?must name the folder that holds the corpora}
out=${1:-runs/cheaper}
minutes=${2:-10}
hours=${3:-10}
PATH="$PWD/.venv/bin:$PATH"
mkdir -p "$out"
[ -d "$out/data" ] || python tools/quality.py data --corpora "$corpora" --out "$out/data"

settings() { # of a variant
  case $1 in
    plain) ;;
    masks) echo --set objective.num_masks=4 ;;
    visible) echo --set objective.encode=visible --set objective.decoder_dim=128 ;;
    visible_masks) echo --set objective.encode=visible --set objective.decoder_dim=128 --set objective.num_masks=4 ;;
    squeezed) echo --set model.context_stride=2 ;;
    mel) echo --set model.front_end=mel ;;
  esac
}

train() { # core, variant
  for budget in "--minutes $minutes" "--audio-hours $hours"; do
    # shellcheck disable=SC2046,SC2086 # several words each
    taskset -c "$1" python tools/quality.py train --system audio_ssl --config pretrain/conv_tiny --threads 1 --data "$out/data" \
      --points 6 --out "$out/$2_$(echo "${budget#--}" | tr " " _)" $budget $(settings "$2")
  done
}

for pair in "plain masks" "visible visible_masks" "squeezed mel"; do
  train 0 "${pair% *}" &
  first=$!
  train 1 "${pair#* }" &
  second=$!
  wait $first
  wait $second
done
probe() { # core, kind of budget
  taskset -c "$1" python tools/quality.py probe "$out"/*_"$2"* --threads 1 --data "$out/data" --out "$out/probes-$2.json"
}
probe 0 minutes &
first=$!
probe 1 audio-hours
wait $first
