{{- /* Every object is named as the release is. */ -}}
{{- define "infra-health.selector" -}}
app.kubernetes.io/name: infra-health
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "infra-health.labels" -}}
{{ include "infra-health.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "infra-health.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "infra-health.image" -}}
{{ with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.name }}:{{ include "infra-health.tag" . }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Datadog's unified tags: read by the agent, and by DD_ENV, DD_SERVICE and DD_VERSION of the container. A label has 63 characters. */ -}}
{{- define "infra-health.tags" -}}
tags.datadoghq.com/env: {{ .Values.datadog.env | quote }}
tags.datadoghq.com/service: {{ .Values.datadog.service | quote }}
tags.datadoghq.com/version: {{ include "infra-health.tag" . | trunc 63 | trimAll "-_." | quote }}
{{- end }}

{{- define "infra-health.account" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default .Release.Name }}
{{- else }}
{{- required "serviceAccount.create is false: serviceAccount.name must name an account that exists" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Not empty where several replicas share a store. */ -}}
{{- define "infra-health.shared" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- required "replicas is more than 1: store.existingSecret must name the Secret whose key url is the PostgreSQL that they share; without one each would collect and send everything" .Values.store.existingSecret }}
{{- end }}
{{- end }}

{{- /* Where GitHub delivers: the page's host, and its certificate, unless the webhook has its own. */ -}}
{{- define "infra-health.webhook.host" -}}
{{- .Values.webhook.host | default .Values.ingress.host | required "webhook.enabled is true: webhook.host (or ingress.host) must name the host" }}
{{- end }}
{{- define "infra-health.webhook.tlsSecret" -}}
{{- $isShared := eq (include "infra-health.webhook.host" .) .Values.ingress.host }}
{{- .Values.webhook.tlsSecret | default ($isShared | ternary .Values.ingress.tlsSecret "") }}
{{- end }}

{{- define "infra-health.config" -}}
{{- .Values.config | default (.Files.Get "config.yaml") -}}
{{- end }}

{{- /* The configuration as data, for what the chart takes from it. */ -}}
{{- define "infra-health.settings" -}}
{{- $settings := include "infra-health.config" . | fromYaml }}
{{- with $settings.Error }}
{{- fail (printf "config is no YAML: %s" .) }}
{{- end }}
{{- $settings | toJson }}
{{- end }}

{{- /* http.allowed_hosts: those of the configuration (a variable wins over them), the Service's names beside .svc, the Ingress' host. */ -}}
{{- define "infra-health.hosts" -}}
{{- $configured := dig "http" "allowed_hosts" (list) (include "infra-health.settings" . | fromJson) | default list }}
{{- $configured = kindIs "string" $configured | ternary (splitList "," (toString $configured)) $configured }}
{{- $own := list .Release.Name (printf "%s.%s" .Release.Name .Release.Namespace) }}
{{- if .Values.ingress.enabled }}
{{- $own = append $own .Values.ingress.host }}
{{- end }}
{{- concat $configured $own | uniq | join "," }}
{{- end }}

{{- define "infra-health.env" -}}
- name: INFRA_HEALTH_CONFIG
  value: /etc/infra-health/config.yaml
- name: INFRA_HEALTH_STATE_DIR
  value: /var/lib/infra-health
# Where probes, Service and NetworkPolicy expect it, whatever the configuration says.
- name: INFRA_HEALTH_HTTP__PORT
  value: "8080"
- name: INFRA_HEALTH_HTTP__ALLOWED_HOSTS
  value: {{ include "infra-health.hosts" . | quote }}
{{- if and .Values.ingress.enabled (not (dig "http" "public_url" "" (include "infra-health.settings" . | fromJson))) }}
- name: INFRA_HEALTH_HTTP__PUBLIC_URL
  value: {{ printf "%s://%s" (.Values.ingress.tlsSecret | empty | ternary "http" "https") .Values.ingress.host | quote }}
{{- end }}
{{- with .Values.store.existingSecret }}
- name: INFRA_HEALTH_STORE__URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
{{- end }}
- name: DD_SITE
  value: {{ .Values.datadog.site | quote }}
{{- range $tag := list "env" "service" "version" }}
- name: DD_{{ upper $tag }}
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['tags.datadoghq.com/{{ $tag }}']
{{- end }}
{{- if .Values.secret.existingSecret }}
{{- range .Values.secret.keys }}
- name: {{ . }}_FILE
  value: /var/run/secrets/infra-health/{{ . }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What the daemon's pod and the precheck's have in common. Both pass the pod-security level "restricted". */ -}}
{{- define "infra-health.pod" -}}
# The daemon needs no access to the Kubernetes API. IRSA brings a token of its own.
automountServiceAccountToken: false
# The Service's INFRA_HEALTH_PORT=tcp://... and the like would be read as settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" }}
{{- with index $.Values $key }}
{{ $key }}:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "infra-health.container" -}}
name: infra-health
image: {{ include "infra-health.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "infra-health.env" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "infra-health.mounts" -}}
# Whole directories: a file mounted by subPath would never change.
- name: config
  mountPath: /etc/infra-health
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .Values.secret.existingSecret }}
- name: secrets
  mountPath: /var/run/secrets/infra-health
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "infra-health.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.secret.existingSecret }}
- name: secrets
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      {{- range $.Values.secret.keys }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Egress that the daemon and its precheck need. */ -}}
{{- define "infra-health.egress" -}}
# DNS, to any address: the node-local cache is no pod that a selector could name.
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
# GitHub, Datadog and AWS. Policies know no host names, and the addresses of these change.
- ports:
    - {protocol: TCP, port: 443}
{{- with .Values.networkPolicy.proxyPort }}
- ports:
    - {protocol: TCP, port: {{ . }}}
{{- end }}
{{- if .Values.store.existingSecret }}
- ports:
    - {protocol: TCP, port: {{ .Values.networkPolicy.postgresqlPort }}}
{{- end }}
{{- range .Values.networkPolicy.sources }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .namespace }}
      {{- with .labels }}
      podSelector:
        matchLabels:
          {{- toYaml . | nindent 10 }}
      {{- end }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}
{{- if .Values.networkPolicy.podIdentity }}
# The agent on the node: https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
- to:
    - ipBlock: {cidr: 169.254.170.23/32}
    - ipBlock: {cidr: "fd00:ec2::23/128"}
  ports:
    - {protocol: TCP, port: 80}
{{- end }}
{{- end }}
