#!/usr/bin/env bash
# Submits a batch to a running Ray cluster, tells what it prints, and ends with 0 when it is done and rejected nothing;
# else with 1, and the job's message has the batch's own exit code (see `ensemble batch --help`).
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 deploy/jobs/submit.sh SPEC INPUT OUTPUT [options of ensemble batch]
# Given again after anything was killed, the same line goes on where the batch was.
# The spec's folder travels with the job (its calibration lies there, too); the nodes need this program and the
# checkpoints. INPUT and OUTPUT must be on storage that every head will see: an absolute path, or an fsspec URL.
# RAY_JOB_OPTIONS are for `ray job submit` itself: --no-wait, --submission-id=NAME.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
spec=$1 input=$2 output=$3
shift 3
if [ ! -f "$spec" ]; then
  echo "submit: $spec: there is no such spec" >&2
  exit 2
fi
for place in "$input" "$output"; do
  case $place in
    /* | *://*) ;;
    *)
      echo "submit: $place: it is relative, and a job's working directory is thrown away; give an absolute path or a URL" >&2
      exit 2
      ;;
  esac
done

# shellcheck disable=SC2086 # options, parted by spaces
exec ray job submit --working-dir "$(dirname -- "$spec")" ${RAY_JOB_OPTIONS:-} -- \
  ensemble batch "$(basename -- "$spec")" "$input" "$output" --address auto "$@"
