// Package firing holds that each alert fires when it should, and is silent when it should be: its expression, on series as
// a replicator gives them.
package firing

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// Series of sixty samples, one each minute, and whether the alert is there at its end. Each alert has one of either kind.
var cases = []struct {
	alert, series string
	fires         int
}{
	{"FarshoreVolumeFrozen", `farshore_volume_state{volume="v", state="frozen"} 1x60`, 1},
	{"FarshoreVolumeFrozen", `farshore_volume_state{volume="v", state="healthy"} 1x60`, 0},
	{"FarshoreVolumeFenced", `farshore_volume_state{volume="v", state="fenced"} 1x60`, 1},
	{"FarshoreVolumeFenced", `farshore_volume_state{volume="v", state="frozen"} 1x60`, 0},
	{"FarshoreVolumeUnusable", `farshore_volume_state{volume="v", state="diverged"} 1x60`, 1},
	{"FarshoreVolumeUnusable", `farshore_volume_state{volume="v", state="resyncing"} 1x60`, 0},
	{"FarshoreSiteLossCostsData", `
		farshore_site_loss_records{volume="v", site="east", instance="e"} 7x60
		farshore_site_loss_records{volume="v", site="west", instance="e"} 0x60
		farshore_site_loss_exact{volume="v", site="east", instance="e"} 1x60
		farshore_site_loss_exact{volume="v", site="west", instance="e"} 1x60
		farshore_member_applied_seq{volume="v", site="east", node="e", instance="e"} 9x60
		farshore_member_applied_seq{volume="v", site="west", node="w", instance="e"} 2x60`, 1},
	// What is not exact is old.
	{"FarshoreSiteLossCostsData", `
		farshore_site_loss_records{volume="v", site="east", instance="w"} 7x60
		farshore_site_loss_exact{volume="v", site="east", instance="w"} 0x60
		farshore_member_applied_seq{volume="v", site="east", node="e", instance="w"} 9x60
		farshore_member_applied_seq{volume="v", site="west", node="w", instance="w"} 2x60`, 0},
	// One copy, and a witness that has none.
	{"FarshoreSiteLossCostsData", `
		farshore_site_loss_records{volume="v", site="east", instance="e"} 7x60
		farshore_site_loss_exact{volume="v", site="east", instance="e"} 1x60
		farshore_member_applied_seq{volume="v", site="east", node="e", instance="e"} 9x60
		farshore_member_applied_seq{volume="v", site="north", node="n", instance="e"} 0x60`, 0},
	{"FarshoreSiteLossStopsVolume", `
		farshore_site_loss_can_continue{volume="v", site="east", instance="e"} 0x60
		farshore_site_loss_can_continue{volume="v", site="west", instance="e"} 1x60
		farshore_site_loss_exact{volume="v", site="east", instance="e"} 1x60
		farshore_site_loss_exact{volume="v", site="west", instance="e"} 1x60
		farshore_volume_state{volume="v", state="degraded", instance="e"} 1x60`, 1},
	{"FarshoreSiteLossStopsVolume", `
		farshore_site_loss_can_continue{volume="v", site="east", instance="e"} 0x60
		farshore_site_loss_exact{volume="v", site="east", instance="e"} 1x60
		farshore_volume_state{volume="v", state="healthy", instance="e"} 1x60`, 0},
	{"FarshoreMemberNotFollowing", `
		farshore_member_state{volume="v", site="east", node="e", state="replicating", instance="e"} 1x60
		farshore_member_state{volume="v", site="west", node="w", state="unreachable", instance="e"} 1x60
		farshore_volume_lease_valid{volume="v", instance="e"} 1x60`, 1},
	{"FarshoreMemberNotFollowing", `
		farshore_member_state{volume="v", site="west", node="w", state="replicating", instance="e"} 1x60
		farshore_member_state{volume="v", site="north", node="n", state="voting", instance="e"} 1x60
		farshore_volume_lease_valid{volume="v", instance="e"} 1x60
		farshore_member_state{volume="v", site="east", node="e", state="unknown", instance="w"} 1x60
		farshore_volume_lease_valid{volume="v", instance="w"} 0x60`, 0},
	{"FarshoreVolumeErrors", `farshore_volume_io_errors_total{volume="v", op="read"} 0x50 1+1x10`, 1},
	{"FarshoreVolumeErrors", `farshore_volume_io_errors_total{volume="v", op="read"} 5x60`, 0},
	{"FarshoreWritesSlow", `
		farshore_volume_io_seconds_bucket{volume="v", op="write", le="0.5"} 0+10x60
		farshore_volume_io_seconds_bucket{volume="v", op="write", le="1"} 0+11x60
		farshore_volume_io_seconds_bucket{volume="v", op="write", le="+Inf"} 0+11x60`, 1},
	{"FarshoreWritesSlow", `
		farshore_volume_io_seconds_bucket{volume="v", op="write", le="0.1"} 0+10x60
		farshore_volume_io_seconds_bucket{volume="v", op="write", le="+Inf"} 0+10x60
		farshore_volume_io_seconds_bucket{volume="v", op="read", le="0.1"} 0x60
		farshore_volume_io_seconds_bucket{volume="v", op="read", le="+Inf"} 0+10x60`, 0},
	{"FarshoreSnapshotsRefused", `farshore_volume_condition{volume="v", condition="snapshots-refused"} 1x60`, 1},
	{"FarshoreSnapshotsRefused", `farshore_volume_condition{volume="v", condition="apply-stopped"} 1x60`, 0},
	{"FarshoreScheduleFailing", `farshore_schedule_failing{volume="v", schedule="hourly"} 1x60`, 1},
	{"FarshoreScheduleFailing", `farshore_schedule_failing{volume="v", schedule="hourly"} 0x60`, 0},
	{"FarshoreReplicatorGone", `farshore_node_info{site="east", node="e", version="1"} 1x30 _x30
		farshore_node_info{site="west", node="w", version="1"} 1x60`, 1},
	// Another version of the same node is no node that is gone.
	{"FarshoreReplicatorGone", `farshore_node_info{site="east", node="e", version="1"} 1x30 _x30
		farshore_node_info{site="east", node="e", version="2"} _x30 1x30`, 0},
	{"FarshorePeerDisconnected", `farshore_peer_connected{site="west", node="w"} 0x60`, 1},
	{"FarshorePeerDisconnected", `farshore_peer_connected{site="west", node="w"} 1x60`, 0},
	{"FarshoreCertificateExpires", `farshore_peer_certificate_expiry_timestamp_seconds{site="west", node="w"} 864000x60`, 1},
	{"FarshoreCertificateExpires", `
		farshore_peer_certificate_expiry_timestamp_seconds{site="west", node="w"} 8640000x60
		farshore_peer_certificate_expiry_timestamp_seconds{site="north", node="n"} 0x60`, 0},
	{"FarshoreShipmentMismatch", `farshore_resync_mismatches_total{instance="e"} 0x30 1x30`, 1},
	{"FarshoreShipmentMismatch", `farshore_resync_mismatches_total{instance="e"} 1x60`, 0},
	{"FarshoreJournalFailed", `farshore_journal_poisoned{instance="e"} 1x60`, 1},
	{"FarshoreJournalFailed", `farshore_journal_poisoned{instance="e"} 0x60`, 0},
	{"FarshoreJournalFills", `farshore_journal_used_bytes{instance="e"} 95x60
		farshore_journal_budget_bytes{instance="e"} 100x60`, 1},
	{"FarshoreJournalFills", `farshore_journal_used_bytes{instance="e"} 50x60
		farshore_journal_budget_bytes{instance="e"} 100x60`, 0},
	{"FarshoreStoreFills", `farshore_store_used_bytes{instance="e"} 90x60
		farshore_store_capacity_bytes{instance="e"} 100x60`, 1},
	{"FarshoreStoreFills", `farshore_store_used_bytes{instance="e"} 80x60
		farshore_store_capacity_bytes{instance="e"} 100x60`, 0},
	{"FarshoreNodeCondition", `farshore_node_condition{condition="clock-skew", instance="e"} 1x60`, 1},
	{"FarshoreNodeCondition", `farshore_node_info{site="east", node="e"} 1x60`, 0},
	{"FarshoreBlocksLost", `farshore_volume_lost_blocks{volume="v", instance="e"} 2x60`, 1},
	{"FarshoreBlocksLost", `farshore_volume_lost_blocks{volume="v", instance="e"} 0x60`, 0},
	{"FarshoreBlocksRotten", `farshore_store_checksum_errors_total{instance="e"} 0x50 3x10`, 1},
	{"FarshoreBlocksRotten", `farshore_store_checksum_errors_total{instance="e"} 3x60`, 0},
	// Ten hours between the samples: 25 days.
	{"FarshoreScrubOverdue", `farshore_volume_scrub_finished_timestamp_seconds{volume="v", instance="e"} 1x60`, 1},
	{"FarshoreScrubOverdue", `
		farshore_volume_scrub_finished_timestamp_seconds{volume="v", instance="e"} 1900000x60
		farshore_volume_scrub_finished_timestamp_seconds{volume="new", instance="e"} 0x60`, 0},
}

