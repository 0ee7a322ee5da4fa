#!/bin/bash
# A slice of Cloud TPU virtual machines, from nothing to a run (docs/tpu.md):
#
#     export TPU=my-slice ZONE=us-east5-b TYPE=v6e-16 RUNTIME=v2-alpha-tpuv6e
#     export SHARED=10.0.0.2:/share REPOSITORY=https://github.com/you/mmjax COMMIT=main
#     launch/tpu_vm.sh create | setup | train ARGUMENTS OF train.py | logs | stop | delete
#
# SPOT=1 makes `create` ask for one that may be taken away.
set -euo pipefail

: "${TPU:?is the name of the slice}" "${ZONE:?is its zone}"

all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
one() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command="$1"; }

command=${1:?create, setup, train, logs, stop or delete}
shift
case $command in
  create)
    gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="${TYPE:?}" --version="${RUNTIME:?}" ${SPOT:+--spot}
    ;;
  setup) # may be given again, as for another COMMIT; the machines' own Python is too old
    all "set -e
      if [ -n '${SHARED:-}' ] && ! mountpoint -q /mnt/shared; then
        sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common
        sudo mkdir -p /mnt/shared && sudo mount -o rw,hard '${SHARED:-}' /mnt/shared
      fi
      [ -d mmjax ] || git clone --quiet '${REPOSITORY:?}' mmjax
      cd mmjax && git fetch --quiet && git checkout --quiet --detach \$(git rev-parse --verify --quiet 'origin/${COMMIT:-main}' || echo '${COMMIT:-main}')
      python3 -m pip install --quiet --user uv
      [ -d .venv ] || python3 -m uv venv --quiet --python 3.12 .venv
      python3 -m uv pip install --quiet --python .venv/bin/python -r requirements-tpu.txt
      python3 -m uv pip install --quiet --python .venv/bin/python --no-deps -e ."
    ;;
  train)
    all "cd mmjax || exit 1; nohup .venv/bin/python experiments/train.py $(printf '%q ' "$@") > ~/mmjax.log 2>&1 < /dev/null & echo \$! > ~/mmjax.pid"
    echo "Started on all machines; 'launch/tpu_vm.sh logs' shows the first one's log."
    ;;
  logs) one "tail -n 100 -f mmjax.log" ;;
  stop) one "kill -TERM \$(cat mmjax.pid)" ;; # at one of them: all save after the same step and end
  delete) gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" ;;
  *)
    echo "'$command' is none of create, setup, train, logs, stop and delete." >&2
    exit 2
    ;;
esac
