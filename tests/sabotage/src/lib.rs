//! Named ways to break the protocol, and the proof that each would be noticed.
//!
//! The core is built a second time from its own sources, as the package `farshore-core-sabotage`, which alone has the
//! feature `sabotage`: there, one decision at a time can be taken wrongly. The simulator's own sources are built over
//! that core. Then run after run is tried, of those that `make test` also makes with the core unbroken: the stories named
//! with the case ([`cases`]), then the seeds of turmoil. What counts is a checker that sees only what happened outside:
//! at the devices, on the wire, on the disks. While something is broken the core's own asserts are off and its own
//! complaints unheard; a panic does not count, nor a volume that merely stands still.
//!
//! Every sentence of the design that loses data when it is turned round, and which of these names turns it round, is in
//! `docs/coverage.md`.
//!
//! What each name stands for is said at `farshore_core::sabotage::Sabotage`. By what is broken:
//!
//! | what | names | rule |
//! |---|---|---|
//! | promises | `promise-forgotten`, `promise-unsynced`, `ack-after-promise`, `lower-epoch-accepted`, `epoch-by-number` | I1–I3 |
//! | the donor | `donor-by-length`, `donor-by-heard-epoch` | I8 |
//! | who must answer | `recovery-skipped`, `pending-ignored`, `amnesiac-counts`, `gap-counts`, `corrupt-as-absent`, `found-not-rewritten`, `old-site-forgotten` | I18–I20, I30 |
//! | the first record | `serve-before-start`, `old-epochs-counted` | I9, I10 |
//! | leases | `old-lease-ignored`, `lease-outlived`, `lease-from-receipt`, `lease-not-renewed`, `lease-by-new-terms`, `owed-forgotten` | I16, I17 |
//! | reads | `unacked-read`, `overlay-forgotten` | I11 |
//! | acknowledging | `ack-before-sync`, `completed-by-one`, `flush-before-quorum`, `witness-counted`, `requests-dropped` | I6, I7, I21, I36 |
//! | applying | `unacked-applied` | I12 |
//! | the configuration | `class-before-acked`, `shrink-early`, `grow-while-lagging`, `earlier-not-kept`, `new-voters-alone`, `rule-shrinks-with-set` | I18, I22 |
//! | distance | `left-out-unasked`, `left-still-counts`, `mode-votes-forgotten`, `observer-counted`, `observer-votes`, `fallback-early`, `stand-in-unasked`, `stand-in-while-lagging`, `stand-in-votes-forgotten` | I7, I18, I20 |
//! | force and lineages | `generation-kept`, `fork-from-any-log`, `fork-followed-blindly`, `fork-by-quorum`, `loser-not-fenced`, `fence-forgotten`, `fenced-still-speaks`, `lineage-not-compared` | I8, I20, P2 |
//! | snapshots and cuts | `mark-unacked`, `hold-ignored`, `hold-late`, `held-shown`, `hold-break-forgotten`, `hold-of-any-epoch`, `release-unconfirmed`, `release-unacked` | I27, I28 |
//! | the journal | `segment-reused-early`, `block-rewritten`, `body-unchecked`, `former-life-counts`, `tail-not-rewritten`, `damage-as-end`, `loss-unnoticed`, `older-state-taken` | I5, I6, I30 |
//! | logs and images | `trim-early`, `late-elect-cuts`, `late-shipment-installed`, `install-unmarked` | I5, I13, I25 |
//! | shipments, in the store that the simulator stands in for | `shown-in-part`, `parts-mixed` | P3 |
//! | what a loss would cost | `stale-word-taken`, `unwritten-forgotten`, `sent-taken-for-held`, `silence-taken-for-all`, `others-guessed`, `old-lineage-told`, `exact-without-lease`, `forced-as-promoted`, `sites-best-forced` | RPO |
//! | a holder without a copy | `memory-counted`, `memory-completes`, `memory-resumed`, `memory-donor`, `read-anywhere` | I2, I7, I8, I11 |
//! | whose device it is | `attach-anywhere`, `fence-anywhere`, `restart-unnamed`, `restart-with-loss`, `release-unsynced` | P2 |
//!
//! # What was tried or thought through, and is not counted
//!
//! | broken | why nobody is hurt |
//! |---|---|
//! | an Elect may cut below what is known to be acknowledged | masked: the donor's log holds all of that already; it takes a second mistake to get there |
//! | a handover does not wait for its target | masked: the target is promoted like any other, by control quorum, recovery rule and donor; what was under way is failed, not completed |
//! | a holder goes on after its own node has promised a higher epoch | masked: its own replica follows it no longer, and the others refuse it |
//! | while a change is joint, acknowledgements need the old terms alone | masked: the value written holds the old terms until all that was acknowledged is on the new ones |
//! | a withdrawn change stops to count at once | masked: nothing was ever acknowledged under it alone, and whoever finds it finds the old terms with it |
//! | a member is credited with what it held before its journal lost records (tried: 100 runs) | masked: its log has a gap, so it counts in no promotion until it is whole |
//! | a member says that it is in a forced lineage before that is durable | masked: the lineage opens by the promises of all who were named, and a promise is durable with the lineage in it |
//! | a member that enters a forced lineage goes on with the epoch that it held in the old one (tried: 400 runs) | not known to be masked: no run has shown it yet; `force_tests` holds it |
//! | a segment is used anew before a durable group says that it is free (tried: 2,100 runs) | not known to be masked: the last free segment is kept for state, so that one is seldom needed at once; `core/journal/segments` holds it |
//! | the header of a torn group stays where it is (tried: 2,100 runs) | masked: an intact group wins over it wherever both claim one place in the order |
//! | older state that waited is written after newer state that passed it (tried: 2,100 runs) | not known to be masked: it takes a cut behind records that wait for space, and a promise; `core/journal/queue` holds it |
//! | a mark gets its seq before requests that the device has handed on and that wait for room (it does, always) | nobody can have known of them: they have not completed, and no read shows them |
//! | a mark is made though its hold is broken | masked: the release says that it was |
//! | an image is pinned after the slice that its mark ends, not at the mark; one that is pinned is written in place; a shipment brings rows without saying what is missing | the store's to do, not the core's: `tests/sim/src/snapshots.rs` shows that its checkers notice |
//! | a member enters the sync set though it is behind, or was not heard of late | masked: the new terms take effect only when their data quorum has all that was acknowledged (`grow-while-lagging` breaks that) |
//! | a member leaves the sync set at once when it is slow, or though it is heard; a fallback leaves out one that is heard | nobody is hurt: it is left out by the register's rules all the same; that it takes its time `core/primary/watch` and `distance_tests` hold |
//! | the log of a copy outside the sync set is adopted by a candidate | masked: those of the sync set that must answer have all that was acknowledged; what only it has was not, and may be kept |
//! | a shipment is taken whatever it builds upon (tried: 200 runs of a story) | the store's to do: it checkpoints what it shows before it keeps one; `engine` and the store's own tests hold it |
//! | what is on its way to a disk narrows the figure of its site (tried: 2,100 runs) | shown by seed 3912 of turmoil in nearest-remote-3 when it was so, beyond the budget; `loss_tests` holds it |
//! | in class `flush` the figure counts what is acknowledged, not what has completed | the checker counts what was flushed; nobody is told more of it |
//! | what was read from a log before it was cut is sent on, or taken from a donor (tried: 100 runs each) | not known to be masked: no run has shown it yet |

pub mod cases;
pub mod hunt;
