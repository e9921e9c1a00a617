#!/usr/bin/env bash
# Builds the Dockerfile's cpu target without a daemon, and proves that it serves: uid 10001, read-only root, no
# capabilities, in a network namespace, asked from another. As root, with buildah, debootstrap and runc:
#   apt-get install buildah debootstrap runc
#   tests/manifests/prove_image.sh FOLDER [options of buildah bud]
# FOLDER (some 10 GB) keeps what was built; a second run uses it again.
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,7p "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "prove_image.sh: only root makes root file systems and namespaces" >&2; exit 2; }
folder=$(realpath -m "$1"); shift
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
mkdir -p "$folder"
export CONTAINERS_STORAGE_CONF=$folder/storage.conf
cat > "$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$folder/graph"
runroot = "$folder/run"
END

# The base of the Dockerfile's own distribution, as there is no registry: BASE says so.
if ! buildah inspect --type image localhost/base:bookworm > "$folder/base.json" 2>&1; then
  rm -rf "$folder/base"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$folder/base" http://deb.debian.org/debian
  # Where TLS is inspected, the inspector's certificates.
  cp -r /usr/local/share/ca-certificates "$folder/base/usr/local/share/"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$folder/base" /
  buildah commit --quiet "$container" localhost/base:bookworm
  buildah rm "$container"
fi

context=$(mktemp -d "$folder/context.XXXX")
trap 'rm -rf "$context"' EXIT
cp -r "$root/ensemble" "$root/pyproject.toml" "$root/README.md" "$context/"
buildah bud --isolation chroot --network host --layers --format docker --file "$root/deploy/Dockerfile" --target cpu \
  --build-arg BASE=localhost/base:bookworm "$@" --tag localhost/ensemble-serving:cpu "$context"

container=$(buildah from localhost/ensemble-serving:cpu)
rootfs=$(buildah mount "$container")
trap 'rm -rf "$context"; buildah umount "$container"; buildah rm "$container"' EXIT
buildah inspect --type image localhost/ensemble-serving:cpu > "$folder/image.json"
cd "$root"
ENSEMBLE_IMAGE_ROOTFS=$rootfs ENSEMBLE_IMAGE_CONFIG=$folder/image.json \
  "$python" -m pytest tests/manifests/test_image.py -v -s
