//! The protocol as a small model, searched to the last state: a second opinion, which shares no code with the core.
//!
//! The simulator runs the production code under seeded faults and tries some histories of all lengths. This is the other
//! way round: the rules written down once more, as short as they can be, and *every* history within bounds. A search is
//! breadth first, so a counterexample is one of the shortest; it is printed step by step with what stands on the disks.
//!
//! # What is modelled
//!
//! - *Promises.* Any data member may try for an epoch at any time, and one that has no copy; two may try at once, and the later may have drawn the
//!   lower number. Each picks any set of answers that satisfies control quorum and recovery rule.
//! - *Records.* A member has records that are written and not synced, and records that are synced; where a search says
//!   that steps are split, everything may happen between, a promise and a crash above all. Acks are for what is synced.
//! - *The register.* Values with current and earlier terms, stored or not at each member; changes of the sync set, the
//!   rule and the votes; taking back and replacing a pending one; a change before the epoch opens; the value that each
//!   new epoch writes first; the second write, which drops the earlier terms.
//! - *Lost disks.* A wiped member comes back with a new life and counts for nothing until its vote, then its place in the
//!   sync set, is given to that life.
//! - *Force.* Lineages with generations, members named, what each held when it entered; two forces at once.
//! - *A member without a copy*, with neither vote nor place in the sync set. It begins an epoch, a new one for each attempt,
//!   with the best log among the copies that promised. What it has of that log is in memory: never durable, acked to nobody,
//!   in no promise; a crash, a higher promise and the end of its attempt make it forget all.
//! - *Leases*, without time: who owes a lease to whom, and that it may be over at any moment but is waited for.
//!
//! A message is not a thing of its own. A record is under way as long as its epoch's log has it, a register value as long
//! as its version is in the table, an answer as long as its asker lives: each may arrive at any later time, twice, out of
//! order, or never.
//!
//! # What is left out, and why that hides nothing
//!
//! - *Which bytes.* A record is its epoch: one holder per epoch writes in order, so (epoch, seq) says which record it is.
//!   Overlapping writes, reads of parts and the store lie behind that order, and whose store answers for a holder that has
//!   none. The simulator checks them.
//! - *Acks that are lost, and processes that stop.* A holder counts what it likes of the acks that reached it, or nothing
//!   for ever: both are histories of the same search. So a crash is a step only when it takes something with it.
//! - *The moment between a promise in memory and on disk.* Nothing is said in it; a crash there is a request that never
//!   arrived. The same holds for a stored register value and for a cut.
//! - *Elect and Append apart.* Following the holder is not remembered over the cut of the log: a log that is a prefix of
//!   the holder's would not be cut again. That a *late* copy cuts nothing is a rule of its own, with a bug of its own.
//! - *How much of the log is in such a memory, and whose journal has the rest.* A holder without a copy may send every record
//!   of its epoch's log to everybody: more than it has. Of what a member reads for it, it passes on what is of the epochs of
//!   that log, and by its epoch a record is the same on every disk; that it looks is a rule of its own, with a bug of its own.
//! - *Sessions, attachments, who may ask.* Any data member that is in the sync set may promote, and who has no copy wherever
//!   it is: more than is allowed.
//! - *A change on its way when the next is asked for.* The model allows one as soon as the last has taken effect, before
//!   its second write is stored: again more than is allowed. It also lets an epoch open before its first register value
//!   has taken effect, as long as all terms found are acked under.
//! - *A holder whose own replica has promised a higher epoch* gives up. It can't have acks of its own any more.
//! - Not modelled at all: images and resync, holes and bit rot, a full journal, the class `flush`, switchover and
//!   release, resync after a fork, members added and removed (their votes and places in the sync set are).
//!
//! # What must hold
//!
//! `property` says it in terms of what users and operators see: what an epoch acknowledged or let be read is the beginning
//! of every later log of its lineage that opens, followed only by records that are not older; configurations in force
//! form one chain; no two leases; a member named by force keeps what it held, and once a forced lineage is open the old
//! one, where the members named block it, acknowledges nothing new; of one generation only one opens.
//!
//! # How sure
//!
//! States are known by 64 bits of a hash: of ten million states, two share one with a chance of 3 in a million, and one of
//! them would go unseen. Where two members are alike, states that differ only in their names are one.

pub mod bug;
pub mod encode;
pub mod explore;
pub mod layout;
pub mod log;
pub mod model;
pub mod search;
pub mod state;
pub mod step;
pub mod tell;
pub mod terms;

mod append;
mod change;
mod damage;
mod force;
mod promote;
mod property;
