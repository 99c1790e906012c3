#!/usr/bin/env bash
# From the CronJobs to the daemon and back, each in one command; docs/cutover.md says when and why.
#   k8s/cutover.sh live    suspends the CronJobs; the daemon goes on after the last slot of each
#   k8s/cutover.sh back    the daemon goes into the shadow; the CronJobs go on after its last slot of each
# Further words say which CronJob is which collector: k8s/cutover.sh live dashboard-cronjob=ci ...
# A CronJob may be named by its release: the chart `cronjob` calls it RELEASE-cronjob.
# NAMESPACE (monitoring), DEPLOYMENT (infra-health) and SETTLE (10, seconds for a slot that was just beginning) can be set.
set -euo pipefail

where=${1:-}
[ $# -gt 0 ] && shift
pairs=("$@")
[ $# -gt 0 ] || pairs=(dashboard-cronjob=ci training-health-cronjob=training eval-health-cronjob=eval)
deployment=deployment/${DEPLOYMENT:-infra-health}
kube=(kubectl --namespace "${NAMESPACE:-monitoring}")
mark=infra-health/cutover

# The variable of a collector's starts_after.
variable() { printf 'INFRA_HEALTH_COLLECTORS__%s__STARTS_AFTER' "$(printf %s "$1" | tr 'a-z-' 'A-Z_')"; }

# The CronJob NAME or NAME-cronjob, before anything is changed.
resolve() {
  local pair name number=0
  for pair in "${pairs[@]}"; do
    name=${pair%%=*}
    if ! "${kube[@]}" get cronjob "$name" --output name >/dev/null 2>&1; then
      name=$name-cronjob
      "${kube[@]}" get cronjob "$name" --output name >/dev/null
    fi
    pairs[number++]=$name=${pair#*=}
  done
}

roll_out() {
  "${kube[@]}" set env "$deployment" "$@"
  "${kube[@]}" rollout status "$deployment" --timeout=180s
}

live() {
  local pair cronjob last settings=()
  for pair in "${pairs[@]}"; do
    cronjob=${pair%%=*}
    # Marked, so that the way back lets nothing go that somebody else had suspended.
    if [ "$("${kube[@]}" get cronjob "$cronjob" --output 'jsonpath={.spec.suspend}')" = true ]; then
      echo "$cronjob is suspended already." >&2
    else
      "${kube[@]}" patch cronjob "$cronjob" --type=merge \
        --patch "{\"metadata\":{\"annotations\":{\"$mark\":\"suspended\"}},\"spec\":{\"suspend\":true}}"
    fi
  done
  echo "The CronJobs are suspended. If a later step fails: $0 back ${pairs[*]}" >&2
  sleep "${SETTLE:-10}"
  for pair in "${pairs[@]}"; do
    cronjob=${pair%%=*}
    last=$("${kube[@]}" get cronjob "$cronjob" --output 'jsonpath={.status.lastScheduleTime}')
    # One that never ran has no slot behind it but those from before it was made.
    [ -n "$last" ] || last=$("${kube[@]}" get cronjob "$cronjob" --output 'jsonpath={.metadata.creationTimestamp}')
    settings+=("$(variable "${pair#*=}")=$last")
  done
  roll_out INFRA_HEALTH_MODE=live "${settings[@]}"
  echo "Before anything is applied again: INFRA_HEALTH_MODE=live into the values of this release, suspend: true into those" \
    "of the CronJobs' releases (docs/cutover.md)." >&2
}

back() {
  local pair cronjob slots slot settings=()
  for pair in "${pairs[@]}"; do
    settings+=("$(variable "${pair#*=}")-")
  done
  roll_out INFRA_HEALTH_MODE=shadow "${settings[@]}"
  slots=$("${kube[@]}" exec "$deployment" -- infra-health status --slots)
  for pair in "${pairs[@]}"; do
    cronjob=${pair%%=*}
    if [ "$("${kube[@]}" get cronjob "$cronjob" --output "jsonpath={.metadata.annotations.$mark}")" != suspended ]; then
      echo "$cronjob was not suspended by this script: it stays as it is." >&2
      continue
    fi
    slot=$(printf '%s\n' "$slots" | awk -v name="${pair#*=}" '$1 == name { print $2 }')
    # None: the daemon never ran it live, so what the CronJob itself remembers is right.
    if [ -n "$slot" ] && [ "$slot" != none ]; then
      "${kube[@]}" patch cronjob "$cronjob" --subresource=status --type=merge \
        --patch "{\"status\":{\"lastScheduleTime\":\"$slot\"}}"
    fi
    "${kube[@]}" patch cronjob "$cronjob" --type=merge \
      --patch "{\"metadata\":{\"annotations\":{\"$mark\":null}},\"spec\":{\"suspend\":false}}"
  done
  echo "Before anything is applied again: INFRA_HEALTH_MODE=shadow into the values of this release, suspend: true out of" \
    "those of the CronJobs' releases (docs/cutover.md)." >&2
}

case $where in
  live | back)
    resolve
    "$where"
    ;;
  *)
    sed -n '2,7s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
