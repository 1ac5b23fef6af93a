package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What replicator/src/config.rs knows: the keys of each section.
type daemon struct {
	keys map[string][]string
}

var (
	section = regexp.MustCompile(`\(\s*"([a-z]+)",\s*&\[([^\]]*)\],?\s*\)`)
	quoted  = regexp.MustCompile(`"([^"]+)"`)
)

func readDaemon(root string) daemon {
	text, _ := os.ReadFile(filepath.Join(root, "replicator/src/config.rs"))
	_, table, _ := strings.Cut(string(text), "const KEYS:")
	table, _, _ = strings.Cut(table, "\n];")
	known := daemon{keys: map[string][]string{}}
	for _, line := range section.FindAllStringSubmatch(table, -1) {
		for _, key := range quoted.FindAllStringSubmatch(line[2], -1) {
			known.keys[line[1]] = append(known.keys[line[1]], key[1])
		}
	}
	return known
}

// configs holds that every key which is rendered is one that the replicator knows.
func (d daemon) configs(out *report, check string, objects []runtime.Object) {
	out.begin(check)
	if len(d.keys) < 9 {
		out.fail(check, "the table of keys in replicator/src/config.rs was not found: %v", sorted(d.keys))
		return
	}
	found := 0
	for _, object := range objects {
		config, is := object.(*core.ConfigMap)
		if !is {
			continue
		}
		for _, file := range sorted(config.Data) {
			if !strings.HasSuffix(file, ".toml") {
				continue
			}
			found++
			var table map[string]any
			if _, err := toml.Decode(config.Data[file], &table); err != nil {
				out.fail(check, "%s: %v", file, err)
				continue
			}
			for section, value := range table {
				if d.keys[section] == nil {
					out.fail(check, "%s: [%s] is no section of the replicator's", file, section)
				}
				tables, is := value.([]map[string]any)
				if one, single := value.(map[string]any); single {
					tables, is = []map[string]any{one}, true
				}
				if !is {
					out.fail(check, "%s: %s is no section", file, section)
				}
				for _, table := range tables {
					for key := range table {
						if !slices.Contains(d.keys[section], key) {
							out.fail(check, "%s: %s.%s is no key of the replicator's", file, section, key)
						}
					}
				}
			}
		}
	}
	if found == 0 {
		out.fail(check, "no replicator.toml was rendered")
	}
}

// Keys that the chart gives by other values, or on purpose not at all.
var elsewhere = map[string][]string{
	"node":      {"site", "node", "data_dir", "runtime_dir"},
	"transport": {"listen", "ca", "cert", "key"},
	"store":     {"slab"},
	"peers":     {"site", "node", "address"},
	"http":      {"listen"},
	// Both sockets are in runtime_dir, where the driver looks for them. Pods get devices, not NBD.
	"control": {"socket"},
	"nbd":     {"socket", "tcp", "ca", "cert", "key"},
	"device":  {"process"},
}

// schema holds that values.schema.json offers what the replicator knows, no more and no less.
func (d daemon) schema(out *report, root string) {
	const check = "replicator.config in values.schema.json"
	out.begin(check)
	text, err := os.ReadFile(filepath.Join(root, "deploy/chart/values.schema.json"))
	if err != nil {
		out.fail(check, "%v", err)
		return
	}
	type node struct {
		Properties map[string]*node `json:"properties"`
	}
	var schema node
	if err := json.Unmarshal(text, &schema); err != nil {
		out.fail(check, "%v", err)
		return
	}
	config := schema.Properties["replicator"].Properties["config"]
	for section, keys := range d.keys {
		offered := map[string]*node{}
		if config.Properties[section] != nil {
			offered = config.Properties[section].Properties
		}
		for _, key := range keys {
			if there := offered[key] != nil; there == slices.Contains(elsewhere[section], key) {
				out.fail(check, "%s.%s: either the schema has it or the chart's own table of keys given elsewhere", section, key)
			}
		}
		for key := range offered {
			if !slices.Contains(keys, key) {
				out.fail(check, "%s.%s is no key of the replicator's", section, key)
			}
		}
	}
	for section := range config.Properties {
		if d.keys[section] == nil {
			out.fail(check, "[%s] is no section of the replicator's", section)
		}
	}
}
