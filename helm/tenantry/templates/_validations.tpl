{{/* What the schema cannot say: names that point nowhere, parts that do not fit. Other parts of the rules may be outside
     the release (rulesFrom): then names are left to `tenantry check`, the hook. */}}

{{- define "tenantry.validate" -}}
{{- $v := .Values -}}
{{- $r := $v.rules -}}
{{- if not $v.rulesFrom -}}
{{- range list "version" "tiers" "models" -}}
{{- if not (hasKey $r .) -}}
{{- fail (printf "rules.%s: is missing. A first document: {version: 1, tiers: {standard: {}}, defaultTier: standard, models: {}}; all of it in docs/rules.md" .) -}}
{{- end -}}
{{- end -}}
{{- include "tenantry.validateNames" . -}}
{{- end -}}
{{- $bytes := len (include "tenantry.document" .) -}}
{{- if gt $bytes 700000 -}}
{{- fail (printf "rules: %d bytes are too many for a release, which holds 1 MiB and has them three times, compressed. Keep tenants outside of it: `tenantry rules split`, then rulesFrom (docs/large-rule-sets.md)" $bytes) -}}
{{- end -}}
{{- if not $v.secretName -}}
{{- fail "secretName: name the Secret with the key material. Make one: `tenantry secrets new FOLDER`, then `kubectl create secret generic NAME --from-file=FOLDER`" -}}
{{- end -}}
{{- include "tenantry.attachment.check" . -}}
{{- if and (eq $v.attachment.kind "plain") (ne $v.sidecar.mode "container") -}}
{{- fail "sidecar.mode: with attachment.kind plain the sidecar runs in Envoy's pod: set container" -}}
{{- end -}}
{{- if and (ne $v.attachment.kind "plain") (ne $v.sidecar.mode "deployment") -}}
{{- fail (printf "sidecar.mode: with attachment.kind %s Envoy's pods are not the chart's: set deployment" $v.attachment.kind) -}}
{{- end -}}
{{- if and (eq $v.sidecar.mode "deployment") (not $v.tls.secretName) -}}
{{- fail "tls.secretName: Envoy reaches sidecars of their own over mutual TLS: name a Secret with tls.crt, tls.key, ca.crt" -}}
{{- end -}}
{{- if and $v.tls.secretName (not $v.tls.allowClientSans) -}}
{{- fail "tls.allowClientSans: name the certificates that may connect, for example spiffe://prod/envoy; the CA alone lets everybody in who has one" -}}
{{- end -}}
{{- $peer := $v.networkPolicy.envoy -}}
{{- if and $v.networkPolicy.enabled (ne $v.attachment.kind "plain") (not (or $peer.ipBlock (dig "matchLabels" (dict) ($peer.podSelector | default dict)) (dig "matchExpressions" (list) ($peer.podSelector | default dict)))) -}}
{{- fail "networkPolicy.envoy: name the pods of your Envoy (namespaceSelector and podSelector with labels): without labels every pod is let through to sidecars and engines. Or set networkPolicy.enabled to false" -}}
{{- end -}}
{{- if and $r.identity (dig "mtls" nil $r.identity) (eq $v.attachment.kind "plain") (not (and $v.envoy.tls.secretName $v.envoy.tls.clientCertificates)) -}}
{{- fail "envoy.tls: rules.identity.mtls takes tenants from client certificates, and Envoy verifies none: set envoy.tls.secretName (tls.crt, tls.key, ca.crt) and envoy.tls.clientCertificates" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.maxReplicas) (int $v.sidecar.replicas)) -}}
{{- fail (printf "autoscaling.maxReplicas: %d is less than sidecar.replicas, %d" (int $v.autoscaling.maxReplicas) (int $v.sidecar.replicas)) -}}
{{- end -}}
{{- $several := or (gt (int $v.sidecar.replicas) 1) $v.autoscaling.enabled -}}
{{- $shared := include "tenantry.shared" $r | fromJsonArray -}}
{{- if and $several $shared (not $v.sidecar.redis.secretName) -}}
{{- fail (printf "sidecar.redis.secretName: several sidecars share %s through Redis, and each would go by its own part alone: name a Secret with its URL, or set sidecar.replicas to 1" (first $shared)) -}}
{{- end -}}
{{- if and $several $v.sidecar.state.existingClaim -}}
{{- fail "sidecar.state.existingClaim: SQLite on a claim is for one sidecar. For several use sidecar.redis, or set sidecar.replicas to 1 and autoscaling.enabled to false" -}}
{{- end -}}
{{- if $v.ledger.enabled -}}
{{- if not $v.tls.secretName -}}
{{- fail "tls.secretName: engines and sidecars reach the ledger over mutual TLS: name a Secret with tls.crt, tls.key, ca.crt. Or set ledger.enabled to false" -}}
{{- end -}}
{{- if not (or $v.ledger.db.secretName $v.ledger.db.existingClaim) -}}
{{- fail "ledger.db: name a Secret with a postgresql:// URL (secretName), or a claim for SQLite (existingClaim); usage on an emptyDir would be lost. Or set ledger.enabled to false" -}}
{{- end -}}
{{- if and (gt (int $v.ledger.replicas) 1) (not $v.ledger.db.secretName) -}}
{{- fail "ledger.replicas: several ledgers need PostgreSQL (ledger.db.secretName)" -}}
{{- end -}}
{{- end -}}
{{- range $i, $part := $v.rulesFrom -}}
{{- if eq (empty $part.configMap) (empty $part.secret) -}}
{{- fail (printf "rulesFrom[%d]: name either a configMap or a secret" $i) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What of the rules sidecars must agree on, as a JSON list of paths: rollouts and quotas. */}}
{{- define "tenantry.shared" -}}
{{- $shared := list -}}
{{- range $name, $model := .models }}{{ if $model.rollout }}{{ $shared = append $shared (printf "rules.models.%s.rollout" $name) }}{{ end }}{{ end -}}
{{- range $kind := list "tiers" "tenants" -}}
{{- range $name, $each := (index $ $kind) }}{{ if $each.quota }}{{ $shared = append $shared (printf "rules.%s.%s.quota" $kind $name) }}{{ end }}{{ end -}}
{{- end -}}
{{- toJson $shared -}}
{{- end -}}

