package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// As in replicator/src/telemetry/families.rs: self.gauges(("volume_size", bytes, "…
var (
	family    = regexp.MustCompile(`self\.(gauges|counters)\(\s*\(\s*"([a-z_]+)",\s*([A-Za-z&:()]+)`)
	latency   = regexp.MustCompile(`self\.latencies\(\s*\(\s*"([a-z_]+)"`)
	variables = regexp.MustCompile(`\$\{?[a-zA-Z_]+\}?`)
)

const prefix = "farshore_"

// exported is every series' name that /metrics can have.
func exported(source string) map[string]bool {
	names := map[string]bool{}
	add := func(name string) { names[prefix+name] = true }
	for _, match := range family.FindAllStringSubmatch(source, -1) {
		name := match[2]
		switch unit := match[3]; unit {
		case "None":
		case "bytes", "seconds":
			name += "_" + unit
		default:
			continue
		}
		if match[1] == "counters" {
			name += "_total"
		}
		add(name)
	}
	for _, match := range latency.FindAllStringSubmatch(source, -1) {
		for _, part := range []string{"bucket", "sum", "count"} {
			add(match[1] + "_seconds_" + part)
		}
	}
	return names
}

// asked is every series' name that a query looks at.
func asked(query string) ([]string, error) {
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return nil, err
	}
	var names []string
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		if selector, is := node.(*parser.VectorSelector); is {
			name := selector.Name
			for _, matcher := range selector.LabelMatchers {
				if matcher.Name == labels.MetricName && name == "" {
					name = matcher.Value
				}
			}
			names = append(names, name)
		}
		return nil
	})
	return names, nil
}

func metrics(out *report, root string) {
	const rules, dashboard, covered = "alerts", "dashboard", "metrics that are exported"
	out.begin(rules)
	out.begin(dashboard)
	out.begin(covered)
	source, err := os.ReadFile(filepath.Join(root, "replicator/src/telemetry/families.rs"))
	if err != nil {
		out.fail(covered, "%v", err)
		return
	}
	known := exported(string(source))
	// As many calls as there are in the source: a form that is not understood here would go unseen.
	if calls := strings.Count(string(source), "self.gauges(") + strings.Count(string(source), "self.counters("); calls != len(family.FindAllString(string(source), -1)) || calls < 40 {
		out.fail(covered, "families.rs makes %d calls, and %d are understood", calls, len(family.FindAllString(string(source), -1)))
	}
	if path := os.Getenv("EXPORTED"); path != "" {
		against(out, covered, known, path)
	}
	query := func(check, of, text string) {
		names, err := asked(text)
		if err != nil {
			out.fail(check, "%s: %v in %s", of, err, text)
		}
		for _, name := range names {
			if !known[name] {
				out.fail(check, "%s asks for %q, which /metrics does not have", of, name)
			}
		}
	}
	alerts(out, rules, root, query)
	panels(out, dashboard, root, query)
}

// against compares with what a real replicator said.
func against(out *report, check string, known map[string]bool, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		out.fail(check, "%v", err)
		return
	}
	real := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		switch match[2] {
		case "counter":
			real[match[1]+"_total"] = true
		case "histogram":
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				real[match[1]+part] = true
			}
		default:
			real[match[1]] = true
		}
	}
	for name := range known {
		if !real[name] {
			out.fail(check, "a real replicator does not export %s", name)
		}
	}
	for name := range real {
		if !known[name] {
			out.fail(check, "a real replicator exports %s, which was not found in families.rs", name)
		}
	}
}

// alerts holds the rules as promtool's own check does: same parser, same rules.
func alerts(out *report, check, root string, query func(check, of, text string)) {
	text, err := os.ReadFile(filepath.Join(root, "deploy/chart/files/alerts.yaml"))
	if err != nil {
		out.fail(check, "%v", err)
		return
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	for _, err := range errs {
		out.fail(check, "%v", err)
	}
	if groups == nil {
		return
	}
	seen := map[string]bool{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			if seen[rule.Alert] {
				out.fail(check, "%s is there twice", rule.Alert)
			}
			seen[rule.Alert] = true
			query(check, rule.Alert, rule.Expr)
			if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
				out.fail(check, "%s: severity is %q", rule.Alert, severity)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				out.fail(check, "%s has no summary, or no description that says what to do", rule.Alert)
			}
		}
	}
}

func panels(out *report, check, root string, query func(check, of, text string)) {
	text, err := os.ReadFile(filepath.Join(root, "deploy/chart/files/dashboard.json"))
	if err != nil {
		out.fail(check, "%v", err)
		return
	}
	var board struct {
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		out.fail(check, "%v", err)
		return
	}
	ids := map[int]bool{}
	for _, panel := range board.Panels {
		if ids[panel.ID] {
			out.fail(check, "panel id %d is there twice", panel.ID)
		}
		ids[panel.ID] = true
		if panel.GridPos.X+panel.GridPos.W > 24 {
			out.fail(check, "%q goes over the edge", panel.Title)
		}
		if panel.Type != "row" && len(panel.Targets) == 0 {
			out.fail(check, "%q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			// Grafana puts its variables in first; any duration or pattern will do here.
			filled := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
			query(check, panel.Title, variables.ReplaceAllString(filled, "x"))
		}
	}
	for _, variable := range board.Templating.List {
		if variable.Type != "query" {
			continue
		}
		match := regexp.MustCompile(`label_values\((\w+)`).FindStringSubmatch(string(variable.Query))
		if match == nil {
			out.fail(check, "variable %s asks in a way that is not understood here", variable.Name)
			continue
		}
		query(check, "variable "+variable.Name, match[1])
	}
}
