//! Histories that part. A forced promotion names who goes on; from there each lineage has an order and a past of its own,
//! and is judged by itself.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | fork | whatever was acknowledged when a force was asked for, and was on the disk of a member that it named, is kept; nothing is served before all named are in the new lineage; who has met a newer lineage does and says nothing more in its own |
//!
//! What only others had is given up, by the command's own words; so is what the old lineage acknowledges after the force
//! was asked for. There it must be kept all the same: the old lineage is judged to the end of the run.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, Seq};
use farshore_core::record::RecordHash;

use crate::disk::Cell;
use crate::layout::VOLUME_BLOCKS;
use crate::oracle::{Verdict, wrong};

/// What a node has known for so long is on its disk.
const REMEMBERED_US: u64 = 3_000_000;

/// What a node has met so long ago has reached its core.
const KNOWN_US: u64 = 100_000;

/// A lineage's uuid.
pub type Lineage = u128;

/// Who wrote each block, in the order of seqs.
pub type BlockHistory = Vec<Vec<(Seq, u64)>>;

pub struct Branch {
    pub parent: Option<Lineage>,
    /// How many forces it took to get here, those of others that a donor had met included: who is deeper goes on,
    /// whatever the epochs.
    pub depth: u64,
    /// When the new lineage began: from then on nothing of the old one is owed here.
    pub forked_at: u64,
    /// The one order, as it is applied anywhere first.
    pub order: BTreeMap<Seq, RecordHash>,
    pub block_history: BlockHistory,
    /// What the donor had beyond what it had applied, and the requests in it.
    pub tail: BTreeMap<Seq, (RecordHash, Option<u64>)>,
    /// Requests of the lineages before it that it goes on from, and where in the order they are.
    pub kept: BTreeMap<u64, Seq>,
    pub newest_epoch: Epoch,
    /// Who must be in it before anything is served.
    pub named: Vec<(MemberId, Incarnation)>,
    /// A device was open in it.
    pub served: bool,
    /// With what each member has entered, and still has of it.
    entered: BTreeMap<MemberId, Kept>,
    /// The newest that was applied in it.
    shown: Seq,
}

impl Branch {
    /// Is this record in it, or in what its donor had?
    pub fn goes_on_from(&self, seq: Seq, hash: RecordHash) -> bool {
        self.order.get(&seq).or(self.tail.get(&seq).map(|(hash, _)| hash)) == Some(&hash)
    }

    pub fn root() -> Branch {
        Branch {
            parent: None,
            depth: 1,
            forked_at: 0,
            order: BTreeMap::new(),
            block_history: vec![Vec::new(); VOLUME_BLOCKS as usize],
            tail: BTreeMap::new(),
            kept: BTreeMap::new(),
            newest_epoch: Epoch::ZERO,
            named: Vec::new(),
            served: false,
            entered: BTreeMap::new(),
            shown: Seq::ZERO,
        }
    }

    /// A record was applied that nobody had applied here before.
    pub fn shows(&mut self, seq: Seq) {
        self.shown = self.shown.max(seq);
    }

    /// What nobody who entered has any more is no part of it, unless it has been applied. Says which requests were in it.
    fn shrink(&mut self) -> Vec<u64> {
        let held = |seq: Seq, hash: RecordHash| {
            let has = |kept: &Kept| seq <= kept.image || kept.tail.iter().any(|(at, h, _)| (*at, *h) == (seq, hash));
            seq <= self.shown || self.entered.values().any(has)
        };
        let gone = self.tail.iter().find(|(seq, (hash, _))| !held(**seq, *hash)).map(|(seq, _)| *seq);
        let Some(from) = gone else { return Vec::new() };
        self.order.split_off(&from);
        self.block_history.iter_mut().for_each(|history| history.retain(|(seq, _)| *seq < from));
        self.drop_tail(from)
    }

    /// Who wrote the block last, up to a seq.
    pub fn cell(&self, block: usize, upto: Seq) -> Cell {
        let history = &self.block_history[block];
        match history.partition_point(|(seq, _)| *seq <= upto) {
            0 => Cell::default(),
            n => Cell { seq: history[n - 1].0, stamp: history[n - 1].1 },
        }
    }

    /// Requests whose records are in the order up to `upto`.
    pub fn requests(&self, upto: Seq) -> BTreeMap<u64, Seq> {
        let applied = self.block_history.iter().flatten().map(|(seq, stamp)| (*stamp, *seq));
        let kept = self.kept.iter().map(|(request, seq)| (*request, *seq));
        applied.chain(kept).filter(|(_, seq)| *seq <= upto).collect()
    }

