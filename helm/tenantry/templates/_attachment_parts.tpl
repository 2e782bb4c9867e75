{{/*
Parts of Envoy's configuration for meshes. They come from files/envoy, which the typed generator writes; set here are
addresses, names and the limits of the rules. Each returns JSON.
*/}}
{{- define "tenantry.attachment.limits" -}}
{{- $limits := .Files.Get "files/envoy/limits.json" | fromJson -}}
{{- $own := (.Values.rules | default dict).limits | default dict -}}
{{- $body := $own.maxBodyBytes | default $limits.default_max_body_bytes | int64 -}}
{{- $idle := $own.streamIdleSeconds | default $limits.default_stream_idle_seconds | float64 -}}
{{- dict "receive" (add $body (int64 $limits.reply_overhead_bytes)) "buffer" (printf "%d" (add $body (int64 $limits.stamp_bytes))) "idle" (printf "%.3fs" $idle) | toJson -}}
{{- end -}}

{{/* Where the mesh finds the sidecar: the chart's own Service, unless attachment.sidecar says another. */}}
{{- define "tenantry.attachment.sidecar" -}}
{{- $own := dict "service" (printf "%s-sidecar" (include "tenantry.name" .)) "port" 50051 "serverName" "" -}}
{{- range $key, $value := .Values.attachment.sidecar }}{{ if $value }}{{ $_ := set $own $key $value }}{{ end }}{{ end -}}
{{- $own | toJson -}}
{{- end -}}

