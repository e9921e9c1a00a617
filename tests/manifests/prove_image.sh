#!/usr/bin/env bash
# Builds the Dockerfile's cpu and compress targets without a daemon, and proves that the first serves: with real members,
# as uid 10001 on a read-only root, without capabilities, in a network namespace, asked from another. The last line says
# PROVED or NOT PROVED. As root, with buildah, debootstrap and runc:
#   apt-get install buildah debootstrap iproute2 runc
#   tests/manifests/prove_image.sh FOLDER [options of buildah bud]
# FOLDER (some 10 GB) keeps what was built; a second run uses it again. Where PyTorch's own index cannot be reached:
#   --build-arg TORCH_BACKEND= --build-arg FIND_LINKS=/wheels --volume /wheels:/wheels:ro
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "prove_image.sh: only root makes root file systems and namespaces" >&2; exit 2; }
for tool in buildah debootstrap ip runc unshare; do
  command -v "$tool" > /dev/null || { echo "prove_image.sh: there is no $tool" >&2; exit 2; }
done
folder=$(realpath -m "$1"); shift
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
image=localhost/ensemble-serving
mkdir -p "$folder"
export CONTAINERS_STORAGE_CONF=$folder/storage.conf
cat > "$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$folder/graph"
runroot = "$folder/run"
END

verdict="NOT PROVED: see above"
context=$(mktemp -d "$folder/context.XXXX")
containers=()
end() {
  rm -rf "$context"
  for container in "${containers[@]}"; do
    buildah umount "$container" > /dev/null
    buildah rm "$container" > /dev/null
  done
  echo "$verdict"
}
trap end EXIT

# The base of the Dockerfile's own distribution, as there is no registry: BASE says so.
if ! buildah inspect --type image localhost/base:bookworm > "$folder/base.json" 2>&1; then
  rm -rf "$folder/base"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$folder/base" http://deb.debian.org/debian
  # Where TLS is inspected, the inspector's certificates.
  cp -r /usr/local/share/ca-certificates "$folder/base/usr/local/share/"
  chroot "$folder/base" update-ca-certificates
  container=$(buildah from scratch)
  containers+=("$container")
  buildah add --quiet "$container" "$folder/base" /
  buildah commit --quiet "$container" localhost/base:bookworm
  rm -rf "$folder/base"
fi

tar -C "$root" --exclude=__pycache__ -c ensemble pyproject.toml README.md | tar -x -C "$context"
program=$(cd "$context" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
for target in cpu compress; do
  buildah bud --isolation chroot --network host --layers --format docker --file "$root/deploy/Dockerfile" \
    --target "$target" --build-arg BASE=localhost/base:bookworm --build-arg EXTRAS="embedded calibration batch demo" --build-arg PROGRAM="$program" \
    "$@" --tag "$image:$target" "$context"
done

compress=$(buildah from "$image:compress")
containers+=("$compress")
buildah run --isolation chroot "$compress" -- ensemble compress --help > /dev/null
# shellcheck disable=SC2016 # the image's own variable
buildah run --isolation chroot "$compress" -- bash -c '"$ENSEMBLE_COMPRESS_PYTHON" -I -c "import llmcompressor"' > /dev/null
cpu=$(buildah from "$image:cpu")
containers+=("$cpu")
rootfs=$(buildah mount "$cpu")
buildah inspect --type image "$image:cpu" > "$folder/image.json"
cd "$root"
ENSEMBLE_IMAGE_ROOTFS=$rootfs ENSEMBLE_IMAGE_CONFIG=$folder/image.json \
  "$python" -m pytest tests/manifests/test_image.py -v -s -p no:cacheprovider | tee "$folder/proof.log"
# A test that was skipped proves nothing.
tail -n 1 "$folder/proof.log" | grep -Eq '^=+ [0-9]+ passed in ' || exit 1
size=$(du -sh "$rootfs" | cut -f1)
verdict="PROVED: $image:cpu ($size) serves a vote as uid 10001, read-only, without capabilities, across namespaces"
