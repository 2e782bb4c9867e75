{{- define "tenantry.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 48 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "tenantry.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: tenantry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What selects pods of a component: (list . "gateway") */}}
{{- define "tenantry.selector" -}}
app.kubernetes.io/name: tenantry
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tenantry.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "tenantry.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "tenantry.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}

{{/* The component that sidecars are in: Envoy's pods, or pods of their own. */}}
{{- define "tenantry.component" -}}
{{- if eq .Values.sidecar.mode "container" }}gateway{{ else }}sidecar{{ end -}}
{{- end -}}

{{- define "tenantry.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tenantry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The rules of this release as JSON, which is YAML that every library reads alike: a bare `=` or 12:30 is not text to
     all of them, and 1e-07 is a number to PyYAML only with a point. (A line of a JSON string ends in a quote.) */}}
{{- define "tenantry.document" -}}
{{- regexReplaceAll "(?m)^(\\s*(?:\".*\": )?-?[0-9]+)(e[-+]?[0-9]+,?)$" (toPrettyJson .Values.rules) "${1}.0${2}" -}}
{{- end -}}

{{/* The rules of this release and the parts outside it as one folder; the argument is the ConfigMap's name. */}}
{{- define "tenantry.rulesVolume" -}}
{{- $root := index . 0 -}}
name: rules
projected:
  sources:
    - configMap:
        name: {{ index . 1 }}
        items: [{key: rules.yaml, path: rules.yaml}]
{{- range $root.Values.rulesFrom }}
    {{- if .configMap }}
    - configMap:
        name: {{ .configMap }}
        items: [{key: {{ .key }}, path: {{ printf "%s.%s.yaml" .configMap (trimSuffix ".yaml" .key) }}}]
    {{- else }}
    - secret:
        name: {{ .secret }}
        items: [{key: {{ .key }}, path: {{ printf "%s.%s.yaml" .secret (trimSuffix ".yaml" .key) }}}]
    {{- end }}
{{- end }}
{{- end -}}

{{- define "tenantry.tlsArgs" -}}
{{- if .Values.tls.secretName }}
- --tls-cert=/etc/tenantry/tls/tls.crt
- --tls-key=/etc/tenantry/tls/tls.key
- --tls-client-ca=/etc/tenantry/tls/ca.crt
- --allow-client-san
{{- range .Values.tls.allowClientSans }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* On which nodes, and from which registry: for every pod. */}}
{{- define "tenantry.placement" -}}
{{- $root := . -}}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . }}}
  {{- end }}
{{- end }}
{{- end -}}

{{/* How pods of a component are spread: (list . "gateway") */}}
{{- define "tenantry.spread" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if $root.Values.topologySpreadConstraints }}
  {{- toYaml $root.Values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {{ include "tenantry.selector" $ | fromYaml | toJson }}}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What of the rules Envoy reads at start. A change of it restarts the pods; any other is live without. */}}
{{- define "tenantry.bootstrapSum" -}}
{{- $kinds := dict -}}
{{- range .Values.rules.stores }}{{ $_ := set $kinds .kind true }}{{ end -}}
{{- $response := false -}}
{{- range .Values.rules.models }}{{ if eq (.usage | default "plugin") "response" }}{{ $response = true }}{{ end }}{{ end -}}
{{- $identity := dict "jwt" (dig "identity" "jwt" nil .Values.rules) "mtls" (dig "identity" "mtls" nil .Values.rules) -}}
{{- $limits := pick (.Values.rules.limits | default dict) "maxBodyBytes" "streamIdleSeconds" "maxOpenExchanges" -}}
{{- list $identity $limits (keys $kinds | sortAlpha) $response | toJson | sha256sum -}}
{{- end -}}
