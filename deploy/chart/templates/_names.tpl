{{/* The prefix of every name. */}}
{{- define "farshore.name" -}}
{{- if contains "farshore" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-farshore" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "farshore.labels" -}}
app.kubernetes.io/name: farshore
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* dict "root" . "component" "replicator" */}}
{{- define "farshore.selector" -}}
app.kubernetes.io/name: farshore
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* dict "root" . "image" .Values.csi.image */}}
{{- define "farshore.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What Farshore calls a node. */}}
{{- define "farshore.member" -}}
{{ .member | default (.name | replace "." "-") }}
{{- end }}

{{/* dict "root" . "node" NODE: by what this site's other nodes reach it */}}
{{- define "farshore.address" -}}
{{- $host := .node.address | default .node.name }}
{{- if and .root.Values.replicator.service.enabled (not .node.address) }}
{{- $host = printf "%s-replicator-%s.%s.svc" (include "farshore.name" .root) (include "farshore.member" .node) .root.Release.Namespace }}
{{- end }}
{{- printf "%s:%v" $host .root.Values.replicator.port }}
{{- end }}

{{- define "farshore.secret" -}}
{{ .node.secret | default (printf "%s-pki-%s" (include "farshore.name" .root) (include "farshore.member" .node)) }}
{{- end }}

{{/* Where the CA is, of certificates that the chart makes itself. */}}
{{- define "farshore.caSecret" -}}
{{ .Values.certificates.chart.ca.secret | default (printf "%s-ca" (include "farshore.name" .)) }}
{{- end }}

{{/* Loopback where the kubelet's probes reach it and nobody else has to. */}}
{{- define "farshore.metricsAddress" -}}
{{- if .Values.replicator.metrics.address }}{{ .Values.replicator.metrics.address }}
{{- else if and .Values.replicator.hostNetwork (not .Values.monitoring.podMonitor.enabled) }}127.0.0.1
{{- else }}[::]
{{- end }}
{{- end }}

{{/* Only where a replicator is: each of the driver's pods speaks to the one of its node. */}}
{{- define "farshore.onNodes" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      {{- range .Values.nodes }}
      - matchFields:
          - key: metadata.name
            operator: In
            values: [{{ .name | quote }}]
      {{- end }}
{{- end }}

{{/* What the schema can't say. */}}
{{- define "farshore.check" -}}
{{- $site := .Values.site }}
{{- $sites := list $site }}
{{- $seen := dict }}
{{- range .Values.nodes }}
{{- $member := include "farshore.member" . }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" $member) }}
{{- fail (printf "nodes: %q can't name a member: give member, 1 to 63 of a-z, 0-9 and '-'" $member) }}
{{- end }}
{{- if hasKey $seen $member }}{{ fail (printf "nodes: member %q is there twice: give each its own member" $member) }}{{ end }}
{{- $_ := set $seen $member true }}
{{- end }}
{{- $names := dict }}
{{- range .Values.nodes }}
{{- if hasKey $names .name }}{{ fail (printf "nodes: %q is there twice" .name) }}{{ end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- $peers := dict }}
{{- range .Values.peers }}
{{- if eq .site $site }}{{ fail (printf "peers: %s/%s is of this site: list it in nodes" .site .node) }}{{ end }}
{{- $peer := printf "%s/%s" .site .node }}
{{- if hasKey $peers $peer }}{{ fail (printf "peers: %s is there twice" $peer) }}{{ end }}
{{- $_ := set $peers $peer true }}
{{- $sites = append $sites .site }}
{{- end }}
{{- if and .Values.certificates.certManager.enabled (not .Values.certificates.certManager.issuerRef.name) }}
{{- fail "certificates.certManager.issuerRef.name is missing: name the issuer of the CA that all sites share" }}
{{- end }}
{{- if and .Values.certificates.certManager.enabled .Values.certificates.chart.enabled }}
{{- fail "certificates.certManager.enabled and certificates.chart.enabled are both true: two would write the same Secrets; choose one" }}
{{- end }}
{{- if ge (int .Values.certificates.chart.renewDays) (int .Values.certificates.chart.days) }}
{{- fail "certificates.chart: renewDays must be less than days, or each certificate would be renewed every time" }}
{{- end }}
{{- if and .Values.csiAddons.enabled (not .Values.csiAddons.sidecarImage) }}
{{- fail "csiAddons.sidecarImage is missing: name the sidecar's image, of the same version as the csi-addons controller" }}
{{- end }}
{{- $metadata := .Values.snapshots.metadata }}
{{- if $metadata.enabled }}
{{- if not .Values.snapshots.enabled }}{{ fail "snapshots.metadata.enabled needs snapshots.enabled: set it to true as well" }}{{ end }}
{{- if not (and $metadata.tlsSecret $metadata.caCert) }}
{{- fail (printf "snapshots.metadata: tlsSecret or caCert is missing: name a Secret with a certificate for %s-snapshot-metadata.%s.svc, and give the CA that issued it" (include "farshore.name" .) .Release.Namespace) }}
{{- end }}
{{- end }}
{{- if .Values.csi.enabled }}
{{- $times := .Values.csi.sidecars.leaderElection }}
{{- $seconds := dict }}
{{- range $key, $value := $times }}{{ $_ := set $seconds $key (int (trimSuffix "s" $value)) }}{{ end }}
{{- if le $seconds.leaseDuration $seconds.renewDeadline }}
{{- fail (printf "csi.sidecars.leaderElection: leaseDuration (%s) must be longer than renewDeadline (%s), or two controllers could work at once" $times.leaseDuration $times.renewDeadline) }}
{{- end }}
{{- if le (mul 5 $seconds.renewDeadline) (mul 6 $seconds.retryPeriod) }}
{{- fail (printf "csi.sidecars.leaderElection: renewDeadline (%s) must be longer than 1.2 times retryPeriod (%s), as the sidecars want it" $times.renewDeadline $times.retryPeriod) }}
{{- end }}
{{- range $class, $is := .Values.storageClasses }}
{{- if $is.enabled }}
{{- $data := list }}
{{- range splitList "," (default $site $is.parameters.sites) }}{{ $data = append $data (first (splitList "/" (trim .))) }}{{ end }}
{{- $named := $data }}
{{- if $is.parameters.witness }}
{{- range splitList "," $is.parameters.witness }}{{ $named = append $named (first (splitList "/" (trim .))) }}{{ end }}
{{- end }}
{{- range $named }}
{{- if not (has . $sites) }}
{{- fail (printf "storageClasses.%s: site %q is neither this one (%s) nor one of peers: correct it, or set enabled: false" $class . $site) }}
{{- end }}
{{- end }}
{{- if not (has $site $data) }}
{{- fail (printf "storageClasses.%s: keeps no data in %s, so that no pod of this cluster could use it: add the site, or set enabled: false" $class $site) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Which of the controllers works, and how soon another one does when its node is gone. */}}
{{- define "farshore.electionTimes" -}}
{{- $times := .Values.csi.sidecars.leaderElection -}}
- --leader-election-lease-duration={{ $times.leaseDuration }}
- --leader-election-renew-deadline={{ $times.renewDeadline }}
- --leader-election-retry-period={{ $times.retryPeriod }}
{{- end }}

{{/* Both sockets are root's alone; beyond that nothing is needed. */}}
{{- define "farshore.sidecarSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
