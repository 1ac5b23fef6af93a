// Command check looks at what the chart renders: that each object is one that Kubernetes knows, field by field, that
// what objects name is there, that the chart says nothing that our own programs don't understand, and that alerts and
// dashboard ask for metrics that are exported.
//
//	check ROOT RENDERED.yaml...       one line for each check: "PASS name", "SKIP name: why" or "FAIL name: why"
//	check kustomize FOLDER            what a kustomization comes to
//	check configs RENDERED.yaml DIR   writes every replicator.toml in it to DIR, and prints the paths
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Complaints, by the check that makes them; a check without any has passed.
type report struct {
	names    []string
	failures map[string][]string
	skips    map[string]string
}

func newReport() *report {
	return &report{failures: map[string][]string{}, skips: map[string]string{}}
}

func (r *report) begin(name string) {
	if _, known := r.failures[name]; !known {
		r.names = append(r.names, name)
		r.failures[name] = nil
	}
}

func (r *report) fail(name, format string, arguments ...any) {
	r.begin(name)
	r.failures[name] = append(r.failures[name], fmt.Sprintf(format, arguments...))
}

func (r *report) skip(name, why string) {
	r.begin(name)
	r.skips[name] = why
}

func (r *report) print() (bad bool) {
	for _, name := range r.names {
		switch failures := r.failures[name]; {
		case len(failures) > 0:
			bad = true
			for _, why := range failures {
				fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(why, "\n", " "))
			}
		case r.skips[name] != "":
			fmt.Printf("SKIP %s: %s\n", name, r.skips[name])
		default:
			fmt.Printf("PASS %s\n", name)
		}
	}
	return bad
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: check ROOT RENDERED.yaml... | check kustomize FOLDER | check configs RENDERED.yaml DIR")
		os.Exit(2)
	}
	var err error
	switch {
	case os.Args[1] == "kustomize":
		err = kustomize(os.Args[2])
	case os.Args[1] == "configs" && len(os.Args) == 4:
		err = configs(os.Args[2], os.Args[3])
	default:
		all(os.Args[1], os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func all(root string, rendered []string) {
	out := newReport()
	daemon := readDaemon(root)
	driver := readDriver(root)
	for _, path := range rendered {
		of := strings.TrimSuffix(filepath.Base(path), ".yaml")
		objects := decode(out, "objects of "+of, path)
		references(out, "references of "+of, objects)
		daemon.configs(out, "replicator.toml of "+of, objects)
		driver.arguments(out, "driver's arguments of "+of, objects)
		driver.classes(out, "classes of "+of, objects)
		sidecars(out, "sidecars of "+of, objects)
	}
	daemon.schema(out, root)
	driver.documented(out, root)
	metrics(out, root)
	if out.print() {
		os.Exit(1)
	}
}

func sorted[V any](of map[string]V) []string {
	keys := make([]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
