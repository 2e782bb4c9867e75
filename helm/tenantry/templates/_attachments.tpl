{{/*
Refuses an attachment that lacks what the rules need, unless attachment.acknowledge names it.
The table is files/attachments.yaml, of which the documentation is made, too.
*/}}
{{- define "tenantry.attachment.check" -}}
{{- $kind := .Values.attachment.kind -}}
{{- $mesh := has $kind (list "envoyGateway" "istio" "kgateway") -}}
{{- if and $mesh ((.Values.rules | default dict).identity | default dict).jwt -}}
{{- fail (printf "rules.identity.jwt: with attachment.kind %s no verified token reaches the sidecar, so nobody would be known by one; use API keys or identity.mtls, or attachment.kind plain behind your gateway" $kind) -}}
{{- end -}}
{{- if ne $kind "none" -}}
{{- $table := .Files.Get "files/attachments.yaml" | fromYaml -}}
{{- if not (hasKey $table.attachments $kind) -}}
{{- fail (printf "attachment.kind: %q is none of %s, none" $kind (keys $table.attachments | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $names := list -}}
{{- range $table.capabilities }}{{ $names = append $names .name }}{{ end -}}
{{- $acknowledged := .Values.attachment.acknowledge | default list -}}
{{- range $acknowledged -}}
{{- if not (has . $names) -}}
{{- fail (printf "attachment.acknowledge: %q is no capability; there are %s" . (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- $needs := include "tenantry.attachment.needs" . | fromJsonArray -}}
{{- $lacking := list -}}
{{- $lost := list -}}
{{- range $table.capabilities -}}
{{- if and (eq (index . $kind) "no") (has .needs $needs) (not (has .name $acknowledged)) -}}
{{- $lacking = append $lacking .name -}}
{{- $lost = append $lost (printf "  %s (%s): %s" .name .title .lost) -}}
{{- end -}}
{{- end -}}
{{- if $lacking -}}
{{- fail (printf "attachment.kind: %s cannot do what these rules need. Without it:\n%s\nUse another attachment (docs/attach.md: plain Envoy behind your gateway does all of it), or accept the loss by name:\n  attachment: {acknowledge: [%s]}" $kind (join "\n" $lost) (join ", " (concat $acknowledged $lacking | uniq))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the rules need of an attachment, as a JSON list: always, rollout, mirror, stores. */}}
{{- define "tenantry.attachment.needs" -}}
{{- $needs := list "always" -}}
{{- range $name, $model := (include "tenantry.attachment.models" . | fromJson) -}}
{{- with $model.rollout -}}
{{- $needs = append $needs "rollout" -}}
{{- if gt (float64 (.mirrorPercent | default 0)) 0.0 }}{{ $needs = append $needs "mirror" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if (include "tenantry.attachment.stores" . | fromJson) }}{{ $needs = append $needs "stores" }}{{ end -}}
{{- $needs | uniq | toJson -}}
{{- end -}}

{{/* Models and stores for which Envoy needs clusters: those of the release's rules, and those named for rules outside of it. */}}
{{- define "tenantry.attachment.models" -}}
{{- merge (dict) (.Values.attachment.models | default dict) ((.Values.rules | default dict).models | default dict) | toJson -}}
{{- end -}}
{{- define "tenantry.attachment.stores" -}}
{{- merge (dict) (.Values.attachment.stores | default dict) ((.Values.rules | default dict).stores | default dict) | toJson -}}
{{- end -}}
