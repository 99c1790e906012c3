#!/usr/bin/env bash
# The state as it was before an upgrade, for an older version that refuses the present one; docs/runbook.md says when.
#   k8s/restore-state.sh N    N: the schema that the older version knows, as its message says
# The present state stays beside it as state.db.newer. NAMESPACE (monitoring) and DEPLOYMENT (infra-health) can be set.
set -euo pipefail

known=${1:-}
if ! [[ $known =~ ^[0-9]+$ ]]; then
  sed -n '2,4s/^# *//p' "$0" >&2
  exit 2
fi
deployment=deployment/${DEPLOYMENT:-infra-health}
kube=(kubectl --namespace "${NAMESPACE:-monitoring}")

image=$("${kube[@]}" get "$deployment" --output 'jsonpath={.spec.template.spec.containers[?(@.name=="infra-health")].image}')
claim=$("${kube[@]}" get "$deployment" \
  --output 'jsonpath={.spec.template.spec.volumes[?(@.name=="state")].persistentVolumeClaim.claimName}')
if [ -z "$claim" ]; then
  echo "The state of $deployment is on no claim: it left with the pod, so there is nothing to restore." >&2
  exit 1
fi

# Copied before it takes the name, so that a break leaves a whole file. Every .newer of before is kept as well.
program=$(
  base64 <<'PYTHON' | tr -d '\n'
import os, pathlib, re, shutil, sys
where, known = pathlib.Path(os.environ["INFRA_HEALTH_STATE_DIR"]), int(sys.argv[1])
copies = {int(match[1]): path for path in where.iterdir() if (match := re.fullmatch(r"state\.db\.v(\d+)\.bak", path.name))}
fitting = max((version for version in copies if version <= known), default=None)
if fitting is None:
    sys.exit(f"there is no copy of schema {known} or older in {where}")
shutil.copyfile(copies[fitting], where / "state.db.restoring")
state, number = where / "state.db", 0
kept = where / "state.db.newer"
while kept.exists():
    number += 1
    kept = where / f"state.db.newer{number}"
for suffix in ("", "-wal", "-shm"):
    part = where / f"state.db{suffix}"
    if part.exists():
        part.rename(f"{kept}{suffix}")
(where / "state.db.restoring").rename(state)
print(f"state.db is the copy of schema {fitting} again; what was there is {kept.name}")
PYTHON
)

overrides=$(
  cat <<JSON
{
  "apiVersion": "v1",
  "spec": {
    "automountServiceAccountToken": false,
    "restartPolicy": "Never",
    "securityContext": {
      "runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
      "seccompProfile": {"type": "RuntimeDefault"}
    },
    "containers": [{
      "name": "infra-health-restore",
      "image": "$image",
      "command": ["python", "-c", "import base64; exec(base64.b64decode('$program'))", "$known"],
      "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
      "securityContext": {
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
      },
      "volumeMounts": [{"name": "state", "mountPath": "/var/lib/infra-health"}]
    }],
    "volumes": [{"name": "state", "persistentVolumeClaim": {"claimName": "$claim"}}]
  }
}
JSON
)

# A claim that one pod alone may have is free once the daemon has ended; until then the other pod waits.
"${kube[@]}" scale "$deployment" --replicas=0
trap '"${kube[@]}" scale "$deployment" --replicas=1' EXIT
"${kube[@]}" run infra-health-restore --image="$image" --restart=Never --rm --attach --quiet \
  --pod-running-timeout=3m --overrides="$overrides"