// Between two samples; for the alert that counts weeks they are longer apart.
func step(alert string) time.Duration {
	if alert == "FarshoreScrubOverdue" {
		return 10 * time.Hour
	}
	return time.Minute
}

func TestAlerts(t *testing.T) {
	path := os.Getenv("ALERTS")
	if path == "" {
		path = "../../../deploy/chart/files/alerts.yaml"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reader := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, reader, slog.Default())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	expressions := map[string]string{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expressions[rule.Alert] = rule.Expr
		}
	}
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	tried := map[string]map[bool]bool{}
	for _, it := range cases {
		if tried[it.alert] == nil {
			tried[it.alert] = map[bool]bool{}
		}
		tried[it.alert][it.fires > 0] = true
		name := it.alert + "/silent"
		if it.fires > 0 {
			name = it.alert + "/fires"
		}
		t.Run(name, func(t *testing.T) {
			expression, known := expressions[it.alert]
			if !known {
				t.Fatalf("there is no alert %s", it.alert)
			}
			load := []string{"load " + model.Duration(step(it.alert)).String()}
			for line := range strings.Lines(strings.TrimSpace(it.series)) {
				load = append(load, "  "+strings.TrimSpace(line))
			}
			storage := promqltest.LoadedStorage(t, strings.Join(load, "\n"))
			end := time.Unix(0, 0).UTC().Add(60 * step(it.alert))
			query, err := engine.NewInstantQuery(context.Background(), storage, nil, expression, end)
			if err != nil {
				t.Fatal(err)
			}
			defer query.Close()
			vector, err := query.Exec(context.Background()).Vector()
			if err != nil {
				t.Fatal(err)
			}
			if len(vector) != it.fires {
				t.Fatalf("%d instead of %d: %v", len(vector), it.fires, vector)
			}
		})
	}
	for alert := range expressions {
		if !tried[alert][true] || !tried[alert][false] {
			t.Errorf("%s needs a case in which it fires, and one in which it does not", alert)
		}
	}
}
