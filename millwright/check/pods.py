"""What Kubernetes' pod security standard `restricted` lets into a namespace that enforces it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from collections.abc import Iterator
from typing import Any

LABEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_PROFILES = ("RuntimeDefault", "Localhost")


def refused(pod: dict[str, Any]) -> Iterator[str]:
    """Each thing for which the namespace would refuse a pod with this `spec`, in words."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"has {key}"
    for volume in pod.get("volumes") or []:
        kinds = {key for key, value in volume.items() if value is not None} - {"name"}
        for kind in sorted(kinds - _VOLUMES):
            yield f"has the volume {volume.get('name')} of kind {kind}"
    common = pod.get("securityContext") or {}
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind) or []:
            own = container.get("securityContext") or {}
            for wrong in _container(own, common):
                yield f"container {container.get('name')} {wrong}"


def _container(own: dict[str, Any], common: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a container's rights, some of which its pod may have for all."""
    both = {**common, **{key: value for key, value in own.items() if value is not None}}
    rights = own.get("capabilities") or {}
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "has no allowPrivilegeEscalation: false"
    added = set(rights.get("add") or []) - {"NET_BIND_SERVICE"}
    if "ALL" not in (rights.get("drop") or []) or added:
        yield "has more than capabilities: {drop: [ALL]}"
    if both.get("runAsNonRoot") is not True:
        yield "has no runAsNonRoot: true"
    if both.get("runAsUser") == 0:
        yield "has runAsUser: 0"
    if (both.get("seccompProfile") or {}).get("type") not in _PROFILES:
        yield "has no seccompProfile: {type: RuntimeDefault}"