    /// Another record is applied where the donor had one that nobody acknowledged: so what followed is gone as well.
    /// Says which requests were in it.
    pub fn drop_tail(&mut self, from: Seq) -> Vec<u64> {
        let gone: Vec<u64> = self.tail.split_off(&from).into_values().filter_map(|(_, request)| request).collect();
        for request in &gone {
            self.kept.remove(request);
        }
        gone
    }
}

/// What a donor goes on from: its image up to here, and the records after it, each with the request that it carries.
#[derive(Clone)]
pub struct Kept {
    pub image: Seq,
    pub tail: Vec<(Seq, RecordHash, Option<u64>)>,
}

/// What was on the disks of those named when a force was asked for.
pub struct Claim {
    pub lineage: Lineage,
    pub asked_at: u64,
    pub held: Vec<(MemberId, Incarnation, BTreeSet<u64>)>,
}

pub struct Branches {
    by_lineage: BTreeMap<Lineage, Branch>,
    claims: BTreeMap<Lineage, Claim>,
    /// The deepest lineage that a node has met, by its life, and since when.
    met: BTreeMap<(MemberId, u32), (u64, u64)>,
}

impl Branches {
    pub fn beginning_with(lineage: Lineage) -> Branches {
        let by_lineage = BTreeMap::from([(lineage, Branch::root())]);
        Branches { by_lineage, claims: BTreeMap::new(), met: BTreeMap::new() }
    }

    pub fn of(&mut self, lineage: Lineage) -> &mut Branch {
        self.by_lineage.entry(lineage).or_insert_with(Branch::root)
    }

    pub fn get(&self, lineage: Lineage) -> Option<&Branch> {
        self.by_lineage.get(&lineage)
    }

    pub fn all(&self) -> impl Iterator<Item = (Lineage, &Branch)> {
        self.by_lineage.iter().map(|(lineage, branch)| (*lineage, branch))
    }

    pub fn depth(&self, lineage: Lineage) -> u64 {
        self.get(lineage).map_or(0, |branch| branch.depth)
    }

    pub fn asked(&mut self, uuid: Lineage, claim: Claim) {
        self.claims.insert(uuid, claim);
    }

    pub fn claim(&self, uuid: Lineage) -> Option<&Claim> {
        self.claims.get(&uuid)
    }

    /// A new lineage begins at `kept`. It must be above whatever its donor has met for long; of what was met just now the
    /// donor may not have known.
    pub fn fork(
        &mut self,
        donor: (MemberId, u32),
        (from, LineageId { generation, uuid: to }): (Lineage, LineageId),
        kept: Kept,
        named: Vec<(MemberId, Incarnation)>,
        now: u64,
    ) -> Verdict {
        let Some(parent) = self.by_lineage.get(&from) else { return Ok(()) };
        let upto = |history: &Vec<(Seq, u64)>| history.iter().copied().filter(|(seq, _)| *seq <= kept.image).collect();
        let mut requests = parent.requests(kept.image);
        requests.extend(kept.tail.iter().filter_map(|(seq, _, request)| Some(((*request)?, *seq))));
        let entered = BTreeMap::from([(donor.0, kept.clone())]);
        let branch = Branch {
            parent: Some(from),
            depth: (parent.depth + 1).max(generation),
            forked_at: now,
            order: parent.order.range(..=kept.image).map(|(seq, hash)| (*seq, *hash)).collect(),
            block_history: parent.block_history.iter().map(upto).collect(),
            tail: kept.tail.into_iter().map(|(seq, hash, request)| (seq, (hash, request))).collect(),
            kept: requests,
            newest_epoch: Epoch::ZERO,
            named,
            served: false,
            entered,
            shown: Seq::ZERO,
        };
        let depth = branch.depth;
        self.by_lineage.insert(to, branch);
        self.inherit(to);
        match self.met.get(&donor) {
            Some((met, since)) if *met >= depth && now - since >= KNOWN_US => {
                wrong("fork", format!("{} begins a lineage that is not above one that it has met", donor.0))
            }
            _ => Ok(()),
        }
    }

    /// Whoever enters before anything was served there may have more than the donor: the log goes on from the best.
    pub fn enters(&mut self, id: MemberId, lineage: Lineage, with: Kept) {
        let Some(branch) = self.by_lineage.get_mut(&lineage).filter(|branch| !branch.served) else { return };
        branch.entered.insert(id, with.clone());
        self.widen(lineage, with);
        self.inherit(lineage);
    }

