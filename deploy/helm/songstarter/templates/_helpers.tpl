{{- define "songstarter.name" -}}
{{- if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "songstarter.selector" -}}
app.kubernetes.io/name: songstarter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "songstarter.labels" -}}
{{ include "songstarter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "songstarter.metadata" -}}
name: {{ include "songstarter.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "songstarter.labels" . | nindent 2 }}
{{- end }}

{{- /* An image's full name: takes a list of the image's values and the chart's version. */}}
{{- define "songstarter.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 1)) }}
{{- end }}
{{- end }}

{{- define "songstarter.serverImage" -}}
{{ include "songstarter.image" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{- define "songstarter.exportImage" -}}
{{ include "songstarter.image" (list .Values.modelStore.export.image .Chart.AppVersion) }}
{{- end }}

{{- /* What names one export: with another checkpoint or exporter comes another folder, so that pods of the old
       release keep theirs while those of the new one wait. */}}
{{- define "songstarter.exportKey" -}}
{{- $store := .Values.modelStore }}
{{- list $store.checkpoint $store.precision $store.device (include "songstarter.exportImage" .) | join "|" | sha256sum | trunc 10 }}
{{- end }}

{{- define "songstarter.repository" -}}
{{- if eq .Values.modelStore.kind "archive" -}}
/models/repository
{{- else -}}
/models/{{ include "songstarter.exportKey" . }}
{{- end }}
{{- end }}

{{- define "songstarter.claim" -}}
{{ .Values.modelStore.volume.existingClaim | default (printf "%s-models" (include "songstarter.name" .)) }}
{{- end }}

{{- define "songstarter.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "songstarter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "songstarter.dnsAndHttps" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    - {port: 443, protocol: TCP}
{{- end }}

{{- /* An autoscaler that never hears of a metric looks like one with nothing to do. */}}
{{- define "songstarter.requireMetrics" -}}
{{- if not (or .Values.monitoring.serviceMonitor .Values.autoscaling.scrapedElsewhere) }}
{{- fail (printf "autoscaling.kind is %s, which needs the pods' metrics in Prometheus, and nothing here has them scraped: set monitoring.serviceMonitor=true, or autoscaling.scrapedElsewhere=true where they are scraped already, with the labels namespace, service and pod" .Values.autoscaling.kind) }}
{{- end }}
{{- end }}

{{- /* Both autoscalers go up at once and down one pod at a time: a new pod takes minutes to load its models. */}}
{{- define "songstarter.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleUpSeconds }}
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 30}
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 300}
{{- end }}

{{- define "songstarter.key" -}}
- name: SONGSTARTER_KEY
  valueFrom:
    secretKeyRef: {name: {{ .Values.server.keySecret }}, key: key}
{{- end }}
