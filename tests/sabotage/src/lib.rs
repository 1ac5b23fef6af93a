//! Named ways to break the protocol, and the proof that each would be noticed.
//!
//! The core is built a second time from its own sources, as the package `farshore-core-sabotage`, which alone has the
//! feature `sabotage`: there, one decision at a time can be taken wrongly. The simulator's own sources are built over
//! that core. Then run after run is tried, of those that `make test` also makes with the core unbroken: the stories named
//! with the case ([`cases`]), then the seeds of turmoil. What counts is a checker that sees only what happened outside:
//! at the devices, on the wire, on the disks. While something is broken the core's own asserts are off and its own
//! complaints unheard; a panic does not count, nor a volume that merely stands still.
//!
//! What each name stands for is said at `farshore_core::sabotage::Sabotage`. By what is broken:
//!
//! | what | names | rule |
//! |---|---|---|
//! | promises | `promise-forgotten`, `promise-unsynced`, `ack-after-promise`, `lower-epoch-accepted`, `epoch-by-number` | I1–I3 |
//! | the donor | `donor-by-length`, `donor-by-heard-epoch` | I8 |
//! | who must answer | `recovery-skipped`, `pending-ignored`, `amnesiac-counts`, `gap-counts`, `corrupt-as-absent`, `found-not-rewritten`, `old-site-forgotten` | I18–I20, I30 |
//! | the first record | `serve-before-start`, `old-epochs-counted` | I9, I10 |
//! | leases | `old-lease-ignored`, `lease-outlived`, `lease-from-receipt`, `lease-not-renewed`, `owed-forgotten` | I16, I17 |
//! | reads | `unacked-read`, `overlay-forgotten` | I11 |
//! | acknowledging | `ack-before-sync`, `completed-by-one`, `flush-before-quorum`, `witness-counted`, `requests-dropped` | I6, I7, I21, I36 |
//! | applying | `unacked-applied` | I12 |
//! | the configuration | `shrink-early`, `grow-while-lagging`, `earlier-not-kept`, `new-voters-alone` | I18 |
//! | logs and images | `trim-early`, `late-elect-cuts`, `late-shipment-installed`, `install-unmarked` | I5, I13, I25 |
//! | whose device it is | `attach-anywhere`, `restart-unnamed`, `restart-with-loss`, `release-unsynced` | P2 |
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
//! | what was read from a log before it was cut is sent on, or taken from a donor (tried: 100 runs each) | not known to be masked: no run has shown it yet |

pub mod cases;
pub mod hunt;
