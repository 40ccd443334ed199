#!/bin/sh
# The main job on real speech: five small corpora in three sample rates and three codecs, two CPU cores, half an hour.
# The speakers of the validation and test parts of speechocean762 are heard neither in pre-training nor in fine-tuning.
#
# usage: AUDIO_SSL_CORPORA=DIR tools/real_speech.sh [OUT]      (OUT: runs/real_speech)
# DIR holds speechocean762, librispeech_mini, fsdd, ljspeech_mini and speech_to_intent.
set -eu
cd "$(dirname "$0")/.."
corpora=${AUDIO_SSL_CORPORA:?must name the folder that holds the corpora}
out=${1:-runs/real_speech}
PATH="$PWD/.venv/bin:$PATH"
mkdir -p "$out"
set -x

audio-ssl manifest build "$corpora/speechocean762" -o "$out/speechocean762.arrow" --language en
audio-ssl manifest build "$corpora/librispeech_mini" -o "$out/librispeech.arrow" --speaker-from '(?P<speaker>\d+)-\d+-\d+'
audio-ssl manifest build "$corpora/fsdd" -o "$out/fsdd.arrow" --speaker-from '_(?P<speaker>[a-z]+)_'
audio-ssl manifest build "$corpora/ljspeech_mini" -o "$out/ljspeech.arrow"
audio-ssl manifest build "$corpora/speech_to_intent" -o "$out/intent.arrow"
audio-ssl manifest split "$out/speechocean762.arrow" --by speaker --parts train=0.8,valid=0.08,test=0.12 -o "$out/split"
audio-ssl manifest merge "$out/split/train.arrow" "$out/librispeech.arrow" "$out/fsdd.arrow" "$out/ljspeech.arrow" \
  "$out/intent.arrow" -o "$out/unlabelled.arrow"
audio-ssl manifest stats "$out/unlabelled.arrow"

audio-ssl pretrain configs/pretrain/conv_tiny.toml --resume auto --set "data.train=['$out/unlabelled.arrow']" \
  --set "data.valid=['$out/split/valid.arrow']" --set run.dir="$out/pretrain"
audio-ssl extract "$out/pretrain" "$out/split/test.arrow" "$out/embeddings" --layer last

labels="--set data.train=['$out/split/train.arrow'] --set data.valid=['$out/split/valid.arrow']"
# shellcheck disable=SC2086 # the two settings are words of their own
audio-ssl finetune configs/finetune/small.toml --resume auto $labels --set init_from="$out/pretrain" \
  --set run.dir="$out/from_pretrained"
audio-ssl evaluate "$out/from_pretrained" "$out/split/test.arrow" -o "$out/from_pretrained.json"
# shellcheck disable=SC2086
audio-ssl finetune configs/finetune/fresh.toml --resume auto $labels --set run.dir="$out/from_random"
audio-ssl evaluate "$out/from_random" "$out/split/test.arrow" -o "$out/from_random.json"
