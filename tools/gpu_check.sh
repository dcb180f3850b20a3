#!/usr/bin/env bash
# Everything that needs a GPU, in one command of less than 10 minutes on one GPU:
#
#     tools/gpu_check.sh OUT_DIR [PHASE ...]       TOTAL=580: seconds for all of it
#
# builds the kernels for this GPU where they are not built (nvcc), runs their tests, compute-sanitizer
# over one pass of each, the benchmark of kernels and that of training steps. Every phase has a time
# limit, and one that fails does not stop the next. OUT_DIR gets a log for each, JSON of the
# benchmarks, and table.md, which is printed last. Exit status 0: all were fine.
#
# PHASE: build tests sanitizer kernels train; all of them if none is named. PYTHON picks the
# interpreter; KERNELS, TRAIN and TESTS are further arguments of the benchmarks and of pytest.
# Trivium need not be installed; torch, megatron-core, pytest and what setup.py lists must be.
set -uo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
OUT=$1
shift
PHASES=${*:-build tests sanitizer kernels train}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$OUT"
rm -f "$OUT"/{build,tests,sanitizer,kernels,train}.log "$OUT"/{kernels,train}.json "$OUT"/table.md
OUT=$(cd "$OUT" && pwd)

# `import trivium` without an installation: the rooms under one root
if ! "$PYTHON" -c 'import trivium.kernels.registry' 2>/dev/null; then
  mkdir -p build/typing/trivium
  for room in engine kernels data_pipeline; do
    ln -sfn "../../../$room" "build/typing/trivium/$room"
  done
  export PYTHONPATH="$PWD/build/typing:${PYTHONPATH:-}"
fi
export PYTHONUNBUFFERED=1
TOTAL=${TOTAL:-580}

began=$SECONDS
status=0
lines=""

left() { echo $((TOTAL - SECONDS + began)); }

# phase NAME LIMIT COMMAND...: run it within LIMIT seconds; its output goes to OUT/NAME.log
phase() {
  local name=$1 limit=$2 start=$SECONDS code=0 said=fine took
  shift 2
  case " $PHASES " in *" $name "*) ;; *) return 0 ;; esac
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 10 ]; then
    said="left out, no time"
    status=1
    lines+="| $name | $said | | |"$'\n'
    return 0
  fi
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.log" 2>&1 || code=$?
  took=$((SECONDS - start))
  case $code in
    0) ;;
    124 | 137) said="stopped after $limit s" ;;
    *) said="failed with status $code" ;;
  esac
  [ $code -eq 0 ] || { status=1; tail -n 15 "$OUT/$name.log"; }
  echo "== $name: $said, $took s"
  local last
  last=$(grep -E "$SUMMARY" "$OUT/$name.log" | tail -n 1 | tr -d '=|' | cut -c 1-160)
  lines+="| $name | $said | $took s | $last |"$'\n'
}
SUMMARY='passed|failed|error|ERROR SUMMARY|[0-9] kernels in|compiled|tokens/s, engine|rounds, '

build() {
  library=${TRIVIUM_KERNELS:-kernels/libtrivium_kernels.so}
  if [ -f "$library" ]; then
    echo "0 compiled: kernels in $library are used"
  else
    "$PYTHON" -m trivium.kernels.build --arch native --cache build/kernels
  fi
}

sanitizer() {
  local tool code=0
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$tool" ] || { echo "no error: compute-sanitizer is not here, left out"; return 0; }
  # without torch's cache of memory every tensor is an allocation of its own, with its own bounds
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$tool" --tool memcheck --error-exitcode 7 \
    "$PYTHON" -m tools.benchmarks.kernel_smoke || code=$?
  return $code
}

export -f build sanitizer
export PYTHON OUT

phase build 150 bash -c build
phase tests 120 "$PYTHON" -m pytest -m gpu tests/kernels -q --maxfail=20 -p no:cacheprovider \
  ${TESTS:-}
phase sanitizer 60 bash -c sanitizer
time=$(($(left) < 160 ? $(left) : 160))
phase kernels "$time" "$PYTHON" tools/benchmark.py kernels seconds=$((time - 25)) \
  out="$OUT/kernels.json" ${KERNELS:-}
phase train "$(left)" "$PYTHON" tools/benchmark.py train seconds=$(($(left) - 45)) profile=true \
  out="$OUT/train.json" ${TRAIN:-}

{
  # the reports, without what was said on the way to them
  [ -f "$OUT/kernels.log" ] && awk '/TFLOP\/s; ours: / { said = "" } { said = said $0 "\n" }
    END { printf "%s\n", said }' "$OUT/kernels.log"
  [ -f "$OUT/train.log" ] && sed -n '/ parameters, /,$p' "$OUT/train.log" && echo
  echo "| phase | | took | in a line |"
  echo "|---|---|---|---|"
  printf '%s' "$lines"
  echo "all: $((SECONDS - began)) s, $([ $status -eq 0 ] && echo fine || echo 'NOT fine'); logs in $OUT"
} | tee "$OUT/table.md"
exit "$status"
