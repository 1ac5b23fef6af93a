package main

import (
	"fmt"
	"maps"
	"strings"

	certificates "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A pod, and the object that makes it; that of a Job selects by labels that Kubernetes gives.
type workload struct {
	id       string
	selector map[string]string
	template core.PodTemplateSpec
}

func workloads(objects []runtime.Object) []workload {
	var found []workload
	for _, object := range objects {
		switch it := object.(type) {
		case *apps.DaemonSet:
			found = append(found, workload{"DaemonSet " + it.Name, it.Spec.Selector.MatchLabels, it.Spec.Template})
		case *apps.Deployment:
			found = append(found, workload{"Deployment " + it.Name, it.Spec.Selector.MatchLabels, it.Spec.Template})
		case *batch.Job:
			found = append(found, workload{"Job " + it.Name, nil, it.Spec.Template})
		case *batch.CronJob:
			found = append(found, workload{"CronJob " + it.Name, nil, it.Spec.JobTemplate.Spec.Template})
		}
	}
	return found
}

// references holds that what one object names is there, and as an API server would want it.
func references(out *report, check string, objects []runtime.Object) {
	out.begin(check)
	accounts, configs, roles := map[string]bool{}, map[string]*core.ConfigMap{}, map[string]bool{}
	written := map[string]bool{}
	for _, object := range objects {
		switch it := object.(type) {
		case *core.ServiceAccount:
			accounts[it.Name] = true
		case *core.ConfigMap:
			configs[it.Name] = it
		case *rbac.ClusterRole:
			roles["ClusterRole "+it.Name] = true
		case *rbac.Role:
			roles["Role "+it.Name] = true
		case *certificates.Certificate:
			written[it.Spec.SecretName] = true
		case *core.Secret:
			// Those that a Job fills.
			if it.Labels["farshore.io/member"] != "" {
				written[it.Name] = true
			}
		}
	}
	pods := workloads(objects)
	taken := map[string]string{}
	for _, pod := range pods {
		podReferences(out, check, pod, accounts, configs, written)
		if pod.selector == nil {
			continue
		}
		// Two that select the same pods would fight over them.
		key := labels.Set(pod.selector).String()
		if other, twice := taken[key]; twice {
			out.fail(check, "%s and %s select the same pods", pod.id, other)
		}
		taken[key] = pod.id
	}
	selected := func(selector map[string]string) (count int) {
		for _, pod := range pods {
			if labels.SelectorFromSet(selector).Matches(labels.Set(pod.template.Labels)) {
				count++
			}
		}
		return count
	}
	for _, object := range objects {
		switch it := object.(type) {
		case *core.Service:
			if selected(it.Spec.Selector) != 1 {
				out.fail(check, "Service %s selects %d kinds of pods instead of one", it.Name, selected(it.Spec.Selector))
			}
		case *monitoring.PodMonitor:
			if selected(it.Spec.Selector.MatchLabels) == 0 {
				out.fail(check, "PodMonitor %s selects no pods", it.Name)
			}
		case *rbac.ClusterRoleBinding:
			binding(out, check, it.Name, it.RoleRef, it.Subjects, accounts, roles)
		case *rbac.RoleBinding:
			binding(out, check, it.Name, it.RoleRef, it.Subjects, accounts, roles)
		}
	}
}

func binding(out *report, check, of string, role rbac.RoleRef, to []rbac.Subject, accounts, roles map[string]bool) {
	if !roles[role.Kind+" "+role.Name] {
		out.fail(check, "binding %s: there is no %s %s", of, role.Kind, role.Name)
	}
	for _, subject := range to {
		if !accounts[subject.Name] || subject.Namespace == "" {
			out.fail(check, "binding %s: there is no service account %s/%s", of, subject.Namespace, subject.Name)
		}
	}
}

func podReferences(out *report, check string, pod workload, accounts map[string]bool, configs map[string]*core.ConfigMap, written map[string]bool) {
	spec := pod.template.Spec
	fail := func(format string, arguments ...any) {
		out.fail(check, "%s: %s", pod.id, fmt.Sprintf(format, arguments...))
	}
	if pod.selector != nil && (!labels.SelectorFromSet(pod.selector).Matches(labels.Set(pod.template.Labels)) || len(pod.selector) == 0) {
		fail("its selector does not match its own pods")
	}
	if !accounts[spec.ServiceAccountName] {
		fail("there is no service account %q", spec.ServiceAccountName)
	}
	volumes := map[string]core.Volume{}
	for _, volume := range spec.Volumes {
		if _, twice := volumes[volume.Name]; twice || len(validation.IsDNS1123Label(volume.Name)) > 0 {
			fail("volume %q is there twice, or has no good name", volume.Name)
		}
		volumes[volume.Name] = volume
		if source := volume.ConfigMap; source != nil {
			if configs[source.Name] == nil {
				fail("there is no ConfigMap %q", source.Name)
			}
			for _, item := range source.Items {
				if configs[source.Name] != nil && configs[source.Name].Data[item.Key] == "" {
					fail("ConfigMap %s has no %q", source.Name, item.Key)
				}
			}
		}
		// Those that users bring are called own-… in the values of ci.
		if volume.Secret != nil && len(written) > 0 && !written[volume.Secret.SecretName] && !strings.HasPrefix(volume.Secret.SecretName, "own-") {
			fail("nobody writes the Secret %q", volume.Secret.SecretName)
		}
		if volume.HostPath != nil && (volume.HostPath.Type == nil || !strings.HasPrefix(volume.HostPath.Path, "/")) {
			fail("host path %q is not absolute, or has no type", volume.HostPath.Path)
		}
	}
	used, containers, ports := map[string]bool{}, map[string]bool{}, map[string]int32{}
	all := append(append([]core.Container{}, spec.InitContainers...), spec.Containers...)
	for _, container := range all {
		if containers[container.Name] || len(validation.IsDNS1123Label(container.Name)) > 0 {
			fail("container %q is there twice, or has no good name", container.Name)
		}
		containers[container.Name] = true
		if image := container.Image; !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
			fail("image %q has no version", image)
		}
		security := container.SecurityContext
		privileged := security != nil && security.Privileged != nil && *security.Privileged
		if security == nil || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
			fail("container %s may write to its image", container.Name)
		}
		if !privileged && (security == nil || security.Capabilities == nil || len(security.Capabilities.Drop) == 0) {
			fail("container %s keeps capabilities that it does not need", container.Name)
		}
		// Who needs it is a list, so that nobody gets it by mistake.
		needs := strings.Contains(pod.id, "-replicator-") && container.Name == "replicator" ||
			strings.HasSuffix(pod.id, "-device") && container.Name == "device" ||
			strings.HasSuffix(pod.id, "-csi-node") && container.Name == "csi"
		if privileged != needs {
			fail("container %s: privileged is %v", container.Name, privileged)
		}
		for _, port := range container.Ports {
			ports[port.Name] = port.ContainerPort
			if len(validation.IsValidPortName(port.Name)) > 0 {
				fail("port %q has no good name", port.Name)
			}
			if spec.HostNetwork && port.HostPort != 0 && port.HostPort != port.ContainerPort {
				fail("port %s: on the host's network host and container port are one", port.Name)
			}
		}
		paths := map[string]bool{}
		for _, mount := range container.VolumeMounts {
			if _, known := volumes[mount.Name]; !known {
				fail("container %s mounts %q, which is no volume", container.Name, mount.Name)
			}
			if paths[mount.MountPath] {
				fail("container %s mounts twice at %s", container.Name, mount.MountPath)
			}
			paths[mount.MountPath], used[mount.Name] = true, true
			if mount.MountPropagation != nil && *mount.MountPropagation == core.MountPropagationBidirectional && !privileged {
				fail("container %s: only privileged ones may mount for the host", container.Name)
			}
		}
		variables := map[string]bool{}
		for _, variable := range container.Env {
			variables[variable.Name] = true
		}
		for _, argument := range append(append([]string{}, container.Command...), container.Args...) {
			for rest := argument; ; {
				at := strings.Index(rest, "$(")
				if at < 0 {
					break
				}
				rest = rest[at+2:]
				name, _, _ := strings.Cut(rest, ")")
				if !variables[name] {
					fail("container %s: $(%s) is not in its environment", container.Name, name)
				}
			}
		}
	}
	for _, container := range all {
		for _, probe := range []*core.Probe{container.LivenessProbe, container.ReadinessProbe, container.StartupProbe} {
			if probe == nil || probe.HTTPGet == nil {
				continue
			}
			port := probe.HTTPGet.Port
			if _, named := ports[port.StrVal]; port.StrVal != "" && !named {
				fail("container %s probes port %q, which none has", container.Name, port.StrVal)
			}
		}
	}
	if missing := maps.Clone(volumes); len(missing) > 0 {
		for name := range used {
			delete(missing, name)
		}
		for _, name := range sorted(missing) {
			fail("nobody mounts volume %q", name)
		}
	}
}
