"""What the pod-security level "restricted" refuses (https://kubernetes.io/docs/concepts/security/pod-security-standards/)."""

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """Of a pod's spec."""
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(key))
    for volume in pod.get("volumes", []):
        yield from (f"volume {kind}" for kind in volume.keys() - {"name"} - _VOLUMES)
    whole = pod.get("securityContext", {})
    if whole.get("sysctls"):
        yield "sysctls"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        both = whole | own
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield "may run as root"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield "may gain rights"
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "keeps capabilities"
        yield from ("hostPort" for port in container.get("ports", []) if port.get("hostPort"))
