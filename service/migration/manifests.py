"""CronJob manifests: ``helm template`` output, ``kubectl get cronjobs -o yaml`` (or ``-o json``), a chart's own file.

Where a field is left out, Kubernetes' own default counts (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/cron-job-v1/).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.migration.texts import list_of, mapping_of
from service.migration.workload import Workload

# Parts of a pod that mean the same in the Deployment's.
CARRIED = ("volumes", "nodeSelector", "tolerations", "affinity", "imagePullSecrets", "priorityClassName", "hostAliases")
_SPEC = {
    "schedule",
    "timeZone",
    "suspend",
    "concurrencyPolicy",
    "startingDeadlineSeconds",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "jobTemplate",
}
# What tools write for themselves.
_TOOLS = re.compile(
    r"([\w.-]+\.)?(kubernetes|k8s|helm|kustomize)\.(io|sh)/|(chart|release|heritage|app|controller-uid|job-name)$"
)
_SILENT = {"terminationMessagePath", "terminationMessagePolicy", "dnsPolicy", "schedulerName", "serviceAccount"}


def objects(documents: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    """The objects of the documents, those of lists one by one."""
    for document in documents:
        if not isinstance(document, dict):
            continue
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            kind = str(document["kind"]).removesuffix("List")
            yield from objects(
                {"kind": kind, **item} if isinstance(item, dict) and kind else item for item in document["items"]
            )
        else:
            yield document


def workload(item: Mapping[str, Any], origin: str) -> Workload:
    """What a CronJob (batch/v1, or v1beta1 of old) says."""
    metadata, spec = mapping_of(item.get("metadata")), mapping_of(item.get("spec"))
    job = mapping_of(mapping_of(spec.get("jobTemplate")).get("spec"))
    template = mapping_of(job.get("template"))
    pod = mapping_of(template.get("spec"))
    containers = [each for each in list_of(pod.get("containers")) if isinstance(each, dict)]
    container = next(
        (each for each in containers if "collect" in " ".join(_command(each))), containers[0] if containers else {}
    )
    unused = {f"spec.{key}": value for key, value in spec.items() if key not in _SPEC}
    unused |= {
        f"spec.jobTemplate.spec.{key}": value
        for key, value in job.items()
        if key not in ("template", "backoffLimit", "activeDeadlineSeconds")
    }
    unused |= {
        f"pod.{key}": value
        for key, value in pod.items()
        if key not in (*CARRIED, "containers", "serviceAccountName", *_SILENT)
    }
    unused |= {
        f"container.{key}": value
        for key, value in container.items()
        if key not in ("name", "command", "args", "env", "envFrom", "volumeMounts", *_SILENT)
    }
    for about, part in (
        ("", metadata),
        ("jobTemplate.", mapping_of(mapping_of(spec.get("jobTemplate")).get("metadata"))),
    ):
        for kind in ("labels", "annotations"):
            for key, value in mapping_of(part.get(kind)).items():
                if not _TOOLS.match(key):
                    unused[f"{about}metadata.{kind}.{key}"] = value
    if annotations := mapping_of(mapping_of(template.get("metadata")).get("annotations")):
        unused["pod.annotations"] = annotations
    if len(containers) > 1:
        unused["pod.containers"] = [each.get("name") for each in containers if each is not container]
    return Workload(
        name=str(metadata.get("name") or "unnamed"),
        kind="CronJob",
        origin=origin,
        command=_command(container),
        schedule=text(spec.get("schedule")),
        time_zone=text(spec.get("timeZone")),
        suspend=text(spec.get("suspend")),
        concurrency_policy=text(spec.get("concurrencyPolicy")) or "Allow",
        starting_deadline=text(spec.get("startingDeadlineSeconds")),
        active_deadline=text(job.get("activeDeadlineSeconds")),
        backoff_limit=text(job.get("backoffLimit")) or "6",
        successful_history=text(spec.get("successfulJobsHistoryLimit")) or "3",
        failed_history=text(spec.get("failedJobsHistoryLimit")) or "1",
        environment=[each for each in list_of(container.get("env")) if isinstance(each, dict)],
        environment_from=list_of(container.get("envFrom")),
        service_account=text(pod.get("serviceAccountName") or pod.get("serviceAccount")),
        labels={
            str(key): str(value)
            for key, value in mapping_of(mapping_of(template.get("metadata")).get("labels")).items()
        },
        pod={key: pod[key] for key in CARRIED if pod.get(key)},
        mounts=list_of(container.get("volumeMounts")),
        unused=unused,
    )


def text(value: Any) -> str | None:
    """A scalar as text; 0 and false are something that was said."""
    if value is None or isinstance(value, (dict, list)):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _command(container: Mapping[str, Any]) -> Sequence[str]:
    return [str(word) for key in ("command", "args") for word in list_of(container.get(key)) if word is not None]
