use std::fmt;

/// A fencing token: of two grants of one lease, the later has the higher one.
///
/// The upper half is the store's epoch, the lower counts the grants within it. It fits into a positive 64-bit integer of SQL as
/// long as the epoch is below 2³¹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fence(u64);

impl Fence {
    /// The fence of grant number `count` of `epoch`.
    #[must_use]
    pub const fn new(epoch: u32, count: u32) -> Self {
        Self((epoch as u64) << 32 | count as u64)
    }

    /// The fence of the grant after this one, made in `epoch`.
    #[must_use]
    pub const fn next(self, epoch: u32) -> Self {
        let first = Self::new(epoch, 0);
        if first.0 > self.0 {
            first
        } else {
            Self(self.0 + 1)
        }
    }

    /// The epoch in which it was granted.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl From<Fence> for u64 {
    fn from(fence: Fence) -> Self {
        fence.0
    }
}

impl From<u64> for Fence {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fence_is_higher_and_of_the_newer_epoch() {
        assert_eq!(Fence::new(1, 4).next(1), Fence::new(1, 5));
        assert_eq!(Fence::new(1, 4).next(2), Fence::new(2, 0));
        // An old side that still counts stays below every fence of the new one, and never goes down.
        assert_eq!(Fence::new(2, 0).next(1), Fence::new(2, 1));
        assert!(Fence::new(1, u32::MAX) < Fence::new(2, 0));
        assert_eq!(Fence::from(u64::from(Fence::new(7, 9))).epoch(), 7);
    }
}
