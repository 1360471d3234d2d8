{{/* Name of all objects. */}}
{{- define "model-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "model-exporter" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-model-exporter" (.Release.Name | trunc 37 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "model-exporter.selectorLabels" -}}
app.kubernetes.io/name: model-exporter
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "model-exporter.labels" -}}
{{ include "model-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Name of the ConfigMap with exporter.yml. */}}
{{- define "model-exporter.configMap" -}}
{{- if .Values.config -}}
{{- include "model-exporter.fullname" . -}}
{{- else -}}
{{- default (include "model-exporter.fullname" .) .Values.existingConfigMap -}}
{{- end -}}
{{- end -}}
