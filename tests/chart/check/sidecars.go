package main

import (
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What the sidecars of the controller are told beside whom they speak to. A lost node's pods wait for all of it.
var electionTimes = []string{"--leader-election-lease-duration=", "--leader-election-renew-deadline=", "--leader-election-retry-period="}

// Sidecars that try again what failed, with the driver's answer UNAVAILABLE or ABORTED.
var retrying = []string{"csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter"}

// sidecars holds that whoever takes part in an election has the same times, and that no failed call waits for minutes.
func sidecars(out *report, check string, objects []runtime.Object) {
	out.begin(check)
	for _, object := range objects {
		controller, is := object.(*apps.Deployment)
		if !is {
			continue
		}
		times := map[string]string{}
		for _, container := range controller.Spec.Template.Spec.Containers {
			has := func(flag string) bool {
				return slices.ContainsFunc(container.Args, func(argument string) bool { return strings.HasPrefix(argument, flag) })
			}
			if has("--leader-election") {
				for _, flag := range electionTimes {
					at := slices.IndexFunc(container.Args, func(argument string) bool { return strings.HasPrefix(argument, flag) })
					switch {
					case at < 0:
						out.fail(check, "%s has no %s", container.Name, flag)
					case times[flag] != "" && times[flag] != container.Args[at]:
						out.fail(check, "%s has %s, another one %s", container.Name, container.Args[at], times[flag])
					default:
						times[flag] = container.Args[at]
					}
				}
			}
			if slices.Contains(retrying, container.Name) && !has("--retry-interval-max=") {
				out.fail(check, "%s has no --retry-interval-max", container.Name)
			}
		}
	}
}
