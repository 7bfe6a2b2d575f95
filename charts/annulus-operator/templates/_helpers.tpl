{{/* The name of what is made in the release's namespace. */}}
{{- define "annulus-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of what belongs to no namespace: two releases of the same name may be in two namespaces. */}}
{{- define "annulus-operator.clusterName" -}}
{{- printf "%s.%s" (include "annulus-operator.name" .) .Release.Namespace -}}
{{- end -}}

{{/* The name of the webhook's Service, and of the Secret with its certificate. */}}
{{- define "annulus-operator.webhook" -}}
{{- printf "%s-webhook" (include "annulus-operator.name" .) -}}
{{- end -}}

{{/* By these labels pods are found. They never change: a Deployment's selector can't. */}}
{{- define "annulus-operator.selector" -}}
app.kubernetes.io/name: annulus-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "annulus-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "annulus-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: annulus
{{- end -}}

{{/* What the operator does in a namespace with StorageClusters. */}}
{{- define "annulus-operator.rules" -}}
- apiGroups: [annulus.dev]
  resources: [storageclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [annulus.dev]
  resources: [storageclusters/status]
  verbs: [patch]
# Where owner references are checked, one that blocks its owner's deletion takes this.
- apiGroups: [annulus.dev]
  resources: [storageclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "annulus-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "annulus-operator.name" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
