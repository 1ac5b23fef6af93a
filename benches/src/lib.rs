//! `make bench`: what a write and a read cost, beside what disk and network cost by themselves, in one run.
//!
//! ```text
//!  plan ─▶ matrix ── one row per workload, device, durability, RTT ─┐
//!           ├─ stage ── three replicators behind relays, volumes     ├─▶ results ─▶ table, report (JSON, Markdown, plots)
//!           ├─ fio, procfs ── what a row is made of                  │
//!           └─ limits ── append + fdatasync, echo, relay, raw disk ──┤
//!          wan ── throughput and company on a lossy long link ───────┤
//!          allocations ── three sites inside, calls per request ────┤
//!          snapshots ── pause, many of them, chains, differences ───┘
//! ```

pub mod allocations;
pub mod append;
pub mod counting;
pub mod distance;
pub mod echo;
pub mod fio;
pub mod histogram;
pub mod limits;
pub mod machine;
pub mod matrix;
pub mod metrics;
pub mod plan;
pub mod plots;
pub mod probe;
pub mod procfs;
pub mod readme;
pub mod reference;
pub mod report;
pub mod results;
pub mod run;
pub mod shipment;
pub mod snapshots;
pub mod stage;
pub mod table;
pub mod targets;
pub mod wan;
pub mod workload;
