{{/* The sidecar's container, also for pods of others: (list . true) makes it a native sidecar. */}}
{{- define "tenantry.sidecarContainer" -}}
{{- $root := index . 0 -}}
{{- $native := index . 1 -}}
{{- $v := $root.Values -}}
name: sidecar
image: {{ include "tenantry.image" $root }}
imagePullPolicy: {{ $v.image.pullPolicy }}
{{- if $native }}
restartPolicy: Always
{{- end }}
args:
  - serve
  - /etc/tenantry/rules
  - --secrets=/etc/tenantry/secrets
  - --listen={{ if $native }}unix:/run/tenantry/sidecar.sock{{ else }}0.0.0.0:50051{{ end }}
  {{- if $v.tls.secretName }}
  - --admin=0.0.0.0:9300
  # For operators, who come by kubectl exec or port-forward and bring the admin token.
  - --local-admin=127.0.0.1:{{ include "tenantry.operatorPort" $root }}
  {{- else }}
  - --admin=127.0.0.1:{{ include "tenantry.operatorPort" $root }}
  {{- end }}
  - --telemetry=0.0.0.0:9301
  - --state=/var/lib/tenantry/state.db
  - --grace-seconds={{ $v.sidecar.graceSeconds }}
  {{- if $native }}
  - --cds=/run/tenantry/clusters/cds.json
  - --envoy-admin
  - http://127.0.0.1:9901
  {{- end }}
  {{- if $v.sidecar.redis.secretName }}
  - --redis=@/etc/tenantry/redis/{{ $v.sidecar.redis.key }}
  {{- end }}
  {{- with include "tenantry.ledgerUrl" $root }}
  - --ledger={{ . }}
  {{- end }}
  {{- with $v.sidecar.tracesUrl }}
  - --traces={{ . }}
  {{- end }}
  {{- with include "tenantry.tlsArgs" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
ports:
  {{- if not $native }}
  - {name: ext-proc, containerPort: 50051}
  {{- end }}
  {{- if $v.tls.secretName }}
  - {name: admin, containerPort: 9300}
  {{- end }}
  - {name: telemetry, containerPort: 9301}
startupProbe: {httpGet: {path: /readyz, port: telemetry}, periodSeconds: 1, failureThreshold: 60}
readinessProbe: {httpGet: {path: /readyz, port: telemetry}, periodSeconds: 2, timeoutSeconds: 2}
livenessProbe: {httpGet: {path: /healthz, port: telemetry}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
resources: {{- toYaml $v.sidecar.resources | nindent 2 }}
securityContext: {{- include "tenantry.containerSecurity" $root | nindent 2 }}
volumeMounts:
  - {name: rules, mountPath: /etc/tenantry/rules, readOnly: true}
  - {name: secrets, mountPath: /etc/tenantry/secrets, readOnly: true}
  - {name: state, mountPath: /var/lib/tenantry}
  - {name: run, mountPath: /run/tenantry}
  - {name: tmp, mountPath: /tmp}
  {{- if $v.tls.secretName }}
  - {name: tls, mountPath: /etc/tenantry/tls, readOnly: true}
  {{- end }}
  {{- if $v.sidecar.redis.secretName }}
  - {name: redis, mountPath: /etc/tenantry/redis, readOnly: true}
  {{- end }}
  {{- with $v.sidecar.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The port on loopback where operators find the admin listener: without TLS it is the only one. */}}
{{- define "tenantry.operatorPort" -}}
{{- ternary 9302 9300 (ne .Values.tls.secretName "") -}}
{{- end -}}

{{- define "tenantry.sidecarVolumes" -}}
{{- $v := .Values -}}
- {{ include "tenantry.rulesVolume" (list . (printf "%s-rules" (include "tenantry.name" .))) | indent 2 | trim }}
- name: secrets
  secret: {secretName: {{ $v.secretName }}, defaultMode: 0440}
- name: state
  {{- if $v.sidecar.state.existingClaim }}
  persistentVolumeClaim: {claimName: {{ $v.sidecar.state.existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: 1Gi}
  {{- end }}
- {name: run, emptyDir: {sizeLimit: 64Mi}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- if $v.tls.secretName }}
- name: tls
  secret: {secretName: {{ $v.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- if $v.sidecar.redis.secretName }}
- name: redis
  secret: {secretName: {{ $v.sidecar.redis.secretName }}, defaultMode: 0440, items: [{key: {{ $v.sidecar.redis.key }}, path: {{ $v.sidecar.redis.key }}}]}
{{- end }}
{{- with $v.sidecar.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tenantry.ledgerUrl" -}}
{{- if .Values.sidecar.ledgerUrl -}}{{ .Values.sidecar.ledgerUrl }}
{{- else if .Values.ledger.enabled -}}https://{{ include "tenantry.name" . }}-ledger.{{ .Release.Namespace }}.svc:9400
{{- end -}}
{{- end -}}
