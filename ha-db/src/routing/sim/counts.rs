//! What came of a run.

/// What came of a run.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) steps: u64,
    pub(super) writes: u64,
    pub(super) on_replicas: u64,
    pub(super) on_primary: u64,
    pub(super) without_primary: u64,
    /// Uses of a connection that was lent before the last change of the primary.
    pub(super) on_kept: u64,
    /// Uses, as those of a primary, of a connection that was made to a standby.
    pub(super) on_flipped: u64,
    pub(super) refused: u64,
    pub(super) promotions: u64,
    pub(super) ties: u64,
    pub(super) lost: u64,
    /// Losses in a split of one timeline, which no position tells.
    pub(super) split: u64,
    /// Reads that missed what their client wrote or had seen.
    pub(super) stale: u64,
    /// Reads that missed what was written before their bound.
    pub(super) late: u64,
    /// Reads of what the primary's log does not have.
    pub(super) phantom: u64,
    /// Writes to a primary that could be known to be stale or disputed.
    pub(super) astray: u64,
    /// Acknowledged writes that were gone without a word.
    pub(super) unreported: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        let all = |counts: &mut Self, other: &Self| {
            counts.steps += other.steps;
            counts.writes += other.writes;
            counts.on_replicas += other.on_replicas;
            counts.on_primary += other.on_primary;
            counts.without_primary += other.without_primary;
            counts.on_kept += other.on_kept;
            counts.on_flipped += other.on_flipped;
            counts.refused += other.refused;
            counts.promotions += other.promotions;
            counts.ties += other.ties;
            counts.lost += other.lost;
            counts.split += other.split;
            counts.stale += other.stale;
            counts.late += other.late;
            counts.phantom += other.phantom;
            counts.astray += other.astray;
            counts.unreported += other.unreported;
        };
        all(self, other);
    }
}
