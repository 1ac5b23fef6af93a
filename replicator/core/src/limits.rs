//! Every bound of the core, in one place. Relations between them are asserted when this compiles.

use crate::ids::BLOCK_BYTES;
use crate::record::{RECORD_HEADER_BYTES, RECORD_PAYLOAD_MAX};

/// Bytes sent to one peer and not yet acknowledged as appended. Twice 200 Mbit/s × 80 ms, so that a long fat link
/// stays full.
pub const PEER_INFLIGHT_BYTES_MAX: usize = 8 << 20;
/// Record bytes in one message. Small enough that a lost packet does not hold up much, large enough to amortise.
pub const APPEND_BYTES_MAX: usize = 2 << 20;
/// Out-of-order records that a replica holds while it waits for the missing ones.
pub const REORDER_BYTES_MAX: usize = 16 << 20;
/// Record bytes that a replica has handed to its journal and that are not durable yet.
pub const UNDURABLE_BYTES_MAX: u64 = 64 << 20;
/// Records are handed to the journal in portions that are closed at this size.
pub const JOURNAL_PORTION_BYTES: u64 = 128 << 10;
/// Un-acked bytes at the primary, where the journal has as much for the volume; beyond it the device waits.
pub const UNACKED_BYTES_MAX: u64 = 32 << 20;
/// What a volume's share of the journal must hold beside that: what a restarted replica has forgotten to be acked, so that
/// it can't apply it yet, and the first records of epochs that came to nothing.
pub const SHARE_RESERVE_BYTES: u64 = JOURNAL_PORTION_BYTES + (64 << 10);
/// A smaller share of the journal does not carry a volume: the largest record would not fit.
pub const SHARE_BYTES_MIN: u64 = 2 << 20;
/// Bytes appended and not applied to the primary's store (they are in memory); beyond it the device waits.
pub const UNAPPLIED_BYTES_MAX: u64 = 64 << 20;
/// What a node without a copy holds of a log in memory when it begins an epoch: all that the last holder may have had
/// un-acked, and what members had not heard of yet.
pub const MEMORY_BYTES_MAX: usize = 2 * UNACKED_BYTES_MAX as usize + SHARE_RESERVE_BYTES as usize;
/// Requests that wait for room; a device never has more in flight.
pub const WAITING_REQUESTS_MAX: usize = 4096;
/// Hashes and sizes of recent records kept in memory, for truncation and for exact lag.
pub const TAIL_ENTRIES_MAX: usize = 65_536;
/// Of those that were forgotten one in so many is kept, and when there are this many every second one goes.
pub const TAIL_SAMPLE_RECORDS: u64 = 1024;
pub const TAIL_SAMPLES_MAX: usize = 1024;
/// Commands that wait for one and the same thing.
pub const COMMANDS_MAX: usize = 64;
/// How often the holder of an epoch speaks to each member when it has nothing to send.
pub const HEARTBEAT_US: u64 = 500_000;
/// The same while a holder without a copy waits for others to apply its first record: only their answers tell it.
pub const HEARTBEAT_OPENING_US: u64 = 20_000;
/// A peer whose appended position stands still this long, with records on their way, is sent them again.
pub const RESEND_AFTER_US: u64 = 1_000_000;
/// Each time nothing arrives, the next is waited for twice as long, so often at most.
pub const RESEND_DOUBLINGS_MAX: u32 = 4;
/// Questions of a candidate and register writes are repeated at this interval until they are answered.
pub const RETRY_US: u64 = 200_000;
/// A joiner this close behind the acked position, in records and in bytes, enters the sync set. Under load it is never
/// level with it: what the others acknowledge is always a little ahead. The joint rule covers the rest, and a policy that
/// needs every remote waits until the joiner has it.
pub const GROW_LAG_RECORDS_MAX: u64 = 1024;
pub const GROW_LAG_BYTES_MAX: u64 = 4 << 20;
/// A member that lacks more of what is acked than this is fed behind everything else ([`Effect::CatchUp`]): nobody waits
/// for it. Less than what lets a joiner into the sync set: from then on it may be waited for.
///
/// [`Effect::CatchUp`]: crate::api::Effect::CatchUp
pub const CATCH_UP_LAG_BYTES: u64 = 2 << 20;
/// Bytes sent to a member in that way and not yet acknowledged as appended: a long fat link's bandwidth × delay.
pub const CATCH_UP_INFLIGHT_BYTES_MAX: usize = 4 << 20;
/// Records in one such message: at the pace that is always left to it, half a second's worth.
pub const CATCH_UP_APPEND_BYTES_MAX: usize = 512 << 10;
/// Where others go first, what is on its way is given more time before it is sent again: so many doublings.
pub const CATCH_UP_RESEND_DOUBLINGS: u32 = 2;
/// A candidate that has not won within this time gives up and says what was missing.
pub const PROMOTE_TIMEOUT_US: u64 = 15_000_000;
/// A handover whose target has not caught up by then is cancelled.
pub const HANDOVER_TIMEOUT_US: u64 = 30_000_000;
/// A candidate that has what it needs still waits this long for stragglers, who may hold a longer log.
pub const LINGER_US: u64 = 50_000;
/// A remote member that stays beyond a limit of the mode for so many leases leaves the sync set. So long nobody can read
/// anyway, where it is waited for and gone.
pub const LEAVE_LEASES: u64 = 1;
/// It comes back when it has kept well within them for so many leases, or twice as long each time it has left of late.
pub const REJOIN_LEASES: u64 = 2;
pub const REJOIN_DOUBLINGS_MAX: u32 = 4;
/// An observer that stands in for a lost member rests when that one has been back for so many leases, or for as long as it
/// had to be lost, if that is longer.
pub const REST_LEASES: u64 = 4;
/// Having stayed in the sync set for so many leases, it is as if it had never left.
pub const STAY_LEASES: u64 = 2 * (REJOIN_LEASES << REJOIN_DOUBLINGS_MAX);
/// How long a word of the holder was under way is measured by the quickest of so long a time, or of twice as long. Clocks may
/// drift apart meanwhile.
pub const CONTACT_WINDOW_US: u64 = 60_000_000;
/// A scheduled shipment that has brought nothing is begun again after this.
pub const RESHIP_AFTER_US: u64 = 1_000_000;
/// A cut over several volumes keeps one of them waiting no longer than this; nor does its release wait longer.
pub const HOLD_US_MAX: u64 = 2_000_000;
/// Clocks of two nodes may run apart by one part in this many (1 %).
pub const DRIFT_DIVISOR: u64 = 100;