    /// A member has cut its log, or lost the end of it on the way to its disk. Says which requests nobody in a lineage
    /// that was about to begin has any more.
    pub fn lets_go(&mut self, id: MemberId, after: Seq) -> Vec<(Lineage, Vec<u64>)> {
        let mut gone = Vec::new();
        for (lineage, branch) in self.by_lineage.iter_mut().filter(|(_, branch)| !branch.served) {
            let Some(kept) = branch.entered.get_mut(&id) else { continue };
            kept.image = kept.image.min(after);
            kept.tail.retain(|(seq, _, _)| *seq <= after);
            gone.push((*lineage, branch.shrink()));
        }
        gone
    }

    fn widen(&mut self, lineage: Lineage, with: Kept) {
        let Some(branch) = self.get(lineage).filter(|branch| !branch.served) else { return };
        let Some(parent) = branch.parent.and_then(|parent| self.get(parent)) else { return };
        let ours = |seq: &Seq| branch.tail.get(seq).map(|(hash, _)| *hash);
        let theirs = |seq: &Seq| with.tail.iter().find(|(at, _, _)| at == seq).map(|(_, hash, _)| *hash);
        let goes_on = branch.tail.keys().all(|seq| match *seq <= with.image {
            true => parent.order.get(seq).copied() == ours(seq),
            false => theirs(seq) == ours(seq),
        });
        let last = branch.tail.keys().chain(branch.order.keys()).max().copied().unwrap_or_default();
        // What it shows already must be in somebody's log there: else it has followed a log that is not its own.
        if !goes_on || with.image > last {
            return;
        }
        let branch = self.of(lineage);
        for (seq, hash, request) in with.tail.into_iter().filter(|(seq, _, _)| *seq > last) {
            branch.tail.insert(seq, (hash, request));
            branch.kept.extend(request.map(|request| (request, seq)));
        }
    }

    /// Whoever comes in later may show more than the donor did, of what the donor had.
    pub fn inherit(&mut self, lineage: Lineage) {
        let Some(branch) = self.get(lineage) else { return };
        let Some(parent) = branch.parent.and_then(|parent| self.get(parent)) else { return };
        let same = |(seq, (hash, _)): &(&Seq, &(RecordHash, Option<u64>))| parent.order.get(seq) == Some(hash);
        let shown: Vec<(Seq, RecordHash)> =
            branch.tail.iter().take_while(same).map(|(seq, (hash, _))| (*seq, *hash)).collect();
        let missing = |(seq, _): &&(Seq, RecordHash)| !branch.order.contains_key(seq);
        let Some((from, _)) = shown.iter().find(missing).copied() else { return };
        let Some((upto, _)) = shown.last().copied() else { return };
        let within = |history: &Vec<(Seq, u64)>| -> Vec<(Seq, u64)> {
            history.iter().copied().filter(|(seq, _)| (from..=upto).contains(seq)).collect()
        };
        let blocks: Vec<Vec<(Seq, u64)>> = parent.block_history.iter().map(within).collect();
        let branch = self.of(lineage);
        branch.order.extend(shown.into_iter().filter(|(seq, _)| *seq >= from));
        for (history, more) in branch.block_history.iter_mut().zip(blocks) {
            history.extend(more);
            history.sort_unstable();
            history.dedup();
        }
    }

    /// Up to when what happened in `lineage` counts in `branch`: always in its own; in one that went on from it, until
    /// that began. `None`: never.
    pub fn counts_until(&self, branch: Lineage, lineage: Lineage) -> Option<u64> {
        let (mut at, mut until) = (branch, u64::MAX);
        while at != lineage {
            let here = self.get(at)?;
            until = here.forked_at;
            at = here.parent?;
        }
        Some(until)
    }

    /// A node was spoken to in another lineage than its own.
    pub fn meets(&mut self, node: (MemberId, u32), other: Lineage, now: u64) {
        let depth = self.depth(other);
        let met = self.met.entry(node).or_insert((depth, now));
        if depth > met.0 {
            *met = (depth, now);
        }
    }

    /// The node falls: what it has known for long it still knows afterwards.
    pub fn falls(&mut self, (node, life): (MemberId, u32), now: u64) {
        if let Some((depth, since)) = self.met.get(&(node, life)).copied()
            && now - since >= REMEMBERED_US
        {
            self.met.insert((node, life + 1), (depth, since));
        }
    }

    /// Is `node`, in `lineage`, one that should be silent by now?
    pub fn is_fenced(&self, node: (MemberId, u32), lineage: Lineage) -> bool {
        self.met.get(&node).is_some_and(|(met, _)| *met > self.depth(lineage))
    }

    pub fn may_serve(&self, node: (MemberId, u32), lineage: Lineage, what: &str) -> Verdict {
        if self.is_fenced(node, lineage) {
            return wrong("fork", format!("{} {what} in a lineage, having met a newer one", node.0));
        }
        Ok(())
    }
}
