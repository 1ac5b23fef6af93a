package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	certificates "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	groups "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	yamls "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// csi-addons' class, as its published definition has it: its own module can't be fetched everywhere.
type volumeReplicationClass struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata,omitempty"`
	Spec            struct {
		Provisioner string            `json:"provisioner"`
		Parameters  map[string]string `json:"parameters,omitempty"`
	} `json:"spec"`
}

func (c *volumeReplicationClass) DeepCopyObject() runtime.Object { copied := *c; return &copied }

// Where the metadata of snapshots is served, as its published definition has it.
type snapshotMetadataService struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata,omitempty"`
	Spec            struct {
		Audience string `json:"audience"`
		Address  string `json:"address"`
		CACert   []byte `json:"caCert"`
	} `json:"spec"`
}

func (s *snapshotMetadataService) DeepCopyObject() runtime.Object { copied := *s; return &copied }

// Every kind that the chart may render. One that is not here is a failure, not something to look past.
var kinds = map[string]func() runtime.Object{
	"v1/ConfigMap":       func() runtime.Object { return &core.ConfigMap{} },
	"v1/Secret":          func() runtime.Object { return &core.Secret{} },
	"v1/Service":         func() runtime.Object { return &core.Service{} },
	"v1/ServiceAccount":  func() runtime.Object { return &core.ServiceAccount{} },
	"apps/v1/DaemonSet":  func() runtime.Object { return &apps.DaemonSet{} },
	"apps/v1/Deployment": func() runtime.Object { return &apps.Deployment{} },
	"batch/v1/Job":       func() runtime.Object { return &batch.Job{} },
	"batch/v1/CronJob":   func() runtime.Object { return &batch.CronJob{} },
	"rbac.authorization.k8s.io/v1/ClusterRole": func() runtime.Object { return &rbac.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/Role":        func() runtime.Object { return &rbac.Role{} },
	"storage.k8s.io/v1/CSIDriver":              func() runtime.Object { return &storage.CSIDriver{} },
	"storage.k8s.io/v1/StorageClass":           func() runtime.Object { return &storage.StorageClass{} },
	"snapshot.storage.k8s.io/v1/VolumeSnapshotClass": func() runtime.Object {
		return &snapshots.VolumeSnapshotClass{}
	},
	"groupsnapshot.storage.k8s.io/v1/VolumeGroupSnapshotClass": func() runtime.Object {
		return &groups.VolumeGroupSnapshotClass{}
	},
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() runtime.Object { return &rbac.ClusterRoleBinding{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() runtime.Object { return &rbac.RoleBinding{} },
	"cert-manager.io/v1/Certificate":                  func() runtime.Object { return &certificates.Certificate{} },
	"monitoring.coreos.com/v1/PodMonitor":             func() runtime.Object { return &monitoring.PodMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule":         func() runtime.Object { return &monitoring.PrometheusRule{} },
	"replication.storage.openshift.io/v1alpha1/VolumeReplicationClass": func() runtime.Object {
		return &volumeReplicationClass{}
	},
	"cbt.storage.k8s.io/v1beta1/SnapshotMetadataService": func() runtime.Object { return &snapshotMetadataService{} },
}

// Without a namespace of their own.
var clusterWide = map[string]bool{
	"ClusterRole": true, "ClusterRoleBinding": true, "CSIDriver": true, "StorageClass": true, "VolumeSnapshotClass": true,
	"VolumeGroupSnapshotClass": true, "VolumeReplicationClass": true, "SnapshotMetadataService": true,
}

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// decode reads every document into the type that Kubernetes itself has for it; a field that the type does not have, or
// has with another type, is a failure.
func decode(out *report, check, path string) []runtime.Object {
	out.begin(check)
	bytesOf, err := os.ReadFile(path)
	if err != nil {
		out.fail(check, "%v", err)
		return nil
	}
	var objects []runtime.Object
	seen := map[string]bool{}
	reader := yamls.NewYAMLReader(newLines(bytesOf))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			out.fail(check, "%v", err)
			break
		}
		var is meta.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &is); err != nil {
			out.fail(check, "%v", err)
			continue
		}
		if is.Kind == "" {
			if len(bytes.TrimSpace(comments.ReplaceAll(document, nil))) > 0 {
				out.fail(check, "a document has no kind: %.60q", document)
			}
			continue
		}
		id := fmt.Sprintf("%s %s/%s", is.Kind, is.Namespace, is.Name)
		make, known := kinds[is.APIVersion+"/"+is.Kind]
		if !known {
			out.fail(check, "%s: %s %s is no kind that is known here", id, is.APIVersion, is.Kind)
			continue
		}
		object := make()
		// As an API server reads it: upper and lower case are not the same.
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			out.fail(check, "%s: %v", id, err)
			continue
		}
		unknown, err := json.UnmarshalStrict(text, object)
		if err != nil {
			unknown = append(unknown, err)
		}
		for _, err := range unknown {
			out.fail(check, "%s: %v", id, err)
		}
		if seen[id] {
			out.fail(check, "%s is there twice", id)
		}
		seen[id] = true
		if !name.MatchString(is.Name) {
			out.fail(check, "%s: no name for an object", id)
		}
		if (is.Namespace == "") != clusterWide[is.Kind] {
			out.fail(check, "%s: its namespace is %q", id, is.Namespace)
		}
		for key, value := range is.Labels {
			for _, why := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
				out.fail(check, "%s: label %s=%s: %s", id, key, value, why)
			}
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		out.fail(check, "nothing was rendered")
	}
	return objects
}
