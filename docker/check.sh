#!/usr/bin/env bash
# Run the Dockerfile's steps without an engine, in an empty folder that stands for the image's root, and then the
# command line as the image would: `docker/check.sh EMPTY_FOLDER`. Users are not made; the python is the one on PATH.
set -euo pipefail
target=$(realpath "${1:?usage: docker/check.sh EMPTY_FOLDER}")
mkdir -p "$target"
[ -z "$(ls -A "$target")" ] || { echo "$target is not empty" >&2; exit 2; }
cd "$(dirname "$0")/.."
context=$PWD
workdir=$target

while read -r instruction arguments; do
    case $instruction in
        WORKDIR) workdir=$target$arguments; mkdir -p "$workdir" ;;
        COPY)
            read -r -a words <<<"$arguments"
            [[ ${words[0]} == --from=* ]] && continue
            last=$((${#words[@]} - 1))
            destination=$workdir/${words[last]}
            [[ -d ${words[0]} ]] && mkdir -p "$(dirname "$destination")" || mkdir -p "$destination"
            for source in "${words[@]:0:last}"; do cp -r "$context/$source" "$destination"; done ;;
        ENV) for pair in $arguments; do export "${pair%%=*}=$(eval echo "${pair#*=}" | sed "s#/opt/#$target/opt/#")"; done ;;
        RUN)
            [[ $arguments == useradd* ]] && continue
            echo "RUN $arguments"
            (cd "$workdir" && bash -euc "${arguments//\/opt\//$target/opt/}") ;;
    esac
done < <(grep -vE '^(#|$)' docker/Dockerfile)

cd "$workdir"
echo "grpo-tta is $(command -v grpo-tta)"
grpo-tta version
grpo-tta demo feed --out feed --images 60
