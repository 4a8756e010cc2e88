#!/usr/bin/env bash
# Starts a run as an indexed Job on Kubernetes (GKE), one pod for each process. A pod that is
# preempted fails the attempt; the Job starts all of them again, and they resume.
#
#   IMAGE=my-registry/air_jax CLAIM=runs NUM_PROCESSES=4 launch/gke.sh --config.seed=1
#
# Arguments are passed on to air_jax.main. Variables:
#   IMAGE          container image with this repository as its working folder, and its packages;
#                  required
#   CLAIM          persistent volume claim that all pods mount at /runs; required
#   NUM_PROCESSES  how many; default: 2
#   GPUS           of each pod; default: 1
#   NAME           of the Job, and of the run's folder in /runs; default: the config's name
#   CONFIG         config file in the image; default: configs/dair.py
#   DRY_RUN        if set, the manifest is printed and nothing is started
# Needs kubectl, with a cluster, and jq.
set -euo pipefail

for name in IMAGE CLAIM; do
    if [[ -z ${!name:-} ]]; then
        echo "$name is not set; see the head of $0." >&2
        exit 2
    fi
done
config=${CONFIG:-configs/dair.py}
name=${NAME:-$(basename "$config" .py | tr _ -)}

manifest=$(jq --null-input \
    --arg name "$name" --arg image "$IMAGE" --arg claim "$CLAIM" --arg config "$config" \
    --argjson processes "${NUM_PROCESSES:-2}" --arg gpus "${GPUS:-1}" \
    '$ARGS.positional as $arguments |
    {apiVersion: "v1", kind: "Service", metadata: {name: $name},
     spec: {clusterIP: "None", publishNotReadyAddresses: true, selector: {"job-name": $name}}},
    {apiVersion: "batch/v1", kind: "Job", metadata: {name: $name},
     spec: {completionMode: "Indexed", completions: $processes, parallelism: $processes,
            backoffLimit: 100,
            template: {spec: {
                restartPolicy: "Never", subdomain: $name, terminationGracePeriodSeconds: 120,
                volumes: [{name: "runs", persistentVolumeClaim: {claimName: $claim}}],
                containers: [{
                    name: "air-jax", image: $image,
                    command: (["python", "-m", "air_jax.main", "--distributed",
                               "--config=" + $config, "--workdir=/runs/" + $name] + $arguments),
                    env: [
                        {name: "JAX_COORDINATOR_ADDRESS", value: ($name + "-0." + $name + ":12345")},
                        {name: "JAX_NUM_PROCESSES", value: ($processes | tostring)},
                        {name: "JAX_PROCESS_ID", valueFrom: {fieldRef: {fieldPath:
                            "metadata.annotations['\''batch.kubernetes.io/job-completion-index'\'']"}}}],
                    resources: {limits: {"nvidia.com/gpu": $gpus}},
                    volumeMounts: [{name: "runs", mountPath: "/runs"}]}]}}}}' \
    --args -- "$@")

if [[ -n ${DRY_RUN:-} ]]; then
    echo "$manifest"
else
    kubectl apply -f - <<< "$manifest"
fi
