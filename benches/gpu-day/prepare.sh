#!/usr/bin/env bash
# Builds what run.sh needs on the machine with the GPU, and packs it into `.gpu/`, which git ignores.
#
#     bash benches/gpu-day/prepare.sh      in the project's root, on any x86-64 Linux machine, after the last commit
#
#   CHIP=90          compute capability of the GPU, 90 for 9.0: one chip compiles in a minute. CHIP=all: what a
#                    user's build has, which takes six
#   PEERS=1          0 leaves out FlashInfer's kernels
#   SIZE_MAX_MIB=64  the most that may have to be copied: `.gpu` and the files that git knows or would
#   ROWS=FILE.npy    recorded f16 rows, carried as far as they fit; by default those that the tests look for
#   VLLM_TRITON=FILE vLLM's topk_topp_triton.py, timed beside the others
#
# Ten minutes of two cores from an empty cache, three where the project is built. What has not changed is not
# built again.
set -euo pipefail
exec </dev/null
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cd "$top"
kit=$top/.gpu
chip=${CHIP:-90}
size_max=$((${SIZE_MAX_MIB:-64} << 20))
recording=${ROWS:-$top/../shared/logits/gemma3_270m_64x262144.f16.npy}
mkdir -p "$kit"
[ -z "$(git status --porcelain)" ] || echo "WARNING: the tree has changes; a record should name a commit"

export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$top/target}"
readonly TOOLS="$CARGO_TARGET_DIR/ci"
die() { echo "FAILED: $*" >&2; exit 1; }
mkdir -p "$TOOLS/gpu-day"
# shellcheck source=.ci/install
source .ci/install
need_nvcc
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# A compiler that leaves out the chips that nobody will run on: the code for the others is the same.
real=$(command -v nvcc)
cat > "$stage/nvcc" <<WRAPPER
#!/usr/bin/env bash
kept=()
while [ \$# -gt 0 ]; do
    if [ "\$1" = -gencode ] && [ "$chip" != all ]; then
        case \$2 in *code=sm_$chip) kept+=("\$1" "\$2") ;; esac
        shift 2
    else
        kept+=("\$1")
        shift
    fi
done
exec "$real" "\${kept[@]}"
WRAPPER
# Written only where it is another one: with a newer file everything would be built again.
cmp -s "$stage/nvcc" "$TOOLS/gpu-day/nvcc" || install -m 755 "$stage/nvcc" "$TOOLS/gpu-day/nvcc"
rm "$stage/nvcc"
export NVCC="$TOOLS/gpu-day/nvcc"

echo "== logitd, its tests for GPUs, the sweep"
# In one command, so that the library is compiled once.
cargo build --release --locked --bin logitd --test gpu --bench gpu_sweep \
    --message-format=json-render-diagnostics > "$stage/messages"
built() {
    python3 - "$stage/messages" "$1" <<'PYTHON'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[2]:
        print(message["executable"])
PYTHON
}
for name in logitd gpu gpu_sweep; do strip -o "$stage/$name" "$(built "$name")"; done
rm "$stage/messages"
[[ "$("$stage/logitd" info --json)" == *'"kernels_built_in":true'* ]] || die "the binary carries no kernels"

# What the other samplers need. A source that this compiler does not take is left out, and that is said.
peers="$TOOLS/gpu-day/peers"
build_peers() {
    local python="$TOOLS/cuda/bin/python" architecture=$chip objects=() source object
    case $chip in all) architecture=90a ;; 90 | 100 | 120) architecture=${chip}a ;; esac
    mkdir -p "$peers"
    if [ "$(cat "$peers/version" 2>/dev/null)" != "flashinfer-python $FLASHINFER_VERSION" ]; then
        rm -rf "${peers:?}"/*
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$peers" \
            "flashinfer-python==$FLASHINFER_VERSION"
        (cd "$peers" && "$python" -m zipfile -e flashinfer_python-*.whl x && mv x/flashinfer/data/include include \
            && mv x/flashinfer/data/csrc/cake_sampling/generated generated && rm -rf x flashinfer_python-*.whl)
        echo "flashinfer-python $FLASHINFER_VERSION" > "$peers/version"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps 'nvidia-curand<11'
    python3 "$here/peers/cake.py" "$peers/generated" "$peers/cake.cu"
    for source in "$here/peers/floor.cu" "$here/peers/peers.cu" "$peers/cake.cu"; do
        object="$peers/$(basename "$source" .cu)-$architecture.o"
        if [ ! -f "$object" ] || ! cmp -s "$source" "$object.of"; then
            if ! "$real" -std=c++17 -O3 -Xcompiler -fPIC -w -c -o "$object" -I "$peers/include" "$source" \
                -gencode "arch=compute_$architecture,code=sm_$architecture" -DFLASHINFER_ENABLE_F16 -DFLASHINFER_ENABLE_BF16
            then
                echo "WARNING: $(basename "$source") does not compile: left out"
                continue
            fi
            cp "$source" "$object.of"
        fi
        objects+=("$object")
    done
    [ ${#objects[@]} -gt 0 ] || return 0
    c++ -shared -o "$stage/libpeers.so" "${objects[@]}" -L"$(dirname "$real")/../lib" \
        -lcudart_static -lpthread -ldl -lrt
    cp "$peers/version" "$stage/peers-version"
}
# The version that cake.py takes apart.
readonly FLASHINFER_VERSION=0.7.2
if [ "${PEERS:-1}" = 1 ]; then
    echo "== FlashInfer's kernels"
    build_peers
fi

cp "$here/peers/peers.py" "$here/../peers/common.py" "$here/summary.py" "$stage/"
[ -z "${VLLM_TRITON:-}" ] || cp "$VLLM_TRITON" "$stage/vllm_topk_topp_triton.py"
echo "$top" > "$stage/compiled-at"
(cd "$stage" && python3 -m tarfile -c "$kit/bin.txz" ./*)
cp "$here/run.sh" "$kit/run.sh"
{
    git log -1 --format='commit %H of %cs: %s'
    git status --porcelain | sed -n 1,5p
    "$real" --version | grep release
    cat "$stage/peers-version" 2>/dev/null || true
} > "$kit/commit"

size_of() { awk '{ sum += $1 } END { print sum + 0 }'; }
carried() { find "$kit" -type f -printf '%s\n' | size_of; }
tree=$(git ls-files -co --exclude-standard -z | xargs -0 stat -c %s 2>/dev/null | size_of)
rm -f "$kit/rows.npy.gz"
if [ -f "$recording" ]; then
    gzip -6 -c "$recording" > "$kit/rows.npy.gz"
    if [ $(($(carried) + tree)) -gt "$size_max" ]; then
        echo "the recorded rows do not fit within SIZE_MAX_MIB: left out; the test of them will say that it is skipped"
        rm "$kit/rows.npy.gz"
    fi
fi
# A machine with an older C library runs none of it.
newest=$(objdump -T "$stage/logitd" "$stage/gpu" "$stage/gpu_sweep" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "== the C library must be $newest or later"
find "$kit" -type f -printf '%10s  %P\n' | sort -rn
total=$(($(carried) + tree))
[ "$total" -le "$size_max" ] || die ".gpu and the tree have $total bytes, more than $size_max: raise SIZE_MAX_MIB, or PEERS=0"
echo "to copy: $(carried) bytes of .gpu; with the working tree $total of $size_max"