{{- define "tenantry.validateNames" -}}
{{- $r := .Values.rules -}}
{{- $tiers := $r.tiers | default dict -}}
{{- $models := $r.models | default dict -}}
{{- with $r.defaultTier }}{{ include "tenantry.known" (list "rules.defaultTier" "tier" . $tiers) }}{{ end -}}
{{- range $name, $model := $models -}}
{{- $path := printf "rules.models.%s" $name -}}
{{- include "tenantry.known" (list (printf "%s.stable" $path) "version" $model.stable $model.versions) -}}
{{- with $model.rollout -}}
{{- include "tenantry.known" (list (printf "%s.rollout.candidate" $path) "version" .candidate $model.versions) -}}
{{- range $tier, $_ := .percentByTier }}{{ include "tenantry.known" (list (printf "%s.rollout.percentByTier" $path) "tier" $tier $tiers) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $name, $tenant := $r.tenants -}}
{{- $path := printf "rules.tenants.%s" $name -}}
{{- with $tenant.tier }}{{ include "tenantry.known" (list (printf "%s.tier" $path) "tier" . $tiers) }}{{ end -}}
{{- range $model := $tenant.models }}{{ include "tenantry.known" (list (printf "%s.models" $path) "model" $model $models) }}{{ end -}}
{{- range $model, $_ := $tenant.adapters }}{{ include "tenantry.known" (list (printf "%s.adapters" $path) "model" $model $models) }}{{ end -}}
{{- range $model, $version := $tenant.pins -}}
{{- include "tenantry.known" (list (printf "%s.pins" $path) "model" $model $models) -}}
{{- include "tenantry.known" (list (printf "%s.pins.%s" $path $model) "version" $version (index $models $model "versions")) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tenantry.known" -}}
{{- $path := index . 0 -}}{{- $what := index . 1 -}}{{- $name := index . 2 -}}{{- $there := index . 3 -}}
{{- if not (hasKey $there $name) -}}
{{- fail (printf "%s: no %s %q; there are: %s" $path $what $name (keys $there | sortAlpha | join ", " | default "none")) -}}
{{- end -}}
{{- end -}}
