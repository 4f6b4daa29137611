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

{{- /* The values of `server.settings`, as JSON, with what follows from other values. */}}
{{- define "songstarter.settings" -}}
{{- $settings := deepCopy (.Values.server.settings | default dict) }}
{{- if not .Values.gpu.count }}
{{- $decoder := $settings.decoder | default dict }}
{{- if not (hasKey $decoder "threads") }}
{{- $cpu := .Values.resources.requests.cpu }}
{{- $cores := ternary (divf (trimSuffix "m" $cpu | float64) 1000) (float64 $cpu) (hasSuffix "m" $cpu) }}
{{- $_ := set $decoder "threads" (max 1 (ceil $cores | int)) }}
{{- end }}
{{- $_ := set $settings "decoder" $decoder }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{- /* Seconds that the longest song takes at the slowest speed, and half a minute to fill its beginning, to render and
       encode its end. 300 is the models' own max_duration. */}}
{{- define "songstarter.longestSong" -}}
{{- $longest := 0.0 }}
{{- range $model := list "songstarter" "songstarter_stream" }}
{{- $own := get ($.Values.server.settings | default dict) $model | default dict }}
{{- $longest = maxf $longest (get $own "max_duration" | default 300 | float64) }}
{{- end }}
{{- $seconds := add (ceil (divf $longest .Values.server.slowestSpeed) | int) 30 }}
{{- if gt $seconds 7200 }}
{{- fail (printf "a song of %v seconds at server.slowestSpeed %v would keep a pod that has to go for %d seconds, and at most are 7200: lower max_duration of songstarter and songstarter_stream in server.settings, or play fewer at once (decoder.slots) so that each is faster" $longest .Values.server.slowestSpeed $seconds) }}
{{- end }}
{{- $seconds }}
{{- end }}

{{- /* What values.schema.json cannot say, since it compares no value with another. */}}
{{- define "songstarter.checks" -}}
{{- $store := .Values.modelStore }}
{{- if and (eq $store.kind "volume") $store.export.enabled (not $store.volume.existingClaim) (ne $store.volume.accessMode "ReadWriteMany") }}
{{- fail (printf "modelStore.volume.accessMode is %s: the servers' pods hold the claim on their nodes while they wait for the export Job, which then cannot start on another: it has to be ReadWriteMany, of a storage class that has such volumes; without one take modelStore.kind=archive" $store.volume.accessMode) }}
{{- end }}
{{- $ports := .Values.server.ports }}
{{- if ne (list (int $ports.http) (int $ports.grpc) (int $ports.metrics) | uniq | len) 3 }}
{{- fail (printf "server.ports are %d, %d and %d: HTTP, gRPC and metrics need a port each" (int $ports.http) (int $ports.grpc) (int $ports.metrics)) }}
{{- end }}
{{- $decoder := get (.Values.server.settings | default dict) "decoder" | default dict }}
{{- $slots := get $decoder "slots" | default 16 | int }}
{{- if gt (get $decoder "fewest_slots" | default 1 | int) $slots }}
{{- fail (printf "server.settings.decoder.fewest_slots is %d, and a step has at most as many as there are slots, %d" (int $decoder.fewest_slots) $slots) }}
{{- end }}
{{- $scaling := .Values.autoscaling }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, more than maxReplicas, %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- if gt (int $scaling.keda.fallbackReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "autoscaling.keda.fallbackReplicas is %d, more than maxReplicas, %d" (int $scaling.keda.fallbackReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- end }}

{{- /* How many pods there are at least, whoever decides. */}}
{{- define "songstarter.fewestPods" -}}
{{- ternary .Values.replicas .Values.autoscaling.minReplicas (eq .Values.autoscaling.kind "none") | int }}
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
{{- if not (or .Values.monitoring.podMonitor .Values.autoscaling.scrapedElsewhere) }}
{{- fail (printf "autoscaling.kind is %s, which needs the pods' metrics in Prometheus, and nothing here has them scraped: set monitoring.podMonitor=true, or autoscaling.scrapedElsewhere=true where they are scraped already, with the labels namespace, service and pod" .Values.autoscaling.kind) }}
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