const _: () = assert!(RECORD_PAYLOAD_MAX + RECORD_HEADER_BYTES <= APPEND_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX <= PEER_INFLIGHT_BYTES_MAX);
const _: () = assert!(PEER_INFLIGHT_BYTES_MAX <= REORDER_BYTES_MAX);
const _: () = assert!(CATCH_UP_APPEND_BYTES_MAX < CATCH_UP_INFLIGHT_BYTES_MAX);
const _: () = assert!(CATCH_UP_INFLIGHT_BYTES_MAX <= PEER_INFLIGHT_BYTES_MAX);
const _: () = assert!(CATCH_UP_LAG_BYTES <= GROW_LAG_BYTES_MAX);
const _: () = assert!(CATCH_UP_RESEND_DOUBLINGS <= RESEND_DOUBLINGS_MAX);
const _: () = assert!(PEER_INFLIGHT_BYTES_MAX as u64 + (APPEND_BYTES_MAX as u64) < UNDURABLE_BYTES_MAX);
const _: () = assert!(UNACKED_BYTES_MAX <= UNAPPLIED_BYTES_MAX);
const _: () = assert!(UNACKED_BYTES_MAX as usize + PEER_INFLIGHT_BYTES_MAX <= MEMORY_BYTES_MAX);
const _: () = assert!(SHARE_RESERVE_BYTES + RECORD_PAYLOAD_MAX as u64 + BLOCK_BYTES <= SHARE_BYTES_MIN);
