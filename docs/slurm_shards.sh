#!/bin/sh
#SBATCH --job-name=attention-shards
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --output=slurm-%A_%a.out
#
# Measures one shard of a sweep in each task of a Slurm array. With 8 shards of the sweep `gpu`:
#
#     sbatch --array=1-8 docs/slurm_shards.sh gpu 8
#
# More arguments are options of `python -m bench run`. A task continues its shard if the folder
# shards/NUMBER holds a run already, and starts it otherwise.
set -eu

# The number of the task, not SLURM_ARRAY_TASK_COUNT: an array may have only the missing shards.
number=${SLURM_ARRAY_TASK_ID:-}
sweep=${1:-}
count=${2:-}
if [ -z "$number" ] || [ -z "$sweep" ] || [ -z "$count" ]; then
    echo 'usage: sbatch --array=1-COUNT slurm_shards.sh SWEEP COUNT [OPTION ...]' >&2
    exit 2
fi
shift 2
folder=shards/$number

# A run has begun if its journal has a whole line.
lines=0
if [ -f "$folder/journal.jsonl" ]; then
    lines=$(wc -l <"$folder/journal.jsonl")
fi
place=--out
if [ "$lines" -gt 0 ]; then
    place=--resume
fi
# The signals of Slurm then reach the run itself.
exec python -m bench run "$sweep" --shard "$number/$count" "$@" "$place" "$folder"