{{/* Kinds of the stores that the rules have, as a JSON list. */}}
{{- define "tenantry.attachment.storeKinds" -}}
{{- $kinds := list -}}
{{- range $name, $store := (include "tenantry.attachment.stores" . | fromJson) }}{{ $kinds = append $kinds ($store.kind | default "milvus") }}{{ end -}}
{{- $kinds | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* The ext_proc filter; its cluster is .cluster, the chart's context .root. */}}
{{- define "tenantry.attachment.extProc" -}}
{{- $root := .root -}}
{{- $filter := $root.Files.Get "files/envoy/ext_proc.json" | fromJson -}}
{{- $config := $filter.typed_config -}}
{{- $kinds := include "tenantry.attachment.storeKinds" $root | fromJsonArray -}}
{{- $features := list -}}
{{- if has "pinecone" $kinds }}{{ $features = append $features "pinecone" }}{{ else if $kinds }}{{ $features = append $features "milvus" }}{{ end -}}
{{- if (($root.Values.rules | default dict).identity | default dict).mtls }}{{ $features = append $features "mtls" }}{{ end -}}
{{- range $name, $model := (include "tenantry.attachment.models" $root | fromJson) -}}
{{- if eq ($model.usage | default "") "response" }}{{ $features = append $features "usage" }}{{ end -}}
{{- end -}}
{{- range $feature := ($features | uniq) -}}
{{- range $field, $value := ($root.Files.Get (printf "files/envoy/ext_proc.%s.json" $feature) | fromJson) -}}
{{- $_ := set $config $field $value -}}
{{- end -}}
{{- end -}}
{{- $limits := include "tenantry.attachment.limits" $root | fromJson -}}
{{- $_ := set $config.grpc_service.envoy_grpc "cluster_name" .cluster -}}
{{- $_ := set $config.grpc_service.envoy_grpc "max_receive_message_length" $limits.receive -}}
{{- $filter | toJson -}}
{{- end -}}

{{/* The fields of the connection manager, with the access log to .cluster. */}}
{{- define "tenantry.attachment.connectionManager" -}}
{{- $root := .root -}}
{{- $manager := $root.Files.Get "files/envoy/connection_manager.json" | fromJson -}}
{{- $log := $root.Files.Get "files/envoy/access_log.json" | fromJson -}}
{{- $_ := set $log.typed_config.common_config.grpc_service.envoy_grpc "cluster_name" .cluster -}}
{{- $_ := set $manager "access_log" (list $log) -}}
{{- $_ := set $manager "stream_idle_timeout" (include "tenantry.attachment.limits" $root | fromJson).idle -}}
{{- if (include "tenantry.attachment.storeKinds" $root | fromJsonArray) -}}
{{- $_ := set $manager "local_reply_config" ($root.Files.Get "files/envoy/local_replies.stores.json" | fromJson) -}}
{{- end -}}
{{- $manager | toJson -}}
{{- end -}}

{{/* The virtual host with every route; .mirror: with routes that copy; .extProc: what the mesh calls the filter. */}}
{{- define "tenantry.attachment.virtualHost" -}}
{{- $root := .root -}}
{{- $mirror := .mirror -}}
{{- $extProc := .extProc -}}
{{- $host := $root.Files.Get "files/envoy/virtual_host.json" | fromJson -}}
{{- $limits := include "tenantry.attachment.limits" $root | fromJson -}}
{{- $last := last $host.routes -}}
{{- $routes := list -}}
{{- range (initial $host.routes) -}}
{{- if or $mirror (not (hasSuffix ".mirror" .name)) }}{{ $routes = append $routes . }}{{ end -}}
{{- end -}}
{{- range $kind := (include "tenantry.attachment.storeKinds" $root | fromJsonArray) -}}
{{- $routes = concat $routes ($root.Files.Get (printf "files/envoy/routes.%s.json" $kind) | fromJsonArray) -}}
{{- end -}}
{{- range $routes -}}
{{- $_ := set . "request_body_buffer_limit" $limits.buffer -}}
{{- $_ := set .route "idle_timeout" $limits.idle -}}
{{- $own := .typed_per_filter_config | default dict -}}
{{- if hasKey $own "envoy.filters.http.ext_proc" -}}
{{- $override := index $own "envoy.filters.http.ext_proc" -}}
{{- $_ := unset $own "envoy.filters.http.ext_proc" -}}
{{- $_ := set $own $extProc $override -}}
{{- end -}}
{{- end -}}
{{- $_ := set $host "routes" (append $routes $last) -}}
{{- $_ := set $host "name" "tenantry" -}}
{{- $_ := set $host "domains" ($root.Values.attachment.hosts | default (list "*")) -}}
{{- $host | toJson -}}
{{- end -}}

{{/* One cluster: the file .file (without static or dns), .name, .endpoints (host:port), .root; .tls is a CA file. */}}
{{- define "tenantry.attachment.cluster" -}}
{{- $root := .root -}}
{{- $tls := .tls -}}
{{- $name := .name -}}
{{- $kind := "static" -}}
{{- $endpoints := list -}}
{{- range .endpoints -}}
{{- $parts := regexFindAll "^(.+):([0-9]+)$" . -1 -}}
{{- if not $parts }}{{ fail (printf "%s: endpoint %q is not host:port" $name .) }}{{ end -}}
{{- $port := regexReplaceAll "^.+:([0-9]+)$" . "${1}" -}}
{{- $host := regexReplaceAll "^\\[?([^\\]]+)\\]?:[0-9]+$" . "${1}" -}}
{{- if not (or (regexMatch "^[0-9.]+$" $host) (contains ":" $host)) }}{{ $kind = "dns" }}{{ end -}}
{{- $address := dict "socket_address" (dict "address" $host "port_value" (int64 $port)) -}}
{{- $endpoints = append $endpoints (dict "endpoint" (dict "address" $address "hostname" (ternary $host . (ne $tls "")))) -}}
{{- end -}}
{{- $cluster := $root.Files.Get (printf "files/envoy/%s.%s%s.json" .file $kind (ternary ".tls" "" (ne $tls ""))) | fromJson -}}
{{- $_ := set $cluster "name" $name -}}
{{- $_ := set $cluster.load_assignment "cluster_name" $name -}}
{{- $_ := set $cluster.load_assignment "endpoints" (list (dict "lb_endpoints" $endpoints)) -}}
{{- if ne $tls "" -}}
{{- $_ := set $cluster.transport_socket.typed_config.common_tls_context.validation_context "trusted_ca" (dict "filename" $tls) -}}
{{- end -}}
{{- $cluster | toJson -}}
{{- end -}}

{{/* Every cluster that the sidecar may name, as a JSON list: versions, aggregates of rollouts, stores. */}}
{{- define "tenantry.attachment.clusters" -}}
{{- $root := . -}}
{{- $found := list -}}
{{- range $model, $spec := (include "tenantry.attachment.models" . | fromJson) -}}
{{- range $version, $at := $spec.versions -}}
{{- $found = append $found (include "tenantry.attachment.cluster" (dict "root" $root "file" "cluster.model" "name" (printf "%s@%s" $model $version) "endpoints" $at.endpoints "tls" "") | fromJson) -}}
{{- end -}}
{{- with $spec.rollout -}}
{{- $rescue := $root.Files.Get "files/envoy/cluster.rescue.json" | fromJson -}}
{{- $_ := set $rescue "name" (printf "%s@%s@%s" $model .candidate $spec.stable) -}}
{{- $_ := set $rescue.cluster_type.typed_config "clusters" (list (printf "%s@%s" $model .candidate) (printf "%s@%s" $model $spec.stable)) -}}
{{- $found = append $found $rescue -}}
{{- end -}}
{{- end -}}
{{- range $name, $store := (include "tenantry.attachment.stores" . | fromJson) -}}
{{- $tls := "" -}}
{{- if hasKey $store "tls" }}{{ $tls = ($store.tls | default dict).caFile | default "/etc/ssl/certs/ca-certificates.crt" }}{{ end -}}
{{- range $protocol, $endpoints := dict "rest" $store.endpoints "grpc" ($store.grpcEndpoints | default $store.endpoints) -}}
{{- $found = append $found (include "tenantry.attachment.cluster" (dict "root" $root "file" (printf "cluster.store.%s" $protocol) "name" (printf "store.%s.%s" $name $protocol) "endpoints" $endpoints "tls" $tls) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}
