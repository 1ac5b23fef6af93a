package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	groups "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What csi-driver/src says of itself. CSI_DRIVER names another folder to read it from.
type driver struct {
	name       string
	flags      []string
	parameters []string
}

var (
	driverName = regexp.MustCompile(`pub const DRIVER: &str = "([^"]+)"`)
	flag       = regexp.MustCompile(`#\[arg\(long[^\]]*\)\]\s*pub ([a-z_]+):`)
)

const noDriver = "csi-driver/src has no args.rs, names.rs and parameters.rs yet"

func readDriver(root string) driver {
	folder := os.Getenv("CSI_DRIVER")
	if folder == "" {
		folder = filepath.Join(root, "csi-driver")
	}
	read := func(file string) string {
		text, _ := os.ReadFile(filepath.Join(folder, "src", file))
		return string(text)
	}
	var found driver
	if match := driverName.FindStringSubmatch(read("names.rs")); match != nil {
		found.name = match[1]
	}
	for _, match := range flag.FindAllStringSubmatch(read("args.rs"), -1) {
		found.flags = append(found.flags, strings.ReplaceAll(match[1], "_", "-"))
	}
	_, table, _ := strings.Cut(read("parameters.rs"), "const KNOWN:")
	table, _, _ = strings.Cut(table, "];")
	for _, match := range quoted.FindAllStringSubmatch(table, -1) {
		found.parameters = append(found.parameters, match[1])
	}
	return found
}

func (d driver) there() bool {
	return d.name != "" && len(d.flags) > 0 && len(d.parameters) > 0
}

// arguments holds that the driver is started with flags that it has.
func (d driver) arguments(out *report, check string, objects []runtime.Object) {
	out.begin(check)
	if !d.there() {
		out.skip(check, noDriver)
		return
	}
	look := func(of string, spec core.PodSpec) {
		for _, container := range spec.Containers {
			if container.Name != "csi" {
				continue
			}
			for _, argument := range container.Args {
				name, _, _ := strings.Cut(strings.TrimPrefix(argument, "--"), "=")
				if !slices.Contains(d.flags, name) {
					out.fail(check, "%s: the driver has no --%s, only %v", of, name, d.flags)
				}
			}
		}
	}
	for _, object := range objects {
		switch it := object.(type) {
		case *apps.DaemonSet:
			look(it.Name, it.Spec.Template.Spec)
		case *apps.Deployment:
			look(it.Name, it.Spec.Template.Spec)
		}
	}
}

// classes holds that classes name the driver, and parameters that it knows.
func (d driver) classes(out *report, check string, objects []runtime.Object) {
	out.begin(check)
	if !d.there() {
		out.skip(check, noDriver)
		return
	}
	named := func(of, name string) {
		if name != d.name {
			out.fail(check, "%s names the driver %q instead of %q", of, name, d.name)
		}
	}
	for _, object := range objects {
		switch it := object.(type) {
		case *storage.CSIDriver:
			named("CSIDriver", it.Name)
		case *snapshots.VolumeSnapshotClass:
			named("VolumeSnapshotClass", it.Driver)
		case *groups.VolumeGroupSnapshotClass:
			named("VolumeGroupSnapshotClass", it.Driver)
		case *volumeReplicationClass:
			named("VolumeReplicationClass", it.Spec.Provisioner)
		case *storage.StorageClass:
			named("StorageClass "+it.Name, it.Provisioner)
			for key := range it.Parameters {
				if !slices.Contains(d.parameters, key) && key != "csi.storage.k8s.io/fstype" {
					out.fail(check, "StorageClass %s: the driver knows no parameter %q", it.Name, key)
				}
			}
		}
	}
}

// documented holds that the README's table has every parameter of the driver's, and no other.
func (d driver) documented(out *report, root string) {
	const check = "parameters in README.md"
	out.begin(check)
	if !d.there() {
		out.skip(check, noDriver)
		return
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		out.fail(check, "%v", err)
		return
	}
	_, table, _ := strings.Cut(string(text), "| parameter |")
	table, _, _ = strings.Cut(table, "\n\n")
	var rows []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(table, -1) {
		rows = append(rows, match[1])
	}
	for _, key := range d.parameters {
		if !slices.Contains(rows, key) {
			out.fail(check, "the table has no row for %q", key)
		}
	}
	for _, key := range rows {
		if !slices.Contains(d.parameters, key) && key != "csi.storage.k8s.io/fstype" {
			out.fail(check, "the table has a row for %q, which the driver does not know", key)
		}
	}
}
