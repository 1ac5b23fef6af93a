{{/* A value of replicator.toml. */}}
{{- define "farshore.toml" -}}
{{- if kindIs "string" . }}{{ . | quote }}
{{- else if kindIs "float64" . }}{{ printf "%.0f" . }}
{{- else }}{{ . }}
{{- end }}
{{- end }}

{{/* dict "root" . "node" NODE: the whole replicator.toml of a node */}}
{{- define "farshore.config" -}}
{{- $values := .root.Values }}
{{- $replicator := $values.replicator }}
{{- $config := $replicator.config }}
{{- $member := include "farshore.member" .node -}}
[node]
site = {{ $values.site | quote }}
node = {{ $member | quote }}
data_dir = {{ $replicator.dataDir | quote }}
runtime_dir = {{ $replicator.runtimeDir | quote }}
{{- range $key, $value := $config.node }}
{{ $key }} = {{ include "farshore.toml" $value }}
{{- end }}

[transport]
listen = "[::]:{{ $replicator.port }}"
ca = "/etc/farshore/pki/ca.crt"
cert = "/etc/farshore/pki/tls.crt"
key = "/etc/farshore/pki/tls.key"
{{- range $key, $value := $config.transport }}
{{ $key }} = {{ include "farshore.toml" $value }}
{{- end }}

[http]
listen = "{{ include "farshore.metricsAddress" .root }}:{{ $replicator.metrics.port }}"
{{- $store := deepCopy ($config.store | default dict) }}
{{- if .node.slab }}{{ $_ := set $store "slab" .node.slab }}{{ end }}
{{- range $section, $keys := dict "journal" $config.journal "store" $store "log" $config.log }}
{{- if $keys }}

[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ include "farshore.toml" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- $device := deepCopy ($config.device | default dict) }}
{{- if and $values.device.enabled $values.csi.enabled }}
{{- $_ := set $device "process" (printf "%s/device.sock" $replicator.runtimeDir) }}
{{- end }}
{{- if $device }}

[device]
{{- range $key, $value := $device }}
{{ $key }} = {{ include "farshore.toml" $value }}
{{- end }}
{{- end }}
{{- $root := .root }}
{{- range $values.nodes }}
{{- if ne (include "farshore.member" .) $member }}

[[peers]]
site = {{ $values.site | quote }}
node = {{ include "farshore.member" . | quote }}
address = {{ include "farshore.address" (dict "root" $root "node" .) | quote }}
{{- end }}
{{- end }}
{{- range $values.peers }}

[[peers]]
site = {{ .site | quote }}
node = {{ .node | quote }}
{{- if .address }}
address = {{ .address | quote }}
{{- end }}
{{- end }}
{{ end }}
